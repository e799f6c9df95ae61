"""What a mobile network consists of, as plain data: stem, stages of MBConv blocks, head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from syncnas_tvm.errors import InputError

Rounding = Literal["eights", "nearest"]
HeadScales = Literal["never", "above", "always"]
Base = Literal["inputs", "expanded"]

STEM_STRIDE = 2
"""Of the networks as published."""
WIDTHS = (0.05, 8.0)
"""The narrowest and the widest that a network is scaled to."""
MULTIPLE = 2
"""What channels of trained stand-ins are multiples of: narrow ones keep the proportions."""


@dataclass(frozen=True)
class Block:
    """An MBConv block: expand (1x1), depthwise, squeeze-and-excite, project (1x1).

    ``expand`` and ``out`` are channels. Several ``kernels`` are a mixed depthwise convolution (Tan
    and Le, BMVC 2019): the channels are shared among them. ``se`` is a ratio, 0 for none; the network
    says of what. ``expand_conv`` forces the first convolution although it does not change the number
    of channels (FBNet). ``expand_groups`` and ``project_groups`` cut those convolutions into as many.
    """

    expand: int
    out: int
    stride: int = 1
    kernels: tuple[int, ...] = (3,)
    act: str = "relu"
    se: float = 0.0
    expand_conv: bool = False
    expand_groups: int = 1
    project_groups: int = 1


@dataclass(frozen=True)
class BlockShape:
    """A block at its place: pixels along an edge of its input, channels, and what follows.

    ``squeezed`` are the channels inside squeeze-and-excite, 0 where there is none. ``residual`` adds
    the input to the first ``inputs`` of the output's channels.
    """

    block: Block
    size: int
    inputs: int
    squeezed: int
    residual: bool

    @property
    def expands(self) -> bool:
        """Whether there is an expand convolution."""
        return self.block.expand_conv or self.block.expand != self.inputs

    @property
    def out_size(self) -> int:
        """Pixels along an edge of the output."""
        return strided(self.size, self.block.stride)


@dataclass(frozen=True)
class Network:
    """A network of MBConv stages, as many as the paper groups them in.

    ``head`` are the channels of the last 1x1 convolution, ``hidden`` those of a dense layer before
    the classifier (0: none). ``se_base`` says what a block's ``se`` is a ratio of; ``se_act`` is the
    activation inside squeeze-and-excite ("": the block's own), ``gate`` its last one. ReXNet has a
    batch norm in there, puts ReLU6 behind it instead of an activation behind the depthwise
    convolution, and adds the residual to a part of the channels (``rexnet``). ``source`` says where
    the numbers are from.
    """

    name: str
    stem: int
    stages: tuple[tuple[Block, ...], ...]
    head: int
    act: str = "relu"
    stem_act: str = ""
    head_scales: HeadScales = "never"
    hidden: int = 0
    se_base: Base = "inputs"
    se_rounding: Rounding = "nearest"
    se_act: str = ""
    gate: str = "sigmoid"
    rexnet: bool = False
    source: str = ""

    def blocks(self) -> Iterator[Block]:
        """All blocks in order."""
        for stage in self.stages:
            yield from stage

    def shapes(
        self, size: int = 224, stem_stride: int = STEM_STRIDE
    ) -> tuple[tuple[BlockShape, ...], ...]:
        """The blocks of each stage at their places, for images of ``size`` x ``size`` pixels."""
        size, inputs = strided(size, stem_stride), self.stem
        stages = []
        for stage in self.stages:
            shapes = []
            for block in stage:
                shapes.append(
                    BlockShape(
                        block,
                        size,
                        inputs,
                        self._squeezed(block, inputs),
                        self._adds(block, inputs),
                    )
                )
                size, inputs = shapes[-1].out_size, block.out
            stages.append(tuple(shapes))
        return tuple(stages)

    def scaled(self, width: float, multiple: int = 8) -> Network:
        """The network with ``width`` times the channels, rounded as its authors round them.

        Channels are multiples of ``multiple``: eight as published; with two, a much narrower network
        still has the proportions of the whole (ReXNet has multiples of one in either case).
        ``head_scales`` says whether the head's channels are too: never, above width 1, or always.
        Raises InputError for a width out of range.
        """
        check_width(width, self.name)
        if width == 1.0:
            return self
        inputs, scaled_inputs = self.stem, self._scale(self.stem, width, multiple)
        stages = []
        for stage in self.stages:
            blocks = []
            for block in stage:
                ratio, rest = divmod(block.expand, inputs)
                expand = (
                    scaled_inputs * ratio
                    if rest == 0
                    else self._scale(block.expand, width, multiple)
                )
                out = self._scale(block.out, width, multiple)
                blocks.append(replace(block, expand=expand, out=out))
                inputs, scaled_inputs = block.out, out
            stages.append(tuple(blocks))
        scales = self.head_scales == "always" or (self.head_scales == "above" and width > 1)
        return replace(
            self,
            stem=self._scale(self.stem, width, multiple),
            stages=tuple(stages),
            head=self._scale(self.head, width, multiple) if scales else self.head,
        )

    def _scale(self, channels: int, width: float, multiple: int) -> int:
        if self.rexnet:
            return max(1, round(channels * width))
        return rounded(channels * width, multiple)

    def _squeezed(self, block: Block, inputs: int) -> int:
        if not block.se:
            return 0
        of = inputs if self.se_base == "inputs" else block.expand
        return (
            rounded(of * block.se) if self.se_rounding == "eights" else max(1, int(of * block.se))
        )

    def _adds(self, block: Block, inputs: int) -> bool:
        if block.stride != 1:
            return False
        return inputs <= block.out if self.rexnet else inputs == block.out


def check_width(width: float, name: str) -> None:
    """Raise InputError where no model can be made of ``name`` at ``width``."""
    least, most = WIDTHS
    if not least <= width <= most:
        raise InputError(f"width {width:g} of '{name}' is not between {least:g} and {most:g}")


def strided(size: int, stride: int) -> int:
    """Pixels that a convolution with "same" padding leaves of ``size``."""
    return -(-size // stride)


def rounded(channels: float, multiple: int = 8) -> int:
    """The nearest multiple that is not more than a tenth below (MobileNetV2's code, with eight)."""
    found = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return found + multiple if found < 0.9 * channels else found


def shares(channels: int, parts: int) -> tuple[int, ...]:
    """``channels`` divided among ``parts``; what is left over goes to the first."""
    each, rest = divmod(channels, parts)
    return (each + rest, *[each] * (parts - 1))
