"""``NarrowVectors``: keeps kernels of the GPU lane to the vectors that its OpenCL can do."""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from tvm import s_tir, tirx

# Marks a loop between the two steps.
_VECTOR = "syncnas.vector"


@tvm.transform.module_pass(opt_level=0, name="NarrowVectors")
class NarrowVectors:
    """Cut vectorized loops of more than ``lanes`` iterations into unrolled vectors of ``lanes``.

    Both lanes keep their values in groups of channels as wide as the CPU's vectors, 16 with AVX-512,
    and the kernels' vectors are as long; an OpenCL driver may do no more than 8 well. What is computed
    stays the same, element by element.

    Before::

        for c in vectorized(16): out[c] = a[c] + b[c]

    After, with ``lanes`` 8::

        for c_0 in unroll(2):
            for c_1 in vectorized(8): out[c_0 * 8 + c_1] = a[c_0 * 8 + c_1] + b[c_0 * 8 + c_1]
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rewrite the scheduled OpenCL kernels."""
        for gv, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and _on_opencl(function):
                mod[gv] = _narrow(function, self.lanes)
        return mod


def _on_opencl(function: tirx.PrimFunc) -> bool:
    return "target" in function.attrs and function.attrs["target"].kind.name == "opencl"


def _narrow(function: tirx.PrimFunc, lanes: int) -> tirx.PrimFunc:
    sch = s_tir.Schedule(tvm.IRModule({"main": function}))
    changed = False
    for block in list(_blocks(sch, sch.get_sblock("root"))):
        for loop in sch.get_loops(block):
            stmt = sch.get(loop)
            if stmt.kind != tirx.ForKind.VECTORIZED or int(stmt.extent) <= lanes:
                continue
            outer, inner = sch.split(loop, [None, lanes])
            sch.unroll(outer)
            sch.annotate(inner, _VECTOR, 1)
            changed = True
    if not changed:
        return function
    result = sch.mod["main"]
    return tirx.PrimFunc(
        result.params, _vectorized(result.body), result.ret_type, attrs=result.attrs
    )


def _blocks(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV
) -> Iterator[s_tir.schedule.SBlockRV]:
    for child in sch.get_child_blocks(block):
        yield child
        yield from _blocks(sch, child)


def _vectorized(stmt: tirx.Stmt) -> tirx.Stmt:
    """``stmt`` with the loops vectorized that are marked so.

    ``Schedule.vectorize`` refuses a loop whose block adds to what another one has set to zero,
    although the loop was vectorized before.
    """
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_vectorized(part) for part in stmt.seq])
    if isinstance(stmt, tirx.For):
        kind, notes = stmt.kind, dict(stmt.annotations.items())
        if notes.pop(_VECTOR, None):
            kind = tirx.ForKind.VECTORIZED
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, kind, _vectorized(stmt.body),
            stmt.thread_binding, notes,
        )  # fmt: skip
    if isinstance(stmt, s_tir.SBlockRealize):
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, _vectorized(stmt.block))
    if isinstance(stmt, s_tir.SBlock):
        return s_tir.SBlock(
            stmt.iter_vars, stmt.reads, stmt.writes, stmt.name_hint, _vectorized(stmt.body),
            stmt.init, stmt.alloc_buffers, stmt.match_buffers, stmt.annotations,
        )  # fmt: skip
    return stmt
