"""Recognising slices of channels, for the passes that undo them."""

from __future__ import annotations

from tvm import relax

from syncnas_tvm.passes._dataflow import op_name, shape_of


def channel_slice(call: relax.Expr | None) -> tuple[relax.Expr, int, int] | None:
    """The value that ``call`` takes neighbouring channels of, the first and behind the last; or None.

    The form is the canonical one: ``strided_slice`` with axis 1 alone and stride 1.
    """
    if op_name(call) != "relax.strided_slice":
        return None
    data, axes, begins, ends, *strides = call.args  # type: ignore[union-attr]
    shape = shape_of(data)
    if shape is None or [int(a) for a in axes.fields] != [1]:
        return None
    if strides and [int(s) for s in strides[0].fields] != [1]:
        return None
    first, last = int(begins.fields[0]), int(ends.fields[0])
    return (data, first, last) if 0 <= first < last <= shape[1] else None
