"""The base network at the width that meets a latency budget on one lane."""

from __future__ import annotations

from dataclasses import dataclass

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.allocate import Allocator
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.description import MULTIPLE
from syncnas_tvm.nas.model import Mobile

STEPS = 200
"""Widths are tried in steps of 1 over this, down to a twentieth."""
MULTIPLES = (2, 4, 8)


@dataclass(frozen=True)
class ScaledBase:
    """The base at a width, its channels in multiples of ``multiple``, and its predicted latency."""

    width: float
    multiple: int
    latency_us: float


def scaled_base(allocator: Allocator, budget: float) -> ScaledBase:
    """The scaled base with the most multiply-adds that fits ``budget`` on its best lane.

    It is what two branches have to beat. Channels may be multiples of 2, 4 or 8: so the base comes close
    to the budget, and is as strong as the target's costs let it be. At a budget of 1 or more it is the
    base itself. Raises InputError where no width fits.
    """
    if budget >= 1.0:
        return ScaledBase(1.0, MULTIPLE, allocator.base_us)
    found = [(m, b) for k in MULTIPLES for m, b in [_widest(allocator, budget, k)] if b is not None]
    if not found:
        raise InputError(
            f"--budget {budget:g}: '{allocator.whole.name}' is too slow at any width from"
            f" {10 / STEPS:g} on"
        )
    return max(found, key=lambda pair: pair[0])[1]


def _widest(allocator: Allocator, budget: float, multiple: int) -> tuple[int, ScaledBase | None]:
    """The widest that fits, and its multiply-adds."""
    before = None
    for step in range(STEPS - 1, 9, -1):
        network = allocator.whole.scaled(step / STEPS, multiple)
        if network.stages == before:
            continue
        before = network.stages
        us = allocator.time_base(network)
        if us <= budget * allocator.base_us:
            macs = count(Mobile(network), allocator.size).macs
            return macs, ScaledBase(step / STEPS, multiple, us)
    return 0, None
