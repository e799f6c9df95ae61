"""Plans: the list of decisions for a model, as plain data with JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncnas_tvm.errors import PlanError

FORMAT = 1
BORDERS = ("cpu_border", "gpu_border")
"""Parameters of RowSplit: how many rows next to the cut each lane computes first."""


@dataclass(frozen=True, order=True)
class Decision:
    """One split rule, by its registered name, applied to one region or a run of regions.

    ``params`` are the rule's own parameters, sorted by name, JSON values only.
    """

    regions: tuple[str, ...]
    rule: str
    params: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def of(regions: Iterable[str] | str, rule: str, **params: Any) -> Decision:
        """A decision with its parameters in the canonical order."""
        names = (regions,) if isinstance(regions, str) else tuple(regions)
        return Decision(names, rule, tuple(sorted(params.items())))

    def param(self, name: str) -> Any:
        """The parameter ``name``; raises PlanError where the decision lacks it."""
        for key, value in self.params:
            if key == name:
                return value
        raise PlanError(
            f"decision {self.rule} on {', '.join(self.regions)} has no parameter '{name}'; add it to the plan"
        )

    def expect(self, *names: str) -> None:
        """Raise PlanError where there is a parameter of another name."""
        for name, _ in self.params:
            if name not in names:
                raise PlanError(
                    f"decision {self} on {first_to_last(self.regions)} has an unknown parameter"
                    f" '{name}'; {self.rule} has {', '.join(names)}"
                )

    def __str__(self) -> str:
        """``ChannelSplit(gpu_share=0.25)``: what is decided, without where."""
        return f"{self.rule}({', '.join(f'{name}={value!r}' for name, value in self.params)})"

    def check(self) -> None:
        """Raise PlanError where no plan can have this decision."""
        if not self.regions:
            raise PlanError(f"decision {self} names no region; name one or more in 'regions'")
        try:
            hash(self.params)
        except TypeError as error:
            raise PlanError(
                f"decision {self} on {first_to_last(self.regions)} has a list or an object as a "
                "parameter; use plain values"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """A JSON object: ``regions``, ``rule`` and the rule's own parameters."""
        return {"regions": list(self.regions), "rule": self.rule, **dict(self.params)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Decision:
        """The inverse of :meth:`to_json`; raises PlanError on anything else."""
        try:
            rest = {k: v for k, v in data.items() if k not in ("regions", "rule")}
            decision = Decision.of([str(r) for r in data["regions"]], str(data["rule"]), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(
                f"a decision needs 'regions' (a list of names) and 'rule', found {data!r}"
            ) from error
        decision.check()
        return decision


@dataclass(frozen=True)
class Plan:
    """The decisions for a whole model, in the order of its regions. Says nothing about kernels."""

    decisions: tuple[Decision, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads back."""
        return {"format": FORMAT, "decisions": [d.to_json() for d in self.decisions]}

    @staticmethod
    def from_json(data: Any) -> Plan:
        """Read a plan; raises PlanError where ``data`` is none or of another format."""
        if not isinstance(data, Mapping) or not isinstance(data.get("decisions"), list):
            raise PlanError("a plan is a JSON object with a list 'decisions'")
        if data.get("format", FORMAT) != FORMAT:
            raise PlanError(f"plan format {data.get('format')} is not supported, only {FORMAT}")
        return Plan(tuple(Decision.from_json(d) for d in data["decisions"]))

    @staticmethod
    def loads(text: str) -> Plan:
        """Read a plan from JSON text."""
        try:
            return Plan.from_json(json.loads(text))
        except json.JSONDecodeError as error:
            raise PlanError(f"the plan is not JSON: {error}") from error

    def covers(self, regions: Iterable[str]) -> None:
        """Raise PlanError unless every one of ``regions`` is decided exactly once, in order."""
        for decision in self.decisions:
            decision.check()
        wanted = list(regions)
        found = [name for d in self.decisions for name in d.regions]
        for name in found:
            if name not in wanted:
                raise PlanError(
                    f"the plan names region '{name}', which this model does not have; 'inspect' lists its regions"
                )
        for name in wanted:
            if found.count(name) != 1:
                raise PlanError(
                    f"the plan decides region '{name}' {found.count(name)} times; once is needed"
                )
        if found != wanted:
            raise PlanError("the plan's decisions are not in the order of the model's regions")


def first_to_last(names: Sequence[str]) -> str:
    """What a run of regions or of nodes is called: ``first..last``, or the one name."""
    return names[0] if names[0] == names[-1] else f"{names[0]}..{names[-1]}"
