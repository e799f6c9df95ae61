"""Partition passes of one's own: changes of the plan, and Relax passes at named places."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import tvm
import tvm_ffi

from syncnas_tvm.errors import InputError, PlanError, RuleError, SyncNASError, error_line
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.plan import Plan

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

    What they raise, and what breaks the compile, is said with the pass's name.
    """

    def __init__(self, passes: Sequence[PartitionPass] = ()) -> None:
        for given in passes:
            if not isinstance(given, RelaxPass) and not callable(given):
                raise InputError(
                    f"{given!r} is no partition pass; give a function of (graph, plan) that returns "
                    "a plan, or a RelaxPass"
                )
        self._passes = tuple(passes)

    def on_plan(self, graph: RegionGraph, plan: Plan) -> Plan:
        """The plan after all plan passes; raises PlanError where one does not return a plan."""
        for given in self._passes:
            if isinstance(given, RelaxPass):
                continue
            with _Named(given, "on the plan"):
                plan = given(graph, plan)
                if not isinstance(plan, Plan):
                    raise PlanError(f"it returned {type(plan).__name__}, not a Plan")
                plan.covers(graph.names)
        return plan

    def run(self, place: PlaceName, mod: tvm.IRModule) -> tvm.IRModule:
        """``mod`` after all Relax passes of ``place``."""
        for given in self._passes:
            if not isinstance(given, RelaxPass) or given.place != place:
                continue
            with _Named(given, f"at '{place}'"):
                before = mod["main"].ty
                mod = given.relax_pass(mod)
                after = mod["main"].ty
                if place == "import" and not tvm_ffi.structural_equal(before, after):
                    raise RuleError(f"main was {before} and is now {after}; it has to stay")
        return mod


class _Named:
    """Names the pass in whatever is raised inside."""

    def __init__(self, given: PartitionPass, where: str) -> None:
        self._where = f"partition pass '{name_of(given)}' {where}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, SyncNASError):
            raise type(error)(f"{self._where}: {error}") from error
        if isinstance(error, Exception):
            raise RuleError(f"{self._where} failed: {error_line(error)}") from error


def name_of(given: PartitionPass) -> str:
    """What a pass is called in messages."""
    if isinstance(given, RelaxPass):
        return str(given.relax_pass.info.name)
    return str(getattr(given, "__name__", type(given).__name__))


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
