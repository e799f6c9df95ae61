"""Writing lane functions and joins: what the split rules share."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax

from syncnas_tvm.graph.calls import JOIN_ATTR, LANE_ATTR, PHASE_ATTR, REGION_ATTR
from syncnas_tvm.graph.rebuild import emit_function, fresh_params
from syncnas_tvm.graph.region_graph import Region
from syncnas_tvm.work import Lane, SyncKind


def lane_attrs(region: str, lane: Lane, phase: int) -> dict[str, object]:
    """Attributes that make a private function a lane function."""
    return {REGION_ATTR: region, LANE_ATTR: lane, PHASE_ATTR: phase}


def join_attrs(region: str, kind: SyncKind, phase: int) -> dict[str, object]:
    """Attributes that make a private function a join."""
    return {REGION_ATTR: region, JOIN_ATTR: kind, PHASE_ATTR: phase}


def replace_region(
    mod: tvm.IRModule,
    region: Region,
    body: Callable[[relax.BlockBuilder, list[relax.Var]], list[relax.Expr]],
) -> tvm.IRModule:
    """``mod`` with the region's function rewritten.

    ``body`` gets a builder, to add lane functions and joins to, and the region's parameters, and
    returns the region's results.
    """
    old = mod[region.name]
    builder = relax.BlockBuilder()
    params = fresh_params(old.params)
    emit_function(
        builder, region.name, params, lambda: body(builder, params), {REGION_ATTR: region.name}
    )
    written = builder.get()
    result = mod.clone()
    for gv, function in written.functions_items():
        key = result.get_global_var(region.name) if gv.name_hint == region.name else gv
        result[key] = function
    return result
