"""Where two runs of bands meet: whether each lane computes the rows that the other one reads first.

That is decided after the search, for the plan that it found: how many rows these are depends on what
follows. A sync that is hidden weighs on neither lane, so the best cuts move a little, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.errors import PlanError
from syncnas_tvm.plan import BORDERS, Decision
from syncnas_tvm.planner.cost_mode import kernels_of
from syncnas_tvm.planner.space import Candidate, Space
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.work import Seam

ROW_SPLIT = "RowSplit"
CUTS = 2
"""So many of the next cuts on either side are tried."""
SWEEPS = 3
Trial = tuple[Candidate, ...]


def rows_first(
    space: Space, plan: Sequence[Candidate], simulator: Simulator, model: CostModel
) -> Trial:
    """``plan`` with rows computed first wherever its predicted latency falls.

    One run of bands after the other from the model's end, again until nothing changes: its cut, and
    whether it and the run before compute rows first. ``simulator`` learns from ``model`` what the kernels
    take that are in no list.
    """
    best = tuple(plan)
    for _ in range(SWEEPS):
        before = best
        for index in reversed(range(len(best))):
            if best[index].decision.rule == ROW_SPLIT:
                trials = list(_trials(space, best, index))
                asked = {c.decision: c for trial in trials for c in trial}.values()
                if unknown := simulator.unknown(kernels_of(asked)):
                    simulator.learn(model.table(unknown))
                best = min(trials, key=simulator.score)  # the first of equals: as it was
        if best == before:
            break
    return best


def _trials(space: Space, plan: Trial, index: int) -> Iterator[Trial]:
    """``plan``, and what else may be decided at ``index`` and, of rows first, before it."""
    yield plan
    start = space.regions.index(plan[index].decision.regions[0])
    head, after = plan[: max(0, index - 1)], plan[index + 1 :]
    for cut in _near(space, start, _plain(space, plan[index])):
        for here in _ways(space, cut, after):
            if index == 0:
                yield (here, *after)
                continue
            for before in _ways(space, _plain(space, plan[index - 1]), (here,)):
                yield (*head, before, here, *after)


def _ways(space: Space, candidate: Candidate, after: Sequence[Candidate]) -> list[Candidate]:
    """``candidate``, and with the rows first that what comes ``after`` it reads, if that can be."""
    option = _option(space, candidate, after[0]) if after else None
    return [candidate] if option is None else [candidate, option]


def _near(space: Space, start: int, candidate: Candidate) -> Sequence[Candidate]:
    """Bands of the same regions, cut near where ``candidate`` is; itself where it is not listed."""
    label = (candidate.decision.regions, ROW_SPLIT)
    cuts = [c for c in space.candidates[start] if (c.decision.regions, c.decision.rule) == label]
    if candidate not in cuts:
        return [candidate]
    at = cuts.index(candidate)
    return cuts[max(0, at - CUTS) : at + CUTS + 1]


def _plain(space: Space, candidate: Candidate) -> Candidate:
    """``candidate`` without rows that are computed first."""
    decision = candidate.decision
    params = {name: value for name, value in decision.params if name not in BORDERS}
    if decision.rule != ROW_SPLIT or len(params) == len(decision.params):
        return candidate
    return space.candidate(Decision.of(decision.regions, decision.rule, **params))


def _option(space: Space, candidate: Candidate, after: Candidate) -> Candidate | None:
    """``candidate`` with the rows first that ``after`` reads; None where that cannot be."""
    decision, seam = candidate.decision, candidate.work.phases[-1].output.seam
    reads = after.work.phases[0].reads
    if decision.rule != ROW_SPLIT or seam is None or reads is None:
        return None
    rows = _lacking(seam, *reads)
    if rows is None:
        return None
    params = dict(decision.params) | dict(zip(BORDERS, rows, strict=True))
    try:
        return space.candidate(Decision.of(decision.regions, decision.rule, **params))
    except PlanError:  # a lane has no more rows than that
        return None


def _lacking(seam: Seam, cpu: tuple[int, int], gpu: tuple[int, int]) -> tuple[int, int] | None:
    """How many rows of the CPU lane's band and of the GPU lane's the other lane lacks, each at least
    one; None where none is lacking, or a lane lacks all."""
    lacking = seam.cut - gpu[0], cpu[1] - seam.cut
    whole = seam.cut, seam.height - seam.cut
    if max(lacking) <= 0 or any(n >= all_ for n, all_ in zip(lacking, whole, strict=True)):
        return None
    return max(1, lacking[0]), max(1, lacking[1])
