"""Runs of regions that are decided alike: the moves of local searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from syncnas_tvm.planner.space import Candidate, Space

Run = tuple[int, tuple[Candidate, ...]]
"""Consecutive candidates of one label, with the region where the first one starts."""


class Runs:
    """The runs of ``space``: same rule, same parameters.

    Single regions would not do as moves: between two transfers a lane pays off only over several.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._by_label = [{c.label: c for c in reversed(here)} for here in space.candidates]

    def __iter__(self) -> Iterator[Run]:
        """Every run."""
        for start, here in enumerate(self._space.candidates):
            for first in here:
                yield from self.growing(start, first)

    def growing(self, start: int, first: Candidate) -> Iterator[Run]:
        """The runs that begin with ``first`` in region ``start``, longer and longer."""
        run: tuple[Candidate, ...] = (first,)
        position = start + first.span
        yield start, run
        while position < len(self._space):
            after = self._by_label[position].get(first.label)
            if after is None:
                return
            run, position = (*run, after), position + after.span
            yield start, run

    def splice(self, plan: Sequence[Candidate], change: Run) -> tuple[Candidate, ...]:
        """``plan`` with ``change`` put in; what it cuts in two is filled with single regions."""
        start, run = change
        end = start + sum(candidate.span for candidate in run)
        result: list[Candidate] = []
        position = 0
        for candidate in plan:
            stop = position + candidate.span
            if stop <= start or position >= end:
                result.append(candidate)
            else:
                single = self._space.single
                result.extend(single(i)[0] for i in range(position, min(start, stop)))
                if position <= start:
                    result.extend(run)
                result.extend(single(i)[0] for i in range(max(end, position), stop))
            position = stop
        return tuple(result)
