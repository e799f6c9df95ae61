"""Branched models for the tests of the architecture search."""

from collections.abc import Callable

from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.branched import BranchedConfig, branched
from syncnas_tvm.nas.description import Block, Network
from syncnas_tvm.nas.strategy import SyncStrategy


def two_branches(
    base: Network,
    kinds: str,
    first: Callable[[Block], int],
    second: Callable[[Block], int] | None = None,
    size: int = 224,
) -> BranchedConfig:
    """``base`` with two branches that meet as ``kinds`` say, named as published.

    ``first`` and ``second`` (the same) give each branch's expanded channels for a block of the base.
    """
    widths = tuple(
        (tuple(map(first, stage)), tuple(map(second or first, stage))) for stage in base.stages
    )
    strategy = SyncStrategy(tuple(kinds))
    return branched(base, strategy.kinds, widths, str(strategy), size)


def little_config(kinds: str = "annnana", share: float = 0.5) -> BranchedConfig:
    """MobileNetV2 with ``share`` of its expanded channels in each branch."""
    return two_branches(ZOO["mobilenet_v2"], kinds, lambda b: max(4, int(b.expand * share)))


def narrow_config() -> BranchedConfig:
    """MobileNetV2 at a tenth of its width with branches of four channels, on a small image."""
    return two_branches(ZOO["mobilenet_v2"].scaled(0.1), "nnannna", lambda b: 4, size=32)
