"""The data sets: splits of labelled images, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from syncnas_tvm.errors import DataError, InputError
from syncnas_tvm.nas.digest import digest_of

Split = Literal["train", "val", "test"]
Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W), normalised float32, and their classes (N), int64."""
NAMES = ("fashion-mnist", "digits", "imagenet")


class Data(ABC):
    """A data set. ``val`` is held out of the training images; ``test`` is for the very end."""

    classes: int
    channels: int
    size: int
    stem_stride: int | None = None
    """What suits the images; None is the models' own."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Tells the training images from others. Computed once: every checkpoint has it."""

    @abstractmethod
    def count(self, split: Split) -> int:
        """How many images the split has."""

    @abstractmethod
    def batches(self, split: Split, batch: int, epoch: int = 0, seed: int = 0) -> Iterator[Batch]:
        """The split's batches; training images are shuffled and augmented by seed and epoch.

        An incomplete last batch of training images is left out, of others it is not.
        """


@dataclass(frozen=True)
class DataSpec:
    """A data set by name, as on the command line: ``NAME`` or ``NAME:PATH``."""

    name: str
    path: Path | None = None

    @staticmethod
    def parse(text: str) -> DataSpec:
        """Raises InputError naming the data sets that there are."""
        name, _, path = text.partition(":")
        if name not in NAMES:
            raise InputError(f"--data {text}: unknown data set; take one of {', '.join(NAMES)}")
        if name == "imagenet" and not path:
            raise InputError("--data imagenet needs its folder: imagenet:/path/to/imagenet")
        return DataSpec(name, Path(path) if path else None)

    def __str__(self) -> str:
        return self.name if self.path is None else f"{self.name}:{self.path}"

    def load(self, options: DataOptions | None = None) -> Data:
        """The data set; raises DataError where it is not there or damaged."""
        options = options or DataOptions()
        if self.name == "digits":
            from syncnas_tvm.nas.digits import digits

            return digits(options)
        if self.name == "fashion-mnist":
            from syncnas_tvm.nas.fashion_mnist import fashion_mnist

            return fashion_mnist(self.path, options)
        from syncnas_tvm.nas.imagenet import ImageNet

        assert self.path is not None
        return ImageNet(self.path, options)


@dataclass(frozen=True)
class DataOptions:
    """What makes a proxy of a data set: smaller images, some of the classes, some of the images.

    None takes all there is; ``stem_stride`` is that of the models, 1 for small images. ``val_share`` of
    the training images are held out for validation, the same ones whatever the training's seed.
    """

    size: int | None = None
    classes: int | None = None
    images: int | None = None
    stem_stride: int | None = None
    val_share: float = 0.1
    workers: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise InputError(f"validation share {self.val_share:g} is not between 0 and 1")
        for name, value in (
            ("size", self.size),
            ("classes", self.classes),
            ("images", self.images),
        ):
            if value is not None and value < 2:
                raise InputError(f"--{name} {value} is too small")


class ImageTensors(Data):
    """Small data sets: all images are in memory as uint8 tensors (N, C, H, W).

    Augmentation is a random shift by up to ``shift`` pixels and, where ``flip``, a random mirror.
    """

    def __init__(
        self,
        train: Batch,
        test: Batch,
        options: DataOptions,
        *,
        shift: int,
        flip: bool,
        stem_stride: int = 1,
    ) -> None:
        if options.classes is not None:
            train, test = (_some(part, options.classes) for part in (train, test))
        order = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(20230617))
        held_out = max(1, int(len(order) * options.val_share))
        rest = order[held_out:]
        if options.images is not None:
            rest = rest[: options.images]
        self._splits: dict[str, Batch] = {
            "train": (train[0][rest], train[1][rest]),
            "val": (train[0][order[:held_out]], train[1][order[:held_out]]),
            "test": test,
        }
        pixels = self._splits["train"][0].float()
        self._mean = pixels.mean((0, 2, 3), keepdim=True)
        self._std = pixels.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
        self._shift, self._flip = shift, flip
        self.classes = int(train[1].max()) + 1
        self.channels = train[0].shape[1]
        self.size = options.size or train[0].shape[-1]
        self.stem_stride = options.stem_stride or stem_stride

    @cached_property
    def digest(self) -> str:
        """See :attr:`Data.digest`."""
        return digest_of(*self._splits["train"])

    def count(self, split: Split) -> int:
        """See :meth:`Data.count`."""
        return len(self._splits[split][1])

    def batches(self, split: Split, batch: int, epoch: int = 0, seed: int = 0) -> Iterator[Batch]:
        """See :meth:`Data.batches`."""
        images, labels = self._splits[split]
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        training = split == "train"
        count = len(labels)
        order = torch.randperm(count, generator=generator) if training else torch.arange(count)
        batch = min(batch, count)
        for start in range(0, count - batch + 1 if training else count, batch):
            chosen = order[start : start + batch]
            x = (images[chosen].float() - self._mean) / self._std
            if training:
                x = self._augment(x, generator)
            if x.shape[-1] != self.size:
                x = torch.nn.functional.interpolate(
                    x, size=(self.size, self.size), mode="bilinear", antialias=True
                )
            yield x, labels[chosen]

    def _augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if self._flip:
            mirrored = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        if self._shift:
            dy, dx = torch.randint(-self._shift, self._shift + 1, (2, len(x)), generator=generator)
            rows = (torch.arange(x.shape[2]) + dy[:, None]).clamp(0, x.shape[2] - 1)
            columns = (torch.arange(x.shape[3]) + dx[:, None]).clamp(0, x.shape[3] - 1)
            at = torch.arange(len(x))[:, None, None]
            x = x.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return x.contiguous()


def _some(part: Batch, classes: int) -> Batch:
    if int(part[1].max()) + 1 < classes:
        raise DataError(f"the data set has no {classes} classes; ask for fewer")
    keep = part[1] < classes
    return part[0][keep], part[1][keep]
