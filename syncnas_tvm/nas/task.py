"""What a search is of: base, target, budget, data, recipe; and how one strategy is evaluated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from syncnas_tvm.cost_models import CostModel, cost_model_of, read_tophub
from syncnas_tvm.nas import checkpoint
from syncnas_tvm.nas.allocate import CAP, Allocation, Allocator
from syncnas_tvm.nas.branched import BranchedConfig
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import config_to_json, write_config
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.data import Data, DataOptions, DataSpec
from syncnas_tvm.nas.description import MULTIPLE, Network
from syncnas_tvm.nas.inherit import inherit
from syncnas_tvm.nas.model import Mobile
from syncnas_tvm.nas.names import load_named
from syncnas_tvm.nas.settings import TrainSettings
from syncnas_tvm.nas.strategy import SyncStrategy
from syncnas_tvm.nas.trainer import Report, Trainer
from syncnas_tvm.nas.worker import Outcome
from syncnas_tvm.nas.zoo import network
from syncnas_tvm.targets import Target, load_target


@dataclass(frozen=True)
class BaseWeights:
    """A checkpoint of the base network, in our own names or another library's."""

    path: Path
    scheme: str = "own"


@dataclass(frozen=True)
class SearchTask:
    """Everything that decides what a strategy's reward is.

    Widths are determined for images of 224 pixels at width 1, whatever is trained: ``width`` scales
    the trained model (to channels that are multiples of ``multiple``), and ``options.size`` its images,
    with the same ratios to the base.
    """

    base: str
    target: str
    budget: float
    data: DataSpec
    options: DataOptions
    settings: TrainSettings
    width: float = 1.0
    multiple: int = MULTIPLE
    step: int = 4
    cap: float = CAP
    measurements: tuple[Path, ...] = ()
    weights: BaseWeights | None = None
    folder: Path | None = field(default=None, compare=False)
    device: str = field(default="cpu", compare=False)

    def to_json(self) -> dict[str, Any]:
        """What two workers of one search have to agree on."""
        settings = self.settings.to_json()
        settings.pop("threads")
        options = asdict(self.options)
        options.pop("workers")
        return {
            "base": self.base,
            "target": self.target,
            "budget": self.budget,
            "data": self.data.name,
            "width": self.width,
            "multiple": self.multiple,
            "step": self.step,
            "cap": self.cap,
            "measurements": [path.name for path in self.measurements],
            "inherits": self.weights is not None,
            **{f"data {key}": value for key, value in options.items()},
            **{f"training {key}": value for key, value in settings.items()},
        }

    @cached_property
    def network(self) -> Network:
        """The base network at width 1."""
        return network(self.base)

    @cached_property
    def allocator(self) -> Allocator:
        """Determines the widths."""
        target = load_target(self.target)
        model = cost_model(target, self.measurements)
        return Allocator(self.network, target, model, step=self.step, cap=self.cap)

    @cached_property
    def images(self) -> Data:
        """The data set."""
        return self.data.load(self.options)

    def trained(self, config: BranchedConfig) -> BranchedConfig:
        """The configuration that is trained in the place of ``config``."""
        data = self.images
        return config.scaled(self.network, self.width, data.size, data.stem_stride, self.multiple)

    def base_model(self) -> Mobile:
        """The base network as it is trained, with its weights where there are some."""
        small, data = self.network.scaled(self.width, self.multiple), self.images
        model = Mobile(
            small,
            data.classes,
            inputs=data.channels,
            stem_stride=data.stem_stride,
            dropout=self.settings.dropout,
        )
        if self.weights is not None and self.weights.scheme == "own":
            checkpoint.load_weights(model, self.weights.path)
        elif self.weights is not None:
            state = checkpoint.weights_of(checkpoint.read(self.weights.path))
            load_named(model, small, state, self.weights.scheme)
        return model

    def branched_model(self, config: BranchedConfig) -> BranchedModel:
        """A fresh model of ``config``, scaled; it starts from the base's weights where there are some."""
        torch.manual_seed(self.settings.seed)
        data = self.images
        model = BranchedModel(
            self.trained(config), data.classes, inputs=data.channels, dropout=self.settings.dropout
        )
        if self.weights is not None:
            inherit(model, self.base_model())
        return model

    def evaluate(self, strategy: SyncStrategy, report: Report | None = None) -> Outcome:
        """Determine the widths, train, and return the validation accuracy; 0 where nothing fits.

        A checkpoint is kept while the training goes on, so that whoever retries the strategy goes on
        from there.
        """
        started = time.monotonic()
        found = self.allocator.allocate(strategy, self.budget)
        facts = allocation_facts(found) | {"base_us": self.allocator.base_us}
        if found.config is None:
            return Outcome(0.0, facts)
        model = self.branched_model(found.config)
        path = None if self.folder is None else self.folder / "training" / f"{strategy}.pth"
        teacher = self.base_model() if self.settings.distil and self.weights else None
        trainer = Trainer(
            model, self.images, self.settings, path=path, device=self.device, teacher=teacher
        )
        accuracy = trainer.run(report, val_every=max(1, self.settings.epochs // 10))
        if self.folder is not None:
            write_config(found.config, self.folder / "configs" / f"{strategy}.json")
            weights = trainer.best_weights.state_dict()
            checkpoint.save(self.folder / "weights" / f"{strategy}.pth", weights)
        if path is not None:
            path.unlink(missing_ok=True)
        facts |= {
            "top5": accuracy.top5,
            "trained_macs": count(model, self.images.size, self.images.channels).macs,
            "seconds": time.monotonic() - started,
        }
        return Outcome(accuracy.top1, facts)


def allocation_facts(found: Allocation) -> dict[str, Any]:
    """What the study keeps of an allocation."""
    facts: dict[str, Any] = {
        "feasible": found.feasible,
        "latency_us": found.latency_us,
        "budget_us": found.budget_us,
        "idle_share": found.idle_share,
    }
    if found.config is not None:
        counts = count(BranchedModel(found.config))
        facts |= {"macs": counts.macs, "parameters": counts.parameters}
        facts["config"] = config_to_json(found.config)
    return facts


def cost_model(target: Target, measurements: Sequence[Path] = ()) -> CostModel:
    """TopHub's logs where some are given, else what ``compile`` predicts the target with: its learned
    models; its roofline where it has none (``host``, whose kernels ``compile`` measures)."""
    return read_tophub(measurements, target) if measurements else cost_model_of(target)
