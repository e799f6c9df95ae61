"""Builds what a command line names: a network of the zoo or a branched configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import read_config
from syncnas_tvm.nas.data import Data
from syncnas_tvm.nas.description import MULTIPLE
from syncnas_tvm.nas.model import build
from syncnas_tvm.nas.strategy import STAGES
from syncnas_tvm.nas.zoo import network


@dataclass(frozen=True)
class Shape:
    """What goes in and what comes out: pixels, channels, classes; the stem's stride."""

    size: int = 224
    channels: int = 3
    classes: int = 1000
    stem_stride: int = 2

    @staticmethod
    def of(data: Data) -> Shape:
        """That of a data set."""
        return Shape(data.size, data.channels, data.classes, data.stem_stride)


def build_any(
    base: str | None, config: Path | None, width: float, shape: Shape, multiple: int = MULTIPLE
) -> nn.Module:
    """The named model. A configuration keeps its own widths at width 1.

    At other widths or strides it is scaled with its base, which its stem and head tell: raises
    InputError where no network of the zoo has them.
    """
    if base is not None:
        return build(
            base,
            width,
            shape.classes,
            inputs=shape.channels,
            stem_stride=shape.stem_stride,
            multiple=multiple,
        )
    assert config is not None
    found = read_config(config)
    if width != 1.0 or shape.stem_stride != found.stem.stride:
        found = found.scaled(
            network(base_of(found.signature)), width, shape.size, shape.stem_stride, multiple
        )
    return BranchedModel(found, shape.classes, inputs=shape.channels)


def base_of(signature: tuple[object, ...]) -> str:
    """The network of the zoo that a configuration was made from."""
    from syncnas_tvm.nas.branched import signature_of
    from syncnas_tvm.nas.zoo import ZOO

    for name, found in ZOO.items():
        if len(found.stages) == STAGES and signature_of(found) == signature:
            return name
    raise InputError("the configuration belongs to no network of the zoo: it cannot be scaled")
