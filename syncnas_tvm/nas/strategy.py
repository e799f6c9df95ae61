"""The strategy space: how many syncs, after which stages, and of which kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import cast

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.branched import Sync

KINDS: tuple[Sync, Sync] = ("a", "c")
STAGES = 7


@dataclass(frozen=True)
class SyncStrategy:
    """Where the branches meet and how: a kind for every stage, ``n`` where they do not meet.

    The last stage is always synchronized. ``str`` gives the published name: the number of syncs,
    their stages counted from 0, their kinds, as in ``sync3_046_aaa``. With more than ten stages their
    numbers are separated by hyphens.
    """

    kinds: tuple[Sync, ...]

    def __post_init__(self) -> None:
        if not self.kinds or self.kinds[-1] == "n":
            raise InputError("a strategy synchronizes at least the last stage")

    @property
    def positions(self) -> tuple[int, ...]:
        """The stages, counted from 0, after which the branches meet."""
        return tuple(s for s, kind in enumerate(self.kinds) if kind != "n")

    def __str__(self) -> str:
        separator = "-" if len(self.kinds) > 10 else ""
        stages = separator.join(map(str, self.positions))
        kinds = "".join(kind for kind in self.kinds if kind != "n")
        return f"sync{len(self.positions)}_{stages}_{kinds}"

    @staticmethod
    def parse(name: str, stages: int = STAGES) -> SyncStrategy:
        """The strategy of that name; raises InputError saying what is wrong with it."""
        match = re.fullmatch(r"sync(\d+)_([\d-]+)_([ac]+)", name)
        if match is None:
            raise InputError(
                f"'{name}' is not a strategy; one is called sync3_046_aaa, for example"
            )
        count, where, kinds = int(match[1]), match[2], match[3]
        positions = [int(p) for p in (where.split("-") if stages > 10 else where) if p.isdigit()]
        if not count == len(positions) == len(kinds):
            raise InputError(f"'{name}': the number of syncs, of stages and of kinds differ")
        if sorted(set(positions)) != positions or positions[-1] != stages - 1:
            raise InputError(
                f"'{name}': stages have to rise and to end with the last one, {stages - 1}"
            )
        found: list[Sync] = ["n"] * stages
        for position, kind in zip(positions, kinds, strict=True):
            found[position] = cast(Sync, kind)
        return SyncStrategy(tuple(found))


def strategies(stages: int = STAGES) -> Iterator[SyncStrategy]:
    """Every strategy: 2 * 3 ** (stages - 1) of them, 1,458 for seven stages."""
    if stages < 1:
        raise InputError("a strategy needs at least one stage")
    for *early, last in product(*[("n", *KINDS)] * (stages - 1), KINDS):
        yield SyncStrategy(cast("tuple[Sync, ...]", (*early, last)))
