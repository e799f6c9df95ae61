"""Builds what a command line names: a network of the zoo or a branched configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import read_config
from syncnas_tvm.nas.data import Data
from syncnas_tvm.nas.description import MULTIPLE, STEM_STRIDE
from syncnas_tvm.nas.model import Mobile, build
from syncnas_tvm.nas.weights import Weights

SIZE, CHANNELS, CLASSES = 224, 3, 1000
"""What networks of the zoo are described with: ImageNet's."""


@dataclass(frozen=True)
class Shape:
    """What goes in and what comes out: pixels, channels, classes; the stem's stride.

    None stands for what the weights are of, else for what the model is described with.
    """

    size: int | None = None
    channels: int | None = None
    classes: int | None = None
    stem_stride: int | None = None

    @staticmethod
    def of(data: Data) -> Shape:
        """That of a data set."""
        return Shape(data.size, data.channels, data.classes, data.stem_stride)


@dataclass(frozen=True)
class Loaded:
    """A model, and the images that it takes: pixels along an edge, and channels."""

    model: Mobile | BranchedModel
    size: int
    channels: int


def load(
    base: str | None,
    config: Path | None,
    width: float,
    shape: Shape,
    multiple: int = MULTIPLE,
    weights: Weights | None = None,
) -> Loaded:
    """The named model, scaled, with its ``weights`` where there are some.

    Raises InputError where neither a network nor a configuration is named, or both.
    """
    if (base is None) == (config is None):
        raise InputError("give either --base-model NAME or a configuration")
    classes, channels = shape.classes, shape.channels
    if weights is not None:
        classes = classes or weights.classes(base)
        channels = channels or weights.channels(base)
    classes = classes or CLASSES
    model: Mobile | BranchedModel
    if base is not None:
        size, channels = shape.size or SIZE, channels or CHANNELS
        stride = shape.stem_stride or STEM_STRIDE
        model = build(base, width, classes, inputs=channels, stem_stride=stride, multiple=multiple)
    else:
        assert config is not None
        found = read_config(config)
        size, channels = shape.size or found.size, channels or found.stem.inputs
        scaled = found.scaled(width, size, shape.stem_stride, multiple)
        model = BranchedModel(scaled, classes, inputs=channels)
    if weights is not None:
        weights.load(model)
    return Loaded(model, size, channels)
