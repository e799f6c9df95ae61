"""``InsertPrefetches``: the weights that a convolution multiplies with next are on their way in time."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx

# On the innermost loop of a convolution's sum: rows of the output, by which the tiles go through them.
MARK = "syncnas.prefetch"
# Arguments of llvm.prefetch: to be read, into the second-level cache, data.
_ARGUMENTS = (0, 2, 1)


@tvm.transform.module_pass(opt_level=0, name="InsertPrefetches")
class InsertPrefetches:
    """Fetch the next tile's weights into the second-level cache while this one's are multiplied.

    A network comes back to a kernel when others have pushed its weights out of the caches, and the first
    pass over them would wait for memory. Marked are the innermost loops of sums whose tiles go through all
    pixels of some channels before the next: each of the first tiles of a group fetches one of the vectors
    that the next group multiplies in the same step.

    Before, with two vectors of output channels in a tile::

        for group_row in parallel(groups * rows):  # marked: rows
            for column, i, ky, kx, s in grid(...):
                sum[...] += data[i, ...] * weight[group_row // rows * 2 + 0..1, i, ky, kx, s, 0..V]

    After::

            for column, i, ky, kx, s in grid(...):
                prefetch(weight[(group_row // rows + 1) * 2 + min(tile in the group, 1), i, ky, kx, s, 0])
                sum[...] += ...
    """

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rewrite the kernels that have a mark."""
        for gv, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc):
                body = _insert(function.body, ())
                if body is not function.body:
                    mod[gv] = tirx.PrimFunc(
                        function.params, body, function.ret_type, attrs=function.attrs
                    )
        return mod


def _insert(stmt: tirx.Stmt, above: tuple[tirx.For, ...]) -> tirx.Stmt:
    """``stmt``, which is inside of the loops ``above``; itself where nothing in it is marked."""
    if isinstance(stmt, tirx.SeqStmt):
        parts = [_insert(part, above) for part in stmt.seq]
        changed = any(new is not old for new, old in zip(parts, stmt.seq, strict=True))
        return tirx.SeqStmt(parts) if changed else stmt
    if isinstance(stmt, tirx.For):
        notes = dict(stmt.annotations.items())
        loops, rows = (*above, stmt), notes.pop(MARK, None)
        body = _insert(stmt.body, loops) if rows is None else _fetching(loops, int(rows))
        if body is stmt.body:
            return stmt
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding, notes
        )
    if isinstance(stmt, s_tir.SBlockRealize):
        old = stmt.block
        body = _insert(old.body, above)
        if body is old.body:
            return stmt
        block = s_tir.SBlock(
            old.iter_vars, old.reads, old.writes, old.name_hint, body,
            old.init, old.alloc_buffers, old.match_buffers, old.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, block)
    return stmt


def _fetching(loops: tuple[tirx.For, ...], rows: int) -> tirx.Stmt:
    """The innermost of ``loops``' body, with the prefetch in front."""
    group_row, column, *reduce = loops[-6:]
    tile, stmt = [], loops[-1].body
    while isinstance(stmt, tirx.For):
        tile.append(int(stmt.extent))
        stmt = stmt.body
    *_, channels, _vector = tile
    (weight,) = (read.source for read in stmt.block.reads if len(read.region) == 6)
    groups = int(group_row.extent) // rows
    following = tirx.min(group_row.loop_var // rows + 1, groups - 1)
    tile_in_group = group_row.loop_var % rows * column.extent + column.loop_var
    vector = following * channels + tirx.min(tile_in_group, channels - 1)
    at = tirx.BufferLoad(weight, [vector, *(loop.loop_var for loop in reduce), 0])
    arguments = [tirx.const(n, "int32") for n in _ARGUMENTS]
    call = tirx.call_llvm_intrin("void", "llvm.prefetch.p0", tirx.address_of(at), *arguments)
    return tirx.SeqStmt([tirx.Evaluate(call), loops[-1].body])
