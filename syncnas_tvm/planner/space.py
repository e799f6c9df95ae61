"""The decision space: for each region of a model, what can be decided there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from syncnas_tvm.errors import PlanError
from syncnas_tvm.plan import Decision, Plan, first_to_last
from syncnas_tvm.work import Work


@dataclass(frozen=True)
class Candidate:
    """A decision that covers ``span`` consecutive regions, with the work that it makes."""

    decision: Decision
    span: int
    work: Work = field(compare=False)

    @property
    def label(self) -> tuple[object, ...]:
        """The decision without its regions: what it shares with its like elsewhere."""
        return (self.decision.rule, self.decision.params)


def plan_of(candidates: Sequence[Candidate]) -> Plan:
    """The plan that consists of the candidates' decisions."""
    return Plan(tuple(candidate.decision for candidate in candidates))


@dataclass(frozen=True)
class Space:
    """All candidates by the region where they start; decisions are taken in the regions' order.

    ``unlisted`` gives the work of a decision that no list has: plans may decide it, searches do not.
    It raises PlanError where that is not possible.

    Raises PlanError where a region has no candidate of its own (span 1), or a candidate's
    regions are not those that it starts at and spans.
    """

    regions: tuple[str, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    unlisted: Callable[[Decision], Work] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.regions) != len(self.candidates):
            raise PlanError(
                f"{len(self.regions)} regions but candidates for {len(self.candidates)};"
                " give a list per region"
            )
        for start, (region, here) in enumerate(zip(self.regions, self.candidates, strict=True)):
            if all(candidate.span != 1 for candidate in here):
                raise PlanError(f"region '{region}' has no candidate of its own; add Place for it")
            for candidate in here:
                if candidate.decision.regions != self.regions[start : start + candidate.span]:
                    raise PlanError(
                        f"a candidate of region '{region}' spans {candidate.span} but decides"
                        f" {', '.join(candidate.decision.regions)}"
                    )

    def __len__(self) -> int:
        return len(self.regions)

    def all(self) -> Iterator[Candidate]:
        """Every candidate of every region."""
        for here in self.candidates:
            yield from here

    def single(self, start: int) -> tuple[Candidate, ...]:
        """The candidates that cover region ``start`` alone."""
        return self._singles[start]

    @cached_property
    def _singles(self) -> tuple[tuple[Candidate, ...], ...]:
        return tuple(tuple(c for c in here if c.span == 1) for here in self.candidates)

    @cached_property
    def ways(self) -> tuple[int, ...]:
        """How many ways there are to decide the regions from each one on; 1 after the last."""
        ways = [1]
        for here in reversed(self.candidates):
            ways.append(sum(ways[-c.span] for c in here))
        return tuple(reversed(ways))

    def count(self) -> int:
        """How many plans there are."""
        return self.ways[0]

    def plan_at(self, number: int) -> tuple[Candidate, ...]:
        """The plan of that number, from 0 up to, not including, :meth:`count`, as in :meth:`plans`."""
        plan: list[Candidate] = []
        start = 0
        while start < len(self):
            for candidate in self.candidates[start]:
                ways = self.ways[start + candidate.span]
                if number < ways:
                    break
                number -= ways
            plan.append(candidate)
            start += candidate.span
        return tuple(plan)

    def plans(self, start: int = 0) -> Iterator[tuple[Candidate, ...]]:
        """Every plan, as candidates in order; :meth:`count` says how many."""
        if start == len(self):
            yield ()
            return
        for candidate in self.candidates[start]:
            for rest in self.plans(start + candidate.span):
                yield (candidate, *rest)

    def match(self, plan: Plan) -> tuple[Candidate, ...]:
        """The candidates of ``plan``'s decisions, listed or not.

        Raises PlanError where the plan does not cover the regions or decides what is not possible.
        """
        plan.covers(self.regions)
        return tuple(map(self.candidate, plan.decisions))

    def candidate(self, decision: Decision) -> Candidate:
        """The candidate of ``decision``, listed or not; raises PlanError where it is not possible."""
        if decision in self._listed:
            return self._listed[decision]
        rules = dict.fromkeys(known.rule for known in self._listed)
        if decision.rule not in rules:
            raise PlanError(
                f"no split rule '{decision.rule}' can decide anything in this model; use"
                f" {', '.join(rules)}"
            )
        advice = "'inspect --verbose' lists what is"
        where = f"{decision} is not possible in {first_to_last(decision.regions)}"
        if self.unlisted is None:
            raise PlanError(f"{where}; {advice}")
        try:
            work = self.unlisted(decision)
        except PlanError as error:
            raise PlanError(f"{where}: {error}; {advice}") from error
        return Candidate(decision, len(decision.regions), work)

    def including(self, candidates: Iterable[Candidate]) -> Space:
        """This space with ``candidates`` listed too."""
        lists = [list(here) for here in self.candidates]
        for candidate in candidates:
            if candidate.decision not in self._listed:
                lists[self.regions.index(candidate.decision.regions[0])].append(candidate)
        return replace(self, candidates=tuple(map(tuple, lists)))

    @cached_property
    def _listed(self) -> dict[Decision, Candidate]:
        return {candidate.decision: candidate for candidate in self.all()}
