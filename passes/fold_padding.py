"""Explicit zero padding becomes part of the convolution."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, op_name


@tvm.transform.module_pass(opt_level=0, name="FoldPadding")
class FoldPadding:
    """Move a zero ``nn.pad`` of H and W into the ``padding`` of the convolutions that read it.

    Before::

        p = R.nn.pad(x, pad_width=[0, 0, 0, 0, 0, 1, 0, 1], pad_value=0.0)
        y = R.nn.conv2d(p, w, padding=[0, 0, 0, 0])

    After::

        y = R.nn.conv2d(x, w, padding=[0, 0, 1, 1])

    The order of ``padding`` is top, left, bottom, right.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Fold every such padding of ``main``."""
        return _Padding(mod).run()


class _Padding(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        if op_name(expr) == "relax.nn.pad":
            return expr.args[0] if not any(int(w) for w in expr.attrs.pad_width) else None
        if op_name(expr) != "relax.nn.conv2d" or expr.attrs.data_layout != "NCHW":
            return None
        pad = self.producer(expr.args[0], "relax.nn.pad")
        if pad is None or pad.attrs.pad_mode != "constant" or float(pad.attrs.pad_value) != 0.0:
            return None
        width = [int(w) for w in pad.attrs.pad_width]
        if any(width[:4]) or min(width) < 0:
            return None
        extra = [width[4], width[6], width[5], width[7]]
        attrs = expr.attrs
        return relax.op.nn.conv2d(
            pad.args[0],
            expr.args[1],
            strides=list(attrs.strides),
            padding=[int(old) + new for old, new in zip(attrs.padding, extra, strict=True)],
            dilation=list(attrs.dilation),
            groups=attrs.groups,
            data_layout=attrs.data_layout,
            kernel_layout=attrs.kernel_layout,
        )
