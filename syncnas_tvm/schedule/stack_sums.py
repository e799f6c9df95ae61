"""The pipeline that compiles scheduled kernels: TVM's own, with textures, and a tile's sums in registers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import tvm
from tvm import tirx
from tvm.s_tir.backend.adreno.transform import TextureFlatten

_NAME = "syncnas"
# TVM's mark of an allocation that its lowering leaves to the code generator.
_LEAVE = "disable_lower_builtin"
# Bytes of a local buffer on the stack: four times what fits in 32 registers of 64 bytes.
_MOST = 8 << 10
Factory = Callable[[], tvm.transform.Pass]


def pipeline() -> str:
    """The name that TVM knows the pipeline by, once this was called: ``tir_pipeline`` of its builds."""
    tirx.register_tir_pipeline(_NAME, _passes)
    return _NAME


def _passes() -> tuple[tvm.transform.Pass, Factory, Factory]:
    lower, finalize_host, finalize_device = tirx.get_tir_pipeline("default")
    # TVM's pipeline for Adreno, which has this pass too, cannot be built with in this release.
    return (
        tvm.transform.Sequential([TextureFlatten(), lower, KeepSumsOnStack()]),
        finalize_host,
        finalize_device,
    )


@tvm.transform.module_pass(opt_level=0, name="KeepSumsOnStack")
class KeepSumsOnStack:
    """Allocate the CPU lane's local buffers on the stack, from where LLVM takes them into registers.

    TVM would ask its runtime for them in each parallel iteration. LLVM cannot know that such memory is
    not the weights': it writes the sums back there, with zeros first, and around each prefetch.

    Before (lowered)::

        acc = TVMBackendAllocWorkspace(...)

    After::

        acc = alloca(...)
    """

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Mark the local allocations of the functions that run on a CPU."""
        for gv, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and function.attrs["target"].kind.name == "llvm":
                mod[gv] = tirx.PrimFunc(
                    function.params, _kept(function.body), function.ret_type, attrs=function.attrs
                )
        return mod


def _kept(stmt: tirx.Stmt) -> tirx.Stmt:
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_kept(part) for part in stmt.seq])
    if isinstance(stmt, tirx.AttrStmt):
        return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, _kept(stmt.body))
    if isinstance(stmt, tirx.IfThenElse):
        other = None if stmt.else_case is None else _kept(stmt.else_case)
        return tirx.IfThenElse(stmt.condition, _kept(stmt.then_case), other)
    if isinstance(stmt, tirx.For):
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, _kept(stmt.body),
            stmt.thread_binding, stmt.annotations,
        )  # fmt: skip
    if isinstance(stmt, tirx.AllocBuffer) and _is_tile(stmt.buffer):
        return tirx.AllocBuffer(stmt.buffer, {_LEAVE: tirx.IntImm("bool", 1)})
    return stmt


def _is_tile(buffer: tirx.Var) -> bool:
    """Whether a buffer is local and small: a long row of sums stays in TVM's workspace."""
    sizes = [n.value if isinstance(n, tirx.IntImm) else _MOST + 1 for n in buffer.ty.shape]
    nbytes = prod(sizes) * tvm.DataType(str(buffer.ty.dtype)).itemsize
    return buffer.scope() == "local" and nbytes <= _MOST
