"""The ways to score plans, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from syncnas_tvm.additive import Additive, Study, bare, check_sync_us, counts
from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.errors import InputError
from syncnas_tvm.planner.space import Candidate, Space
from syncnas_tvm.simulator import Simulator, join_kernels
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.work import LANES, Kernel

ModeName = Literal["timeline", "additive", "study"]
MODES: tuple[ModeName, ...] = get_args(ModeName)


@dataclass(frozen=True)
class CostMode:
    """How plans are scored, and therefore what every predicted latency means.

    ``timeline``: two lanes that overlap and contend (:class:`~syncnas_tvm.simulator.Simulator`).
    ``additive``: phases one after the other (:class:`~syncnas_tvm.additive.Additive`). ``study``:
    convolutions and dense layers, as long as they take alone, and ``sync_us`` microseconds a sync
    (:class:`~syncnas_tvm.additive.Study`). Raises InputError for another name, and where ``sync_us``
    is missing or not wanted.
    """

    name: ModeName = "timeline"
    sync_us: float | None = None

    def __post_init__(self) -> None:
        if self.name not in MODES:
            raise InputError(f"unknown cost mode '{self.name}'; take one of {', '.join(MODES)}")
        if self.name == "study":
            check_sync_us(self.sync_us)
        elif self.sync_us is not None:
            raise InputError(
                f"--sync-us is for --cost-mode study, not for {self.name}; leave one of them out"
            )

    def scorer(self, space: Space, costs: TargetCosts, model: CostModel) -> Simulator:
        """Scores plans of ``space`` in this mode."""
        kernels = kernels_of(space.all())
        if self.name == "study":
            found = model.alone.table([bare(kernel) for kernel in kernels if counts(kernel)])
            return Study(check_sync_us(self.sync_us), found)
        scorer = Additive if self.name == "additive" else Simulator
        return scorer(costs, model.table(kernels))


def kernels_of(candidates: Iterable[Candidate]) -> list[Kernel]:
    """Every distinct kernel that ``candidates`` may run, joins on both lanes included."""
    found: dict[Kernel, None] = {}
    for candidate in candidates:
        for phase in candidate.work.phases:
            for lane in LANES:
                found.update(dict.fromkeys((*phase.kernels(lane), *join_kernels(phase, lane))))
    return list(found)
