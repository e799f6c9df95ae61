"""What exchanging the halo between bands of rows gains, and what hiding the exchange could.

    PYTHONPATH=tests python benchmarks/halo.py [network ...] [--targets ...] [--evaluations 10000]

Predicted milliseconds of the best plan that MCTS finds: with bands that are always joined (`joined`),
as before halos were exchanged; with halos exchanged where one run of bands meets the next (`exchanged`,
what the compiler does); and a bound for computing border rows first, so that they travel while the
interior is computed: plans in which no lane ever waits for the other (`no waits`). Its transfers still
take the host thread's time, which is the CPU lane's; the second kernel for the border rows and its
launch, which come on top, are left out. Kernel times are those that `compile` predicts with; on `host`,
where `compile` measures, the roofline's.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
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
from syncnas_tvm.simulator import CPU, GPU, SHARED, Simulator, contend
from syncnas_tvm.work import Phase, Work


class NoWaits(Simulator):
    """A bound from below: each lane does all of its own work, and never waits for the other one."""

    def step(self, state: State, candidate: Candidate) -> State:
        """Adds the lanes' work up."""
        cpu, gpu, where, last = state
        for segment in self.segments(candidate):
            missing = segment.need if where == SHARED else segment.need & ~where
            if last is None:
                cpu += segment.input_us if missing & GPU else 0.0
            else:
                to_cpu_us, to_gpu_us = self.exchange_us(last, segment)
                cpu += to_cpu_us * bool(missing & CPU) + to_gpu_us * bool(missing & GPU)
                if where == SHARED:
                    cpu += last.join_cpu_us * bool(missing & CPU)
                    gpu += last.join_gpu.us * bool(missing & GPU)
            cpu += segment.cpu_us + segment.gpu.lead_us
            gpu += segment.gpu.us
            where, last = segment.where, segment
        return cpu, gpu, where, last

    def end(self, state: State) -> float:
        """The longer lane, slowed down for as long as both run."""
        cpu, gpu, where, last = state
        if last is not None and not where & CPU:
            cpu += last.to_cpu_us
        return max(contend(0.0, gpu, cpu, self.costs))


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
            new_us, bound = found.score_us, NoWaits(target.costs, new.us)
            bound_us = min(best(space, bound, budget).score_us, bound.score(found.candidates))
            gains[name].append((old_us / new_us - 1, new_us / bound_us - 1))
            numbers = [f"{us / 1e3:.2f}" for us in (lane_us, old_us, new_us, bound_us)]
            table.append((network, name, *numbers, str(exchanges(found.candidates)), f"{old_us / new_us - 1:.1%}", f"{new_us / bound_us - 1:.1%}"))  # fmt: skip
    print_table(("network", "target", "lane", "joined", "exchanged", "no waits", "exchanges", "gain", "left at most"), table)  # fmt: skip
    for name, pairs in gains.items():
        gain, left = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}: exchanging gains {gain:.1%} in the median, hiding it {left:.1%} at most")


if __name__ == "__main__":
    main()
