"""Plans that need no search: one lane alone, and every region split that can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from syncnas_tvm.errors import PlanError
from syncnas_tvm.planner.space import Candidate, Space
from syncnas_tvm.work import LANES, Lane

PLACE = "Place"


def lane_of(candidates: Sequence[Candidate]) -> Lane | None:
    """The lane that runs all kernels of a plan; None where it uses both or has no kernels."""
    used = {
        lane
        for candidate in candidates
        for phase in candidate.work.phases
        for lane in LANES
        if phase.kernels(lane)
    }
    return used.pop() if len(used) == 1 else None


def place(space: Space, lane: Lane) -> tuple[Candidate, ...] | None:
    """``Place(lane)`` for every region; None where a region cannot be placed there."""
    found = []
    for start in range(len(space)):
        here = next((c for c in space.single(start) if _is_place(c, lane)), None)
        if here is None:
            return None
        found.append(here)
    return tuple(found)


def single_lane(space: Space, lane: Lane) -> tuple[Candidate, ...]:
    """``Place(lane)`` for every region; raises PlanError where a region cannot be placed there."""
    found = place(space, lane)
    if found is None:
        for start, region in enumerate(space.regions):
            if not any(_is_place(c, lane) for c in space.single(start)):
                raise PlanError(f"region '{region}' cannot run on the {lane} lane; use both lanes")
        raise AssertionError
    return found


def split_all(space: Space, score: Callable[[Sequence[Candidate]], float]) -> tuple[Candidate, ...]:
    """In every region its best candidate that runs on both lanes, else the better ``Place``.

    "Best" is by ``score`` of the plan that has the candidate in this region and, everywhere else,
    the better lane alone.
    """
    base = base_plan(space, score)
    found = []
    for start in range(len(space)):
        here = space.single(start)
        split = [c for c in here if c.work.kernels("cpu") and c.work.kernels("gpu")]
        scores = {c: score((*base[:start], c, *base[start + 1 :])) for c in split or here}
        found.append(min(scores, key=scores.__getitem__))
    return tuple(found)


def base_plan(space: Space, score: Callable[[Sequence[Candidate]], float]) -> tuple[Candidate, ...]:
    """The better lane alone, or each region's first candidate where no lane can run them all."""
    lanes = [plan for lane in LANES if (plan := place(space, lane)) is not None]
    return min(lanes, key=score) if lanes else first(space)


def first(space: Space) -> tuple[Candidate, ...]:
    """Each region's first candidate of its own."""
    return tuple(space.single(start)[0] for start in range(len(space)))


def _is_place(candidate: Candidate, lane: Lane) -> bool:
    decision = candidate.decision
    return decision.rule == PLACE and dict(decision.params).get("lane") == lane
