"""An ImageNet-style folder: ``train/CLASS/*.JPEG`` and ``val/CLASS/*.JPEG``, through torchvision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from syncnas_tvm.errors import DataError
from syncnas_tvm.nas.data import Batch, Data, DataOptions, Split
from syncnas_tvm.nas.digest import digest_of

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageNet(Data):
    """``val`` is held out of ``train/``; ``test`` is the folder ``val/``, which has labels.

    Evaluation as in SyncNAS's readme: resize to 256, cut out the middle 224, normalise (in proportion
    at other sizes). Training: random crops and mirrors. Raises DataError where folders are missing or
    torchvision cannot be imported.
    """

    channels = 3

    def __init__(self, folder: Path, options: DataOptions) -> None:
        vision = import_torchvision()
        self.size, self._options = options.size or 224, options
        self.stem_stride = options.stem_stride
        transforms = vision.transforms
        normalise = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
        resize = transforms.Resize(round(self.size * 256 / 224))
        middle = [resize, transforms.CenterCrop(self.size), *normalise]
        crops = [
            transforms.RandomResizedCrop(self.size),
            transforms.RandomHorizontalFlip(),
            *normalise,
        ]
        self._sets: dict[Split, Any] = {}
        self.classes = 0
        if (folder / "train").is_dir():
            train, plain = (
                self._folder(vision, folder / "train", steps) for steps in (crops, middle)
            )
            held_out, rest = self._hold_out(train)
            self._sets |= {"train": Subset(train, rest), "val": Subset(plain, held_out)}
        test = folder / "val" if (folder / "val").is_dir() else folder
        if test != folder or not self._sets:
            found = self._folder(vision, test, middle)
            if self._sets and found.classes != train.classes:
                raise DataError(f"{test} has other classes than {folder / 'train'}")
            keep = self._of_classes(found)
            self._sets["test"] = Subset(found, keep)

    @cached_property
    def digest(self) -> str:
        """See :attr:`Data.digest`: of the images' classes and names, not of what is in them.

        Of 1.3 million images it takes two seconds.
        """
        train = self._set("train")
        chosen = (train.dataset.samples[i] for i in train.indices)
        return digest_of(*((os.path.basename(path), label) for path, label in chosen))

    def count(self, split: Split) -> int:
        """See :meth:`Data.count`."""
        return len(self._set(split))

    def batches(self, split: Split, batch: int, epoch: int = 0, seed: int = 0) -> Iterator[Batch]:
        """See :meth:`Data.batches`."""
        training = split == "train"
        yield from DataLoader(
            self._set(split),
            min(batch, self.count(split)) or 1,
            shuffle=training,
            drop_last=training,
            num_workers=self._options.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(seed * 100_003 + epoch),
        )

    def _set(self, split: Split) -> Any:
        if split not in self._sets:
            raise DataError(
                f"the ImageNet folder has no images for '{split}'; it needs train/ and val/"
            )
        return self._sets[split]

    def _folder(self, vision: ModuleType, path: Path, steps: list[Any]) -> Any:
        try:
            found = vision.datasets.ImageFolder(str(path), vision.transforms.Compose(steps))
        except (FileNotFoundError, OSError) as error:
            raise DataError(f"{path} is not a folder with a folder of images per class") from error
        self.classes = min(len(found.classes), self._options.classes or len(found.classes))
        return found

    def _of_classes(self, found: Any) -> list[int]:
        return [i for i, label in enumerate(found.targets) if label < self.classes]

    def _hold_out(self, train: Any) -> tuple[list[int], list[int]]:
        keep = self._of_classes(train)
        generator = torch.Generator().manual_seed(20230617)
        order = [keep[i] for i in torch.randperm(len(keep), generator=generator).tolist()]
        held_out = max(1, int(len(order) * self._options.val_share))
        rest = order[held_out:]
        return order[:held_out], rest[: self._options.images or len(rest)]


def import_torchvision() -> ModuleType:
    """torchvision, or DataError saying how to get one that fits the installed torch."""
    try:
        import torchvision
        import torchvision.datasets
        import torchvision.transforms
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"ImageNet folders are read by torchvision, which does not import beside torch"
            f" {torch.__version__} ({error}); install the pair that belongs together:"
            " pip install 'syncnas-tvm[imagenet]'"
        ) from error
    found: ModuleType = torchvision
    return found
