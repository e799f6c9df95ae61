"""What exchanging the halo between bands of rows gains, and what hiding the exchange could.

    PYTHONPATH=tests python benchmarks/halo.py [network ...] [--targets ...] [--evaluations 10000]

Predicted milliseconds of the best plan that MCTS finds: with bands that are always joined (`joined`),
as before halos were exchanged; with halos exchanged where one run of bands meets the next (`exchanged`,
what the compiler does); and what computing the border rows of a run's last kernel first would make of
that, so that they travel while the rest is computed (`border first`, not built). Kernel times are those
that `compile` predicts with; on `host`, where `compile` measures, the roofline's.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import pairwise

from networks import network_parser, print_table, spaces_of
from planner import TARGETS

from syncnas_tvm.cost_models import cost_model_of
from syncnas_tvm.planner import (
    DEFAULT_BUDGET,
    Budget,
    Candidate,
    CostMode,
    SearchResult,
    Space,
    single_lane,
    strategy,
)
from syncnas_tvm.scorer import Scorer, State
from syncnas_tvm.simulator import (
    CPU,
    GPU,
    SHARED,
    KernelTimes,
    Segment,
    Simulator,
    contend,
    needs,
)
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Phase, Work

HIDDEN = 0.9
"""The share of a run's last kernel that is computed after its border rows have left."""


class BorderFirst(Simulator):
    """Halos that leave before the rest of a run's last kernel is computed.

    That kernel is cut in two on each lane, which costs a launch more. Rows travel while the rest is
    computed, and the host thread only enqueues them.
    """

    def __init__(self, target: Target, kernel_us: KernelTimes) -> None:
        super().__init__(target.costs, kernel_us)
        self._launch_us = (target.cpu_peak.launch_us, target.gpu_peak.launch_us)
        self._last_us: dict[int, tuple[float, float]] = {}  # by segment, of its last kernels
        self._rests: dict[int, Candidate] = {}  # by candidate, what follows its first phase

    def step(self, state: State, candidate: Candidate) -> State:
        """Exchanges are different, all else is as in :class:`Simulator`."""
        host, queue, where, last = state
        first, *rest = self.segments(candidate)
        if where != SHARED or last.seam is None or first.reads is None or first.need != CPU | GPU:
            return super().step(state, candidate)
        to_cpu_us, to_gpu_us = self.exchange_us(last, first)
        cpu_last_us, gpu_last_us = self._last_us[id(last)]
        here = queue - HIDDEN * gpu_last_us + to_cpu_us
        there = host - HIDDEN * cpu_last_us + to_gpu_us
        gpu_us = first.gpu.us + self._launch_us[1]
        queue = max(queue, there) + gpu_us
        host += self._launch_us[0] + 3 * self.costs.enqueue_us + first.gpu.lead_us
        host, queue = contend(max(host, here), queue, first.cpu_us, self.costs)
        state = host, max(host, queue), first.where, first
        return super().step(state, self._rest(candidate)) if rest else state

    def key(self, state: State) -> Hashable:
        """The last kernels count, too."""
        return super().key(state), state[3] and self._last_us[id(state[3])]

    def _segment(self, phase: Phase) -> Segment:
        segment = super()._segment(phase)
        last_us = [self.us(kernels[-1]) if kernels else 0.0 for kernels in (phase.cpu, phase.gpu)]
        self._last_us[id(segment)] = (last_us[0], last_us[1])
        return segment

    def _rest(self, candidate: Candidate) -> Candidate:
        if id(candidate) not in self._rests:
            work = Work(tuple(filter(needs, candidate.work.phases))[1:])
            self._rests[id(candidate)] = replace(candidate, work=work)
        return self._rests[id(candidate)]


def joined(space: Space) -> Space:
    """``space`` with bands that are put together by a kernel on each lane that reads them."""

    def phase(old: Phase) -> Phase:
        seam = old.output.seam if old.output.kind == "copy" else None
        return replace(old, output=replace(old.output, seam=seam))

    def candidate(old: Candidate) -> Candidate:
        return replace(old, work=Work(tuple(map(phase, old.work.phases))))

    return Space(space.regions, tuple(tuple(map(candidate, c)) for c in space.candidates))


def best(space: Space, scorer: Scorer, budget: Budget) -> SearchResult:
    """The best plan found."""
    return strategy("mcts", 0).run(space, scorer, budget)


def exchanges(plan: Sequence[Candidate]) -> int:
    """How often one run of bands meets the next."""
    rules = [candidate.decision.rule for candidate in plan]
    return sum(pair == ("RowSplit", "RowSplit") for pair in pairwise(rules))


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--evaluations", type=int, default=DEFAULT_BUDGET.evaluations)
    options = parser.parse_args()
    gains: dict[str, list[tuple[float, float]]] = defaultdict(list)
    table = []
    for network in options.network:
        for target, space in spaces_of(network, options.targets):
            before, name = joined(space), target.name
            model, budget = cost_model_of(target), Budget(options.evaluations)
            mode = CostMode()
            known = mode.scorer(before, target.costs, model)
            lane_us = min(known.score(single_lane(space, lane)) for lane in ("cpu", "gpu"))  # type: ignore[arg-type]
            old_us = best(before, known, budget).score_us
            new = mode.scorer(space, target.costs, model)
            assert isinstance(new, Simulator)
            found = best(space, new, budget)
            new_us, first = found.score_us, BorderFirst(target, new.us)
            first_us = min(best(space, first, budget).score_us, first.score(found.candidates))
            gains[name].append((old_us / new_us - 1, new_us / first_us - 1))
            numbers = [f"{us / 1e3:.2f}" for us in (lane_us, old_us, new_us, first_us)]
            table.append((network, name, *numbers, str(exchanges(found.candidates)), f"{old_us / new_us - 1:.1%}", f"{new_us / first_us - 1:.1%}"))  # fmt: skip
    print_table(("network", "target", "lane", "joined", "exchanged", "border first", "exchanges", "gain", "more"), table)  # fmt: skip
    for name, pairs in gains.items():
        gain, left = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}: exchanging gains {gain:.1%} in the median, border rows first {left:.1%}")


if __name__ == "__main__":
    main()
