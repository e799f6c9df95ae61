"""ImageNet-style folders, with a stand-in for torchvision: none imports beside the torch of the tests."""

import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from nas_models import little_config

from syncnas_tvm.errors import DataError
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.data import DataOptions, DataSpec
from syncnas_tvm.nas.imagenet import DEVIATION, MEAN
from syncnas_tvm.nas.settings import TrainSettings
from syncnas_tvm.nas.trainer import Trainer


class Folder:
    """What is used of torchvision's ImageFolder; an image is its number, as large as it is cut out."""

    def __init__(self, root, steps):
        folders = sorted(Path(root).iterdir())
        self.classes, self.steps = [f.name for f in folders], steps
        self.samples = [(str(p), i) for i, f in enumerate(folders) for p in sorted(f.iterdir())]
        self.targets = [label for _, label in self.samples]

    def __getitem__(self, index):
        size = next(step[1] for step in self.steps if step[0].endswith("Crop"))
        return torch.full((3, size, size), index / len(self.samples)), self.targets[index]


STEPS = (
    "Resize",
    "CenterCrop",
    "ToTensor",
    "Normalize",
    "RandomResizedCrop",
    "RandomHorizontalFlip",
)


def step(name, *arguments):
    return name, *arguments


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten classes of 7 images to train with and 2 to test with."""
    vision = ModuleType("torchvision")
    vision.datasets = SimpleNamespace(ImageFolder=Folder)
    vision.transforms = SimpleNamespace(Compose=list, **{s: partial(step, s) for s in STEPS})
    for name in ("", ".datasets", ".transforms"):
        monkeypatch.setitem(sys.modules, f"torchvision{name}", vision)
    for split, count in ("train", 7), ("val", 2):
        for label in range(10):
            (tmp_path / split / f"n{label}").mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / f"n{label}" / f"{split}_{label}_{number}.JPEG").touch()
    return tmp_path


def load(folder, **options):
    return DataSpec.parse(f"imagenet:{folder}").load(DataOptions(workers=0, **options))


def test_splits_and_what_is_done_to_images(folder):
    data = load(folder, size=56, classes=8)
    assert [data.count(s) for s in ("train", "val", "test")] == [51, 5, 16]
    assert (data.classes, data.channels, data.size, data.stem_stride) == (8, 3, 56, None)
    normalised = [("ToTensor",), ("Normalize", MEAN, DEVIATION)]
    middle = [("Resize", 64), ("CenterCrop", 56), *normalised]
    crops = [("RandomResizedCrop", 56), ("RandomHorizontalFlip",), *normalised]
    for split, steps in ("train", crops), ("val", middle), ("test", middle):
        assert data._sets[split].dataset.steps == steps
    assert not set(data._sets["train"].indices) & set(data._sets["val"].indices)
    first, again, other = (next(data.batches("train", 20, epoch=e))[1] for e in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert data.digest == load(folder, size=32, classes=8).digest != load(folder).digest
    # Computed once: of a million images it takes seconds, and every checkpoint has it.
    assert data.digest is data.digest


def test_fewer_images_than_a_batch_are_trained_on(folder):
    data = load(folder, size=32, images=60)
    assert [len(y) for _, y in data.batches("train", 256)] == [60]
    assert [len(y) for _, y in data.batches("test", 256)] == [20]
    model = BranchedModel(little_config().scaled(0.1), data.classes)
    before = model.classifier[1].weight.clone()
    settings = TrainSettings(epochs=1, batch=256, warmup_epochs=0, ema=0)
    losses = []
    Trainer(model, data, settings).run(lambda epoch: losses.append(epoch.loss))
    assert losses[0] > 1
    assert not torch.equal(model.classifier[1].weight, before)


def test_a_folder_to_evaluate_alone(folder):
    data = load(folder / "val", size=32)
    assert data.count("test") == 20
    with pytest.raises(DataError, match="has no images for 'train'; it needs train/ and val/"):
        data.count("train")


def test_training_and_test_images_of_other_classes(folder):
    (folder / "val" / "n3").rename(folder / "val" / "n30")
    with pytest.raises(DataError, match=r"val has other classes than .*train"):
        load(folder)
