"""Several functions that compute parts of one output, as one function."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Range

from syncnas_tvm.work import Shape


def redirect(function: tirx.PrimFunc, shape: Shape, axis: int, first: int) -> tirx.PrimFunc:
    """``function`` writing its output into one of ``shape``, from ``first`` of dimension ``axis`` on.

    The function is as TE made it: its last nest of loops is the block that writes the output.
    """
    output = tirx.decl_buffer(shape, function.params[-1].ty.dtype, "output")
    root = function.body.block
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    nests[-1] = _redirect_nest(nests[-1], output, axis, first)
    block = s_tir.SBlock(
        [], [], [], "root", tirx.SeqStmt(nests) if len(nests) > 1 else nests[0],
        alloc_buffers=root.alloc_buffers,
    )  # fmt: skip
    body = s_tir.SBlockRealize([], True, block)
    return tirx.PrimFunc([*function.params[:-1], output], body, attrs=function.attrs)


def _redirect_nest(stmt: tirx.Stmt, output: tirx.Var, axis: int, first: int) -> tirx.Stmt:
    if isinstance(stmt, tirx.For):
        body = _redirect_nest(stmt.body, output, axis, first)
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body)
    old, store = stmt.block, stmt.block.body
    index = list(store.indices)
    index[axis] += first
    region = tirx.BufferRegion(output, [Range.from_min_extent(i, 1) for i in index])
    block = s_tir.SBlock(
        old.iter_vars, old.reads, [region], old.name_hint,
        tirx.BufferStore(output, store.value, index),
    )  # fmt: skip
    return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, block)


def merge(functions: Sequence[tirx.PrimFunc]) -> tirx.PrimFunc:
    """A function that runs ``functions``, of equal parameters, one after the other."""
    model = functions[0].params
    params = [
        tirx.decl_buffer(p.ty.shape, p.ty.dtype, f"b{i}", scope=p.scope())
        for i, p in enumerate(model)
    ]
    parts = [_part(function, params, i) for i, function in enumerate(functions)]
    root = s_tir.SBlock([], [], [], "root", tirx.SeqStmt(parts))
    return tirx.PrimFunc(params, s_tir.SBlockRealize([], True, root), attrs=functions[0].attrs)


def _part(function: tirx.PrimFunc, params: Sequence[tirx.Var], number: int) -> s_tir.SBlockRealize:
    """A function's body as a block that knows ``params`` under its own names."""
    old = function.body.block
    regions = [
        tirx.BufferRegion(p, [Range.from_min_extent(0, n) for n in p.ty.shape]) for p in params
    ]
    block = s_tir.SBlock(
        [],
        regions[:-1],
        regions[-1:],
        f"part{number}",
        old.body,
        alloc_buffers=old.alloc_buffers,
        match_buffers=[
            s_tir.MatchBufferRegion(own, region)
            for own, region in zip(function.params, regions, strict=True)
        ],
    )
    return s_tir.SBlockRealize([], True, block)
