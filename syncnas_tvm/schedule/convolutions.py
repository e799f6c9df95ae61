"""The sums of the convolution families, as TE tensors in the packed layout.

All give ``acc`` of shape ``[blocks, H, W, V]``. ``strides`` and ``dilation`` are of rows and columns.
Operands may be halves; sums are float32, but for ``depthwise``, whose windows are short.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import te, tirx
from tvm.ir import Expr

from syncnas_tvm.schedule.texture import FromTexture
from syncnas_tvm.work import Shape

Pair = tuple[int, int]


def wide(value: Expr) -> Expr:
    """``value`` as a float32, in which all is computed that has no reason not to be."""
    return value.astype("float32")


@dataclass(frozen=True, eq=False)
class RowsOf:
    """``rows`` rows of a tensor from row ``first`` on, read as if they were a tensor."""

    tensor: te.Tensor
    axis: int
    first: int
    rows: int

    @property
    def dtype(self) -> str:
        """The tensor's element type."""
        return str(self.tensor.dtype)

    @property
    def shape(self) -> Shape:
        """The tensor's shape with ``rows`` rows."""
        return tuple(
            self.rows if i == self.axis else int(n) for i, n in enumerate(self.tensor.shape)
        )

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        row = index[self.axis] + self.first
        return self.tensor[(*index[: self.axis], row, *index[self.axis + 1 :])]


def dense(
    padded: te.Tensor | RowsOf,
    weight: te.Tensor | FromTexture,
    shape: Shape,
    strides: Pair,
    dilation: Pair,
    low: int,
) -> te.Tensor:
    """A convolution over all input channels from step ``low`` on.

    ``padded`` is ``[I/V, H, W, V]``; ``weight`` ``[blocks, I/S, kh, kw, S in, V out]`` for steps of
    S input channels, S a divisor of V.
    """
    _, steps, kh, kw, step, vector = (int(n) for n in weight.shape)
    per = vector // step
    i, s = te.reduce_axis((0, steps), "i"), te.reduce_axis((0, step), "vi")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")

    def value(o: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        row, column = y * strides[0] + ky * dilation[0], x * strides[1] + kx * dilation[1]
        at = i + low if low else i
        data = padded[at // per, row, column, at % per * step + s]
        return te.sum(wide(data) * wide(weight[o, i, ky, kx, s, c]), axis=[i, ky, kx, s])

    return te.compute(shape, value, name="acc")


def stem(
    image: te.Tensor | RowsOf,
    weight: te.Tensor,
    shape: Shape,
    strides: Pair,
    dilation: Pair,
    before: Pair | None = None,
) -> te.Tensor:
    """A convolution of an ``image`` ``[1, I, H, W]``; weight ``[blocks, I, kh, kw, V]``.

    The image is padded, or has ``before`` rows and columns of padding in front, which are not there.
    """
    *_, height, width = (int(n) for n in image.shape)
    _, into, kh, kw, _ = (int(n) for n in weight.shape)
    i = te.reduce_axis((0, into), "i")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")

    def value(o: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        row, column = y * strides[0] + ky * dilation[0], x * strides[1] + kx * dilation[1]
        factor = wide(weight[o, i, ky, kx, c])
        if before is not None:
            row, in_row = _clamped(row - before[0], height)
            column, in_column = _clamped(column - before[1], width)
            factor = factor * wide(in_row) * wide(in_column)
        return te.sum(wide(image[0, i, row, column]) * factor, axis=[i, ky, kx])

    return te.compute(shape, value, name="acc")


def depthwise(
    data: te.Tensor | RowsOf,
    weight: te.Tensor,
    shape: Shape,
    strides: Pair,
    dilation: Pair,
    before: Pair,
    first: int,
    dtype: str = "float32",
) -> te.Tensor:
    """A convolution of each channel with its own window; the first block reads block ``first``.

    ``data`` is ``[C/V, H, W, V]`` and has ``before`` rows and columns of padding in front; ``weight``
    ``[blocks, kh, kw, V]``; the sum is of type ``dtype``.
    """
    _, height, width, _ = (int(n) for n in data.shape)
    _, kh, kw, _ = (int(n) for n in weight.shape)
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")

    def value(o: Expr, y: Expr, x: Expr, c: Expr) -> Expr:
        row, in_row = _clamped(y * strides[0] + ky * dilation[0] - before[0], height)
        column, in_column = _clamped(x * strides[1] + kx * dilation[1] - before[1], width)
        tap = data[o + first if first else o, row, column, c].astype(dtype)
        factor = weight[o, ky, kx, c].astype(dtype) * in_row.astype(dtype) * in_column.astype(dtype)
        return te.sum(tap * factor, axis=[ky, kx])

    return te.compute(shape, value, name="acc")


def _clamped(index: Expr, extent: int) -> tuple[Expr, Expr]:
    """The nearest index that there is, and whether it is ``index`` itself: a factor of 1 or 0.

    A tap outside of the map reads an element inside, with weight zero: one factor for a whole tile,
    where a test at each read would be a branch.
    """
    inside = tirx.all(index >= 0, index < extent)
    clamped = tirx.max(tirx.min(index, extent - 1), 0)
    return clamped, inside


def pad(
    tensor: te.Tensor | RowsOf,
    pads: tuple[int, int, int, int],
    first: int,
    fill: Expr | None = None,
) -> te.Tensor | RowsOf:
    """``tensor`` with its dimensions ``first`` and ``first + 1`` padded."""
    top, left, bottom, right = pads
    if not any(pads):
        return tensor
    shape = [int(n) for n in tensor.shape]
    height, width = shape[first], shape[first + 1]
    shape[first] += top + bottom
    shape[first + 1] += left + right

    def value(*index: Expr) -> Expr:
        y, x = index[first], index[first + 1]
        inside = [y >= top, y < top + height, x >= left, x < left + width]
        source = [*index[:first], y - top, x - left, *index[first + 2 :]]
        return tirx.if_then_else(
            tirx.all(*inside),
            tensor[tuple(source)],
            tirx.const(0.0, tensor.dtype) if fill is None else fill,
        )

    return te.compute(shape, value, name="pad")
