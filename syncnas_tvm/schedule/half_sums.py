"""Sums in half precision that stay short: a dense convolution's are added up in float32.

A float16 has 11 bits. A sum of some hundred terms would lose more to its own roundings than its
operands have; one of ``TERMS`` terms does not, and a float32 takes in these parts.
"""

from __future__ import annotations

from tvm import s_tir, te
from tvm.ir import Expr

from syncnas_tvm.schedule.blocks import largest_divisor
from syncnas_tvm.schedule.packed_tile import set_to_zero
from syncnas_tvm.work import Shape

TERMS = 32


def dense_in_parts(
    padded: te.Tensor,
    weight: te.Tensor,
    shape: Shape,
    strides: tuple[int, int],
    dilation: tuple[int, int],
    low: int,
) -> te.Tensor:
    """``convolutions.dense`` with a block ``part``, of halves, in front of ``acc``."""
    _, steps, kh, kw, step, vector = (int(n) for n in weight.shape)
    per = vector // step
    length = largest_divisor(steps, max(1, TERMS // (kh * kw * step)))
    i, s = te.reduce_axis((0, length), "i"), te.reduce_axis((0, step), "vi")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")

    def value(j: Expr, o: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        row, column = y * strides[0] + ky * dilation[0], x * strides[1] + kx * dilation[1]
        own = j * length + i
        at = own + low if low else own
        data = padded[at // per, row, column, at % per * step + s]
        return te.sum(data * weight[o, own, ky, kx, s, c], axis=[i, ky, kx, s])

    part = te.compute((steps // length, *shape), value, name="part")
    j = te.reduce_axis((0, steps // length), "j")
    return te.compute(
        shape,
        lambda o, y, x, c: te.sum(part[j, o, y, x, c].astype("float32"), axis=[j]),
        name="acc",
    )


def has_parts(sch: s_tir.Schedule) -> bool:
    """Whether the kernel's dense sum is made of parts."""
    names = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    return "part" in names


def accumulate_parts(sch: s_tir.Schedule, outside: int) -> None:
    """Compute each ``part`` inside of the loop of ``acc``, already scheduled, that adds it up.

    ``outside`` is the number of loops around that one.
    """
    part = sch.get_sblock("part")
    at = sch.get_loops(sch.get_sblock("acc_update"))[outside]
    sch.compute_at(part, at, preserve_unit_loops=True)
    which, o, y, x, vector, *reduce = list(sch.get_loops(part))[outside + 1 :]
    sch.reorder(which, *reduce, y, x, o, vector)
    sch.vectorize(vector)
    for loop in (y, x, o):
        sch.unroll(loop)
    set_to_zero(sch, part, reduce[0], outside + 2)
    sch.set_scope(part, 0, "local")
