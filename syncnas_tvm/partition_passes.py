"""Partition passes of one's own: changes of the plan, and Relax passes at named places."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import tvm
import tvm_ffi

from syncnas_tvm.errors import InputError, PassError, SyncNASError, error_line
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.plan import Plan

if TYPE_CHECKING:
    from syncnas_tvm.planner import Space

PlaceName = Literal["import", "plan", "transfers", "kernels"]
PLACES: tuple[PlaceName, ...] = get_args(PlaceName)


@dataclass(frozen=True)
class RelaxPass:
    """A Relax pass and where in the pipeline it runs.

    - ``import``: on ``main`` as it was imported and normalised, before the regions are found. It
      keeps ``main``'s parameters and results.
    - ``plan``: on a ``main`` that calls lane functions and joins (:mod:`syncnas_tvm.passes.rule`).
    - ``transfers``: the same with every movement of data between the lanes explicit.
    - ``kernels``: lane functions call scheduled TIR kernels.
    """

    place: PlaceName
    relax_pass: tvm.transform.Pass

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise InputError(f"no place '{self.place}' for a Relax pass; use {', '.join(PLACES)}")


PlanPass = Callable[[RegionGraph, Plan], Plan]
"""Takes the regions and the plan that was searched or given, returns the plan to compile."""
PartitionPass = PlanPass | RelaxPass


class PartitionPasses:
    """The passes of one compile, in the order in which they were given.

    A pass that raises, or returns what is no plan of the model or has other inputs and outputs, is
    named in a PassError. What only later steps can see is said with all Relax passes that ran before:
    :meth:`suspected`.
    """

    def __init__(self, passes: Sequence[PartitionPass] = ()) -> None:
        for given in passes:
            if isinstance(given, tvm.transform.Pass):
                raise InputError(
                    f"Relax pass '{given.info.name}' has no place; give RelaxPass(place, it), the place "
                    f"one of {', '.join(PLACES)}"
                )
            if not isinstance(given, RelaxPass) and not callable(given):
                raise InputError(
                    f"{given!r} is no partition pass; give a function of (graph, plan) that returns "
                    "a plan, or a RelaxPass"
                )
        self._passes = tuple(passes)

    def on_plan(self, graph: RegionGraph, space: Space, plan: Plan) -> Plan:
        """The plan after all plan passes; raises PassError where one does not return a plan of ``space``."""
        for given in self._passes:
            if isinstance(given, RelaxPass):
                continue
            with _named(given):
                plan = given(graph, plan)
                if not isinstance(plan, Plan):
                    raise PassError(f"it returned {type(plan).__name__}, not a Plan")
                space.match(plan)
        return plan

    def run(self, place: PlaceName, mod: tvm.IRModule) -> tvm.IRModule:
        """``mod`` after all Relax passes of ``place``."""
        for given in self._passes:
            if not isinstance(given, RelaxPass) or given.place != place:
                continue
            with _named(given):
                before = mod["main"].ty
                mod = given.relax_pass(mod)
                after = mod["main"].ty
                if place == "import" and not tvm_ffi.structural_equal(before, after):
                    raise PassError(f"main was {before} and is now {after}; it has to stay")
        return mod

    @contextmanager
    def suspected(self, place: PlaceName | None = None) -> Iterator[None]:
        """Names the Relax passes of the places before ``place``, or all, in whatever is raised inside.

        Other errors than the project's own become PassErrors.
        """
        places = PLACES if place is None else PLACES[: PLACES.index(place)]
        ran = [p for p in self._passes if isinstance(p, RelaxPass) and p.place in places]
        try:
            yield
        except Exception as error:
            if not ran:
                raise
            own = isinstance(error, SyncNASError)
            what = str(error) if own else f"{type(error).__name__}: {error_line(error)}"
            names = ", ".join(map(_called, ran))
            kind = type(error) if own else PassError
            raise kind(f"after {names}, which may be the cause: {what}") from error


@contextmanager
def _named(given: PartitionPass) -> Iterator[None]:
    """Names the pass in whatever is raised inside."""
    try:
        yield
    except SyncNASError as error:
        raise PassError(f"{_called(given)}: {error}") from error
    except Exception as error:
        raise PassError(f"{_called(given)} failed: {error_line(error)}") from error


def _called(given: PartitionPass) -> str:
    """What a pass is called in messages."""
    if isinstance(given, RelaxPass):
        return f"partition pass '{given.relax_pass.info.name}' at '{given.place}'"
    return f"partition pass '{getattr(given, '__name__', type(given).__name__)}' on the plan"


def load_pass(spec: str) -> PartitionPass:
    """The pass that ``module:Name`` names; a class is called without arguments.

    Raises InputError where there is none.
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise InputError(f"--pass {spec}: name it as module:Name")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InputError(
            f"--pass {spec}: module '{module}' cannot be imported ({error_line(error)}); "
            "run in its folder, or set PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise InputError(f"--pass {spec}: there is no '{name}' in module '{module}'") from error
    except Exception as error:
        raise InputError(f"--pass {spec}: module '{module}' fails: {error_line(error)}") from error
    try:
        found = found() if isinstance(found, type) else found
        PartitionPasses([found])
    except Exception as error:
        raise InputError(f"--pass {spec}: {error_line(error)}") from error
    return found
