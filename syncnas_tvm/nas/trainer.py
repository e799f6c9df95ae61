"""Trains one model and says how accurate it is; goes on from its checkpoint."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from syncnas_tvm.errors import CheckpointError, DataError
from syncnas_tvm.nas import checkpoint
from syncnas_tvm.nas.data import Data, Split
from syncnas_tvm.nas.settings import TrainSettings

EVALUATION_BATCH = 512
FORMAT = 2
"""Of a training's checkpoint."""
LAYOUT = torch.channels_last
"""Of a model's weights and images while it is trained: twice as fast as channels first on a CPU, and what
GPUs multiply halves in."""


@dataclass(frozen=True)
class Accuracy:
    """Shares of images whose class is the first guess, or among the first five; mean loss."""

    top1: float
    top5: float
    loss: float


@dataclass(frozen=True)
class Epoch:
    """How far a training is: reported after every epoch. ``epoch`` counts from 1."""

    epoch: int
    epochs: int
    loss: float
    val: Accuracy | None


Report = Callable[[Epoch], None]


class Trainer:
    """One training of ``model`` on ``data``, on ``device``.

    With a ``path``, everything is saved there after each epoch, and a training that was interrupted
    goes on from there: on a CPU with the same result as without the interruption. ``origin`` says what
    the model is and what it starts from. Raises CheckpointError where the file is damaged or of another
    training: of other settings, data or origin.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        settings: TrainSettings,
        *,
        path: Path | None = None,
        device: str = "cpu",
        teacher: nn.Module | None = None,
        origin: Mapping[str, str | None] | None = None,
    ) -> None:
        self.data, self.settings, self.path = data, settings, path
        self.origin = dict(origin or {})
        self.device = torch.device(device)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.model = _placed(model, self.device)
        self._trained = nn.Sequential(self.model)
        self.teacher = _placed(teacher, self.device).eval() if teacher is not None else None
        self.steps = data.count("train") // min(settings.batch, data.count("train"))
        if self.steps == 0:
            raise DataError("there are no training images")
        self.averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
        # Batch norms and biases are not decayed.
        groups = _decayed(model, settings.weight_decay)
        self.optimizer = torch.optim.SGD(
            groups, settings.scaled_learning_rate, momentum=settings.momentum, nesterov=True
        )
        self.scheduler = _schedule(self.optimizer, settings, self.steps)
        self.half = self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half)
        self.epoch = 0
        if path is not None and path.exists():
            self._load(path)
        if self.half:
            batch = min(settings.batch, data.count("train"))
            self._capture(torch.zeros(batch, data.channels, data.size, data.size))

    @property
    def best_weights(self) -> nn.Module:
        """The model to use: with averaged weights, where the settings ask for them."""
        return self.averaged.module if self.settings.ema else self.model

    def run(self, report: Report | None = None, *, val_every: int = 1) -> Accuracy:
        """Train to the end; returns the accuracy on the validation images.

        It is found out at the end, and where there is a ``report`` every ``val_every`` epochs.
        """
        val = None
        while self.epoch < self.settings.epochs:
            loss = self._train_epoch()
            self.epoch += 1
            last = self.epoch == self.settings.epochs
            wanted = last or (report is not None and self.epoch % val_every == 0)
            val = self.evaluate("val") if wanted else None
            if self.path is not None:
                checkpoint.save(self.path, self._state())
            if report is not None:
                report(Epoch(self.epoch, self.settings.epochs, loss, val))
        return val or self.evaluate("val")

    def evaluate(self, split: Split) -> Accuracy:
        """The accuracy of :attr:`best_weights`."""
        return accuracy(self.best_weights, self.data, split, str(self.device))

    def _train_epoch(self) -> float:
        """One pass over the training images; returns the mean loss."""
        settings = self.settings
        torch.manual_seed(settings.seed * 7_919 + self.epoch)  # dropout
        self._trained.train()
        total = torch.zeros((), device=self.device)
        count = 0
        for x, y in self.data.batches("train", settings.batch, self.epoch, settings.seed):
            x = x.to(self.device, non_blocking=True, memory_format=LAYOUT)
            y = y.to(self.device, non_blocking=True)
            self.optimizer.zero_grad(set_to_none=True)
            with self._precision():
                loss = self._loss(x, y)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            if settings.ema:
                self.averaged.update_parameters(self.model)
            total += loss.detach()
            count += 1
        return float(total) / max(count, 1)

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        settings = self.settings
        logits = self._trained(x)
        smoothing = settings.label_smoothing
        loss = nn.functional.cross_entropy(logits, y, label_smoothing=smoothing)
        if self.teacher is None or not settings.distil:
            return loss
        with torch.no_grad():
            wanted = nn.functional.softmax(self.teacher(x) / settings.temperature, 1)
        said = nn.functional.log_softmax(logits / settings.temperature, 1)
        away = nn.functional.kl_div(said, wanted, reduction="batchmean") * settings.temperature**2
        return (1 - settings.distil) * loss + settings.distil * away

    def _capture(self, images: Tensor) -> None:
        """Make the passes of a training step, forward and backward, one CUDA graph each.

        A step has thousands of small kernels, and starting one takes longer than running it. The
        wrapper's ``forward`` is replaced; the model stays one that can be copied and evaluated.
        """
        self._trained.train()
        kept = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        images = images.to(self.device, memory_format=LAYOUT)
        with self._precision():
            torch.cuda.make_graphed_callables(self._trained, (images,))
        for buffer, value in kept:  # capturing runs the model: batch norms have seen zeros
            buffer.copy_(value)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision on a GPU; converted weights are not kept, as a graph converts its own."""
        if not self.half:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, cache_enabled=False)

    def _average(self, averaged: Any, new: Any, count: Tensor | int) -> None:
        """All tensors of one type at once; faster at first, where little has been averaged."""
        updates = int(count)
        decay = min(self.settings.ema, (1 + updates) / (10 + updates))
        get_ema_multi_avg_fn(decay)(averaged, new, count)

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "epoch": self.epoch,
            "training": self._training(),
            "model": self.model.state_dict(),
            "ema": self.averaged.module.state_dict() if self.settings.ema else {},
            "updates": int(self.averaged.n_averaged),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _training(self) -> dict[str, Any]:
        """What an interrupted training and the one that goes on have to have in common."""
        settings = self.settings.to_json()
        settings.pop("threads")
        data = {
            "images": self.data.count("train"),
            "image size": self.data.size,
            "classes": self.data.classes,
            "data": self.data.digest,
        }
        return {**self.origin, **data, **settings}

    def _load(self, path: Path) -> None:
        state = checkpoint.read(path)
        found = state.get("training")
        if not isinstance(found, dict) or state.get("format") != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} is no training's, or another version's; delete it or name another"
            )
        for key, value in self._training().items():
            if found.get(key) != value:
                raise CheckpointError(
                    f"checkpoint {path} is of a training with {key} {found.get(key)}, not {value};"
                    " delete it or name another"
                )
        try:
            self.model.load_state_dict(state["model"])
            if self.settings.ema:
                self.averaged.module.load_state_dict(state["ema"])
            self.averaged.n_averaged.fill_(state["updates"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            if state["scaler"]:  # a CPU's has no state
                self.scaler.load_state_dict(state["scaler"])
            self.epoch = int(state["epoch"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            line = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"checkpoint {path} does not fit the model ({line}); delete it or name another"
            ) from error


def accuracy(
    model: nn.Module, data: Data, split: Split, device: str = "cpu", batch: int = EVALUATION_BATCH
) -> Accuracy:
    """The model's accuracy on a split of ``data``; leaves it in evaluation mode."""
    model = _placed(model, torch.device(device)).eval()
    first = five = count = 0
    loss = 0.0
    with torch.no_grad():
        for x, y in data.batches(split, batch):
            logits, y = model(x.to(device, memory_format=LAYOUT)), y.to(device)
            guesses = logits.topk(min(5, logits.shape[1]), 1).indices == y[:, None]
            first += int(guesses[:, 0].sum())
            five += int(guesses.sum())
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            count += len(y)
    if count == 0:
        raise DataError(f"the split '{split}' has no images")
    return Accuracy(first / count, five / count, loss / count)


def _placed(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device, memory_format=LAYOUT)


def _decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> LRScheduler:
    """A linear warm-up, then cosines with warm restarts, step by step."""
    warmup = round(settings.warmup_epochs * steps)
    left = settings.epochs * steps - warmup
    cycle = round(settings.restart_epochs * steps) or max(1, left)
    cosine = CosineAnnealingWarmRestarts(optimizer, max(1, cycle))
    if warmup == 0:
        return cosine
    start = 1.0 / max(2.0, math.ceil(warmup))
    linear = LinearLR(optimizer, start_factor=start, total_iters=warmup)
    return SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
