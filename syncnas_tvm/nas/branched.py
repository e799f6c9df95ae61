"""Branched models as plain data: the configuration that SyncNAS publishes, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from syncnas_tvm.errors import ConfigError
from syncnas_tvm.nas.description import (
    MULTIPLE,
    Block,
    BlockShape,
    Network,
    check_width,
    rounded,
    strided,
)
from syncnas_tvm.nas.fitting import check

Sync = Literal["n", "a", "c"]
"""How a stage ends: its branches run on apart, are added, or are concatenated."""


@dataclass(frozen=True)
class Row:
    """A block of a branch: pixels along an edge of its input, kernel, stride and channels."""

    size: int
    kernel: int
    stride: int
    inputs: int
    expand: int
    out: int

    @property
    def out_size(self) -> int:
        """Pixels along an edge of the output."""
        return strided(self.size, self.stride)

    def shape(self, act: str) -> BlockShape:
        """The row as the torch builder and the cost model take it.

        There is an expand convolution where it changes the number of channels (as published).
        """
        block = Block(self.expand, self.out, self.stride, (self.kernel,), act)
        adds = self.stride == 1 and self.inputs == self.out
        return BlockShape(block, self.size, self.inputs, 0, adds)


@dataclass(frozen=True)
class ConvRow:
    """The stem or the head: a convolution with batch norm and activation."""

    inputs: int
    out: int
    kernel: int
    stride: int


Stage = tuple[tuple[Row, ...], tuple[Row, ...]]


@dataclass(frozen=True)
class BranchedConfig:
    """A model of two branches that meet where ``sync`` says so; checked when it is made.

    ``stages`` has the rows of both branches per stage, ``sync`` a kind per stage. A stage that ends
    without sync (``n``) hands each branch its own output; one that is added (``a``) or concatenated
    (``c``) hands both the same value, and in ``c`` each branch gives half of its channels. ``act`` is
    the activation of stem, blocks and head.

    Raises ConfigError, naming stage, branch and block, where something does not fit.
    """

    name: str
    act: str
    stem: ConvRow
    head: ConvRow
    stages: tuple[Stage, ...]
    sync: tuple[Sync, ...]
    bn_momentum: float = 0.1
    eps: float = field(default=1e-5)

    def __post_init__(self) -> None:
        check(self)

    @property
    def size(self) -> int:
        """Pixels along an edge of the input image."""
        return self.stages[0][0][0].size * self.stem.stride

    def rows(self) -> Iterator[tuple[int, int, int, Row]]:
        """Every block with its stage, branch and place, all counted from 0."""
        for s, stage in enumerate(self.stages):
            for b, branch in enumerate(stage):
                for i, row in enumerate(branch):
                    yield s, b, i, row

    def is_of(self, base: Network) -> bool:
        """Whether it is ``base`` but for the blocks' expanded channels, so that it can inherit its weights."""
        own = (self.act, self.stem.out, self.head.out, len(self.stages))
        if own != (base.act, base.stem, base.head, len(base.stages)):
            return False
        for stage, kind, blocks in zip(self.stages, self.sync, base.stages, strict=True):
            parts = 2 if kind == "c" else 1
            wanted = [(b.kernels, b.stride, b.out) for b in blocks]
            for branch in stage:
                if [((r.kernel,), r.stride, r.out * parts) for r in branch] != wanted:
                    return False
        return True

    def scaled(
        self,
        width: float,
        size: int | None = None,
        stem_stride: int | None = None,
        multiple: int = MULTIPLE,
    ) -> BranchedConfig:
        """The model in proportion at another width, image size or stride of the stem (None: its own).

        What blocks give is scaled to multiples of ``multiple`` (even) as in the zoo; expanded channels keep
        their ratio to what the block is given, and the head keeps its channels. At width 1 no channels
        change. Raises ConfigError for odd multiples, InputError for a width out of range.
        """
        if multiple % 2:
            raise ConfigError(f"channels in multiples of {multiple} cannot be halved")
        check_width(width, self.name)

        def channels(count: int) -> int:
            return count if width == 1.0 else rounded(count * width, multiple)

        stem = replace(
            self.stem, out=channels(self.stem.out), stride=stem_stride or self.stem.stride
        )
        given, pixels = (stem.out, stem.out), strided(size or self.size, stem.stride)
        stages = []
        for stage, kind in zip(self.stages, self.sync, strict=True):
            parts = 2 if kind == "c" else 1
            first, second = (
                _scaled_branch(rows, inputs, pixels, parts, channels)
                for rows, inputs in zip(stage, given, strict=True)
            )
            stages.append((first, second))
            given, pixels = (first[-1].out * parts, second[-1].out * parts), first[-1].out_size
        head = replace(self.head, inputs=given[0])
        return replace(self, stem=stem, head=head, stages=tuple(stages))


def _scaled_branch(
    branch: tuple[Row, ...], inputs: int, size: int, parts: int, channels: Callable[[int], int]
) -> tuple[Row, ...]:
    rows = []
    for row in branch:
        expand = max(1, round(row.expand * inputs / row.inputs))
        out = channels(row.out * parts) // parts
        rows.append(Row(size, row.kernel, row.stride, inputs, expand, out))
        inputs, size = out, rows[-1].out_size
    return tuple(rows)


def branched(
    base: Network,
    sync: tuple[Sync, ...],
    widths: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],
    name: str,
    size: int = 224,
) -> BranchedConfig:
    """The branched model of ``base`` with these expanded channels per stage, branch and block.

    Raises ConfigError where the base has what the published format cannot say (squeeze-and-excite,
    mixed kernels, several activations), or where a stage to be concatenated has odd channels.
    """
    check_base(base)
    stages = []
    for s, (shapes, both) in enumerate(zip(base.shapes(size), widths, strict=True)):
        out = shapes[0].block.out
        if sync[s] == "c" and out % 2:
            raise ConfigError(
                f"stage {s} of '{base.name}' has {out} channels: no halves to concatenate"
            )
        out = out // 2 if sync[s] == "c" else out
        branches = []
        for branch in both:
            rows = []
            for i, (shape, expand) in enumerate(zip(shapes, branch, strict=True)):
                block = shape.block
                inputs = shape.inputs if i == 0 else out
                rows.append(Row(shape.size, block.kernels[0], block.stride, inputs, expand, out))
            branches.append(tuple(rows))
        stages.append((branches[0], branches[1]))
    last = base.stages[-1][-1].out
    return BranchedConfig(
        name,
        base.act,
        ConvRow(3, base.stem, 3, 2),
        ConvRow(last, base.head, 1, 1),
        tuple(stages),
        sync,
    )


def check_base(base: Network) -> None:
    """Raise ConfigError where ``base`` has what a branched configuration cannot say."""
    for s, stage in enumerate(base.stages):
        for block in stage:
            what = None
            if block.se:
                what = "squeeze-and-excite"
            elif len(block.kernels) > 1 or block.expand_groups > 1 or block.project_groups > 1:
                what = "mixed kernels or grouped convolutions"
            elif block.act != base.act:
                what = f"activation {block.act} beside {base.act}"
            if what or base.hidden or base.rexnet:
                raise ConfigError(
                    f"'{base.name}' cannot be branched: stage {s} has {what or 'its own head'};"
                    " take mobilenet_v2, mnasnet_b1, fbnet_b, fbnet_c, proxylessnas_r or"
                    " single_path_nas"
                )
        if len({block.out for block in stage}) > 1:
            raise ConfigError(
                f"'{base.name}' cannot be branched: stage {s} changes its width inside"
            )
