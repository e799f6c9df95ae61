"""Where two runs of bands meet: whether each lane computes the rows that the other one reads first.

That is decided after the search, for the plan that it found: how many rows depends on what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from syncnas_tvm.errors import PlanError
from syncnas_tvm.plan import Decision
from syncnas_tvm.planner.space import Candidate, Space
from syncnas_tvm.scorer import Scorer
from syncnas_tvm.work import Seam

ROW_SPLIT = "RowSplit"


def rows_first(
    space: Space, plan: Sequence[Candidate], scorer: Callable[[Space], Scorer]
) -> tuple[tuple[Candidate, ...], Scorer]:
    """``plan`` with rows computed first wherever its predicted latency falls, and what scores it.

    One place after the other from the model's end, as what is gained at one depends little on the
    others. ``scorer`` makes the scorer of a space.
    """
    options = {i: option for i in range(len(plan) - 1) if (option := _option(space, plan, i))}
    scored = scorer(space.including(options.values()))
    best, best_us = tuple(plan), scored.score(plan)
    for i in reversed(options):
        tried = (*best[:i], options[i], *best[i + 1 :])
        tried_us = scored.score(tried)
        if tried_us < best_us:
            best, best_us = tried, tried_us
    return best, scored


def _option(space: Space, plan: Sequence[Candidate], index: int) -> Candidate | None:
    """The candidate with the rows first that the one behind it reads; None where that cannot be."""
    candidate, following = plan[index : index + 2]
    seam, reads = candidate.work.phases[-1].output.seam, following.work.phases[0].reads
    if candidate.decision.rule != ROW_SPLIT or seam is None or seam.early or reads is None:
        return None
    rows = _rows(seam, *reads)
    if rows is None:
        return None
    decision = candidate.decision
    params = dict(decision.params) | {"cpu_border": rows[0], "gpu_border": rows[1]}
    try:
        return space.candidate(Decision.of(decision.regions, decision.rule, **params))
    except PlanError:  # a lane has no more rows than that
        return None


def _rows(seam: Seam, cpu: tuple[int, int], gpu: tuple[int, int]) -> tuple[int, int] | None:
    """How many rows of the CPU lane's band and of the GPU lane's the other lane lacks, each at least
    one; None where none is lacking, or a lane lacks all."""
    lacking = seam.cut - gpu[0], cpu[1] - seam.cut
    whole = seam.cut, seam.height - seam.cut
    if max(lacking) <= 0 or any(n >= all_ for n, all_ in zip(lacking, whole, strict=True)):
        return None
    return max(1, lacking[0]), max(1, lacking[1])
