"""The split-rule interface and its registry: the API for people who write their own rules.

A rule rewrites the private Relax function of a region. Afterwards that function calls

- *lane functions*: private functions with the attribute ``syncnas.lane`` (``"cpu"`` or ``"gpu"``)
  and ``syncnas.phase`` (an int: calls of the same phase run at the same time), and
- *joins*: private functions with the attribute ``syncnas.join`` (``"sum"`` or ``"concat"``), which
  combine what the lanes hold. A join belongs to no lane: it runs on each lane that reads its value.
  One that only concatenates rows, the CPU lane's above the GPU lane's, runs nowhere: the lanes
  exchange the rows that they read.

Nothing moves data explicitly: a later pass inserts the transfers that these calls imply.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar

import tvm

from syncnas_tvm.errors import PlanError, RuleError, error_line
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.plan import Decision
from syncnas_tvm.work import Work


class SplitRule(ABC):
    """One way to run a region on the lanes. Subclass it and decorate with :func:`register_rule`."""

    name: ClassVar[str]

    @abstractmethod
    def applies(self, graph: RegionGraph, region: Region) -> bool:
        """Whether the rule can act on ``region`` (or on a run of regions that starts there)."""

    @abstractmethod
    def variants(self, graph: RegionGraph, region: Region) -> list[Decision]:
        """The decisions worth trying; each covers ``region`` or a run that starts with it."""

    @abstractmethod
    def rewrite(
        self, mod: tvm.IRModule, graph: RegionGraph, region: Region, decision: Decision
    ) -> tvm.IRModule:
        """Relax in, Relax out: replace the body of the region's function, exactly.

        A decision on several regions gets them as one, :meth:`RegionGraph.run`, and a ``mod`` that
        has one function for them all.
        """

    def work(self, graph: RegionGraph, region: Region, decision: Decision) -> Work:
        """What each lane does under ``decision``, for the timeline.

        ``region`` is what :meth:`rewrite` gets. The default reads the work off the rewritten region,
        so that the prediction is of what runs.
        """
        from syncnas_tvm.graph.region_work import work_of

        mod = graph.module_of(decision.regions)
        return work_of(self.rewrite(mod, graph, region, decision), region.name)


_RULES: dict[str, SplitRule] = {}
_LOADED: set[EntryPoint] = set()


def register_rule(cls: type[SplitRule]) -> type[SplitRule]:
    """Class decorator: make a rule known to the search, the rewriter and plans by its ``name``.

    Raises RuleError where another class has that name; a class that is defined again, as on a
    reload of its module, takes its own place.
    """
    if not getattr(cls, "name", ""):
        raise RuleError(f"split rule {cls.__name__} has no 'name'; give the class one")
    if cls.__module__.rpartition(".")[0] != __package__:
        _load_built_in()  # they come first, and keep their names
    if cls.name in _RULES:
        known, new = _path(type(_RULES[cls.name])), _path(cls)
        if known != new:
            raise RuleError(
                f"split rules {known} and {new} both have the name '{cls.name}'; change one"
            )
    _RULES[cls.name] = cls()
    return cls


def _path(cls: type[SplitRule]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def rules() -> tuple[SplitRule, ...]:
    """All registered rules: the built-in ones first, then others as they were registered."""
    _load()
    return tuple(_RULES.values())


def rule(name: str) -> SplitRule:
    """The rule of that name; raises PlanError where no such rule is registered."""
    _load()
    try:
        return _RULES[name]
    except KeyError:
        known = ", ".join(sorted(_RULES))
        raise PlanError(f"no split rule '{name}'; the registered ones are {known}") from None


def _load_built_in() -> None:
    from syncnas_tvm.passes import branches, channel_split, place, row_split  # noqa: F401


@functools.cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="syncnas_tvm.rules"))


def _load() -> None:
    """Import the built-in rules and those of installed packages; one that failed is tried again."""
    _load_built_in()
    for entry in _entry_points():
        if entry in _LOADED:
            continue
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name
            raise RuleError(
                f"the split rule '{entry.name}' ({entry.value}) of package '{package}' does not load: "
                f"{error_line(error)}; fix or uninstall the package"
            ) from error
        _LOADED.add(entry)
