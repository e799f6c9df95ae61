"""What exchanging the halo between bands of rows gains, and what computing it first gains on top.

    PYTHONPATH=tests python benchmarks/halo.py [network ...] [--targets ...] [--evaluations 10000]

Predicted milliseconds of the best plan that MCTS finds: with bands that are always joined (`joined`),
as before halos were exchanged; with halos exchanged where one run of bands meets the next (`exchanged`);
and with the rows that the other lane reads computed first where that pays, so that they travel while the
rest is computed (`rows first`, what `compile` does). Kernel times are those that `compile` predicts with;
on `host`, where `compile` measures, the roofline's.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from networks import network_parser, print_table, spaces_of
from planner import TARGETS

from syncnas_tvm.cost_models import CostModel, cost_model_of
from syncnas_tvm.planner import (
    DEFAULT_BUDGET,
    Budget,
    Candidate,
    CostMode,
    Space,
    single_lane,
    strategy,
)
from syncnas_tvm.planner.rows_first import rows_first
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.work import LANES, Phase, Work


def joined(space: Space) -> Space:
    """``space`` with bands that are put together by a kernel on each lane that reads them."""

    def phase(old: Phase) -> Phase:
        seam = old.output.seam if old.output.kind == "copy" else None
        return replace(old, output=replace(old.output, seam=seam))

    def candidate(old: Candidate) -> Candidate:
        return replace(old, work=Work(tuple(map(phase, old.work.phases))))

    return Space(space.regions, tuple(tuple(map(candidate, c)) for c in space.candidates))


def best(
    space: Space, simulator: Simulator, model: CostModel, budget: Budget
) -> tuple[Candidate, ...]:
    """The best plan found, with cuts moved as for rows that are computed first."""
    found = strategy("mcts", 0).run(space, simulator, budget)
    return rows_first(space, found.split or found.candidates, simulator, model)


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
            name, model, costs = target.name, cost_model_of(target), target.costs
            budget = Budget(options.evaluations)
            # Nothing is listed but what the search may decide: no rows first.
            before, plain = replace(joined(space), unlisted=None), replace(space, unlisted=None)
            known = CostMode().scorer(before, costs, model)
            old_us = known.score(best(before, known, model, budget))
            known = CostMode().scorer(plain, costs, model)
            found = best(plain, known, model, budget)
            moved = rows_first(space, found, known, model)
            new_us, first_us = known.score(found), known.score(moved)
            lane_us = min(known.score(single_lane(space, lane)) for lane in LANES)
            cut = sum("cpu_border" in dict(c.decision.params) for c in moved)
            gains[name].append((old_us / new_us - 1, new_us / first_us - 1))
            numbers = [f"{us / 1e3:.2f}" for us in (lane_us, old_us, new_us, first_us)]
            table.append((network, name, *numbers, f"{exchanges(found)}, {cut}", f"{old_us / new_us - 1:.1%}", f"{new_us / first_us - 1:.1%}"))  # fmt: skip
    print_table(("network", "target", "lane", "joined", "exchanged", "rows first", "exchanges, rows first", "gain", "more"), table)  # fmt: skip
    for name, pairs in gains.items():
        gain, left = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}: exchanging gains {gain:.1%} in the median, rows first another {left:.1%}")


if __name__ == "__main__":
    main()
