"""The kernels between NCHW and the packed layout."""

from __future__ import annotations

from tvm import te, tirx
from tvm.ir import Expr

from syncnas_tvm.schedule.layout import packed_shape
from syncnas_tvm.work import Shape


def conversion(shape: Shape, vector: int, packing: bool, dtype: str = "float32") -> tirx.PrimFunc:
    """The kernel between NCHW and the packed layout: to it if ``packing``, else back."""
    packed = packed_shape(shape, vector)
    if packing:
        a = te.placeholder(shape, dtype, name="a0")
        fill = tirx.const(0.0, dtype)

        def value(o: Expr, y: Expr, x: Expr, v: Expr) -> Expr:
            channel = o * vector + v
            if shape[1] % vector == 0:
                return a[0, channel, y, x]
            return tirx.if_then_else(channel < shape[1], a[0, channel, y, x], fill)

        return te.create_prim_func([a, te.compute(packed, value, name="out")])
    a = te.placeholder(packed, dtype, name="a0")
    out = te.compute(shape, lambda n, c, y, x: a[c // vector + n, y, x, c % vector], name="out")
    return te.create_prim_func([a, out])
