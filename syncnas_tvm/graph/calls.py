"""A function that only calls other Relax functions: the regions in ``main``, the lanes in a region."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from syncnas_tvm.errors import RuleError
from syncnas_tvm.graph.dataflow import dtype_of, shape_of
from syncnas_tvm.work import Lane, tensor_bytes

LANE_ATTR = "syncnas.lane"
PHASE_ATTR = "syncnas.phase"
JOIN_ATTR = "syncnas.join"
REGION_ATTR = "syncnas.region"


@dataclass(frozen=True, eq=False)
class CallSite:
    """One call: what is called, with which values, and which values it returns.

    A call that returns a tuple lists in ``results`` the variables that its items are bound to, at
    their positions, None for an item that is never taken.
    """

    callee: tvm.ir.GlobalVar
    function: relax.Function
    args: tuple[relax.Var, ...]
    results: tuple[relax.Var | None, ...]

    @property
    def region(self) -> str:
        """Name of the region that the callee belongs to."""
        return str(self.function.attrs.get(REGION_ATTR, ""))

    @property
    def lane(self) -> Lane | None:
        """Lane of a lane function, None for anything else."""
        lane = self.function.attrs.get(LANE_ATTR)
        return None if lane is None else str(lane)  # type: ignore[return-value]

    @property
    def join(self) -> str | None:
        """Kind of a join, None for anything else."""
        kind = self.function.attrs.get(JOIN_ATTR)
        return None if kind is None else str(kind)

    @property
    def phase(self) -> int:
        """Phase of a lane function; of a join, the phase that it ends."""
        return int(self.function.attrs.get(PHASE_ATTR, 0))


@dataclass(frozen=True, eq=False)
class CallList:
    """The calls of a function in program order, its parameters and its results."""

    params: tuple[relax.Var, ...]
    calls: tuple[CallSite, ...]
    outputs: tuple[relax.Var, ...]


def calls_of(mod: tvm.IRModule, function: relax.Function) -> CallList:
    """Read ``function``; raises RuleError where it does anything but call functions of ``mod``."""
    alias: dict[relax.Var, relax.Expr] = {}
    items: dict[relax.Var, dict[int, relax.Var]] = {}
    found: list[tuple[relax.Var, relax.Call]] = []

    def resolve(value: relax.Expr) -> relax.Expr:
        while isinstance(value, relax.Var) and value in alias:
            value = alias[value]
        return value

    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Var | relax.Tuple):
                alias[binding.var] = value
            elif isinstance(value, relax.TupleGetItem):
                source = resolve(value.tuple_value)
                if isinstance(source, relax.Tuple):
                    alias[binding.var] = source.fields[value.index]
                    continue
                taken = items.setdefault(source, {})
                if value.index in taken:
                    alias[binding.var] = taken[value.index]
                else:
                    taken[value.index] = binding.var
            elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
                found.append((binding.var, value))
            else:
                raise RuleError(
                    f"'{binding.var.name}' is computed outside a lane function or a join; "
                    "a split rule has to put every operator into one of them"
                )
    calls = []
    for var, call in found:
        if isinstance(var.ty, relax.TupleType):
            taken = items.get(var, {})
            results = tuple(taken.get(i) for i in range(len(var.ty.fields)))
        else:
            results = (var,)
        args = tuple(resolve(arg) for arg in call.args)
        calls.append(CallSite(call.op, mod[call.op], args, results))
    result = resolve(function.body.body)
    outputs = result.fields if isinstance(result, relax.Tuple) else [result]
    return CallList(tuple(function.params), tuple(calls), tuple(resolve(o) for o in outputs))


def bytes_of(values: tuple[relax.Var | None, ...]) -> int:
    """Bytes of all tensors in ``values``."""
    return sum(tensor_bytes(shape_of(v), dtype_of(v)) for v in values if v is not None)
