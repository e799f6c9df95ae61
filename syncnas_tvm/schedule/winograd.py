"""Winograd's F(2 x 2, 3 x 3): a 3 x 3 convolution with 16 multiplications for 4 outputs, not 36.

Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1.
Tiles of 4 x 4 inputs, two apart, are transformed to 16 values; each is multiplied with its own matrix
of weights over the channels; the 16 sums are transformed to 2 x 2 outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr

from syncnas_tvm.schedule.layout import pack_dense_weight
from syncnas_tvm.work import Shape

TILE, OUT = 4, 2
# Below this many channels the transforms cost what the multiplications save.
MIN_CHANNELS = 32
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def pack_weight(weight: np.ndarray, vector: int) -> np.ndarray:
    """OIHW (3 x 3) to ``[O/V, 4, 4, I/V, V in, V out]``, transformed in double precision."""
    transformed = np.einsum("xr,oirs,ys->oixy", _G, weight.astype("float64"), _G)
    packed = pack_dense_weight(transformed.astype("float32"), vector, vector)
    return np.ascontiguousarray(packed.transpose(0, 2, 3, 1, 4, 5))


def transform_input(padded: te.Tensor, rows: int, columns: int) -> te.Tensor:
    """``[4, 4, I/V, rows, columns, V]`` of ``padded`` ``[I/V, 2 rows + 2, 2 columns + 2, V]``."""
    into, _, _, vector = (int(n) for n in padded.shape)

    def value(xi: Expr, nu: Expr, i: Expr, ty: Expr, tx: Expr, c: Expr) -> Expr:
        def along_row(row: Expr) -> Expr:
            return _difference(nu, lambda s: padded[i, ty * OUT + row, tx * OUT + s, c])

        return _difference(xi, along_row)

    return te.compute((TILE, TILE, into, rows, columns, vector), value, name="data")


def multiply(data: te.Tensor, weight: te.Tensor) -> te.Tensor:
    """``[4, 4, O/V, rows, columns, V]``: the sums over the input channels."""
    _, _, into, rows, columns, vector = (int(n) for n in data.shape)
    i, s = te.reduce_axis((0, into), "i"), te.reduce_axis((0, vector), "vi")
    return te.compute(
        (TILE, TILE, int(weight.shape[0]), rows, columns, vector),
        lambda xi, nu, o, ty, tx, c: te.sum(
            data[xi, nu, i, ty, tx, s] * weight[o, xi, nu, i, s, c], axis=[i, s]
        ),
        name="acc",
    )


def transform_output(sums: te.Tensor, index: tuple[Expr, ...]) -> Expr:
    """The output at ``index`` (block, row, column, lane)."""
    o, y, x, c = index

    def along_row(xi: int) -> Expr:
        return _sum(x % OUT, lambda nu: sums[xi, nu, o, y // OUT, x // OUT, c])

    return _sum(y % OUT, along_row)


def _difference(which: Expr, at: Callable[[Expr], Expr]) -> Expr:
    """A row of B^T: 0 - 2, 1 + 2, 2 - 1, 1 - 3. ``which`` is a constant once its loop is unrolled."""
    first = tirx.Select(which == 0, 0, tirx.Select(which == 2, 2, 1))
    second = tirx.Select(which == 2, 1, tirx.Select(which == 3, 3, 2))
    a, b = at(first), at(second)
    return tirx.Select(which == 1, a + b, a - b)


def _sum(which: Expr, at: Callable[[int], Expr]) -> Expr:
    """A row of A^T: 0 + 1 + 2, 1 - 2 - 3."""
    m0, m1, m2, m3 = (at(n) for n in range(TILE))
    return tirx.Select(which == 0, m0 + m1 + m2, m1 - m2 - m3)


def tiles(shape: Shape) -> tuple[int, int]:
    """Rows and columns of tiles of an NCHW output."""
    return -(-shape[2] // OUT), -(-shape[3] // OUT)
