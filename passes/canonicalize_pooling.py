"""One form for global average pooling."""

from __future__ import annotations

import math

import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, op_name, scalar, shape_of


@tvm.transform.module_pass(opt_level=0, name="CanonicalizePooling")
class CanonicalizePooling:
    """Write every average over all of H and W as ``mean(axis=[2, 3], keepdims=True)``.

    Recognised: means without kept dimensions, with negative or swapped axes, in two steps or
    over a flattened H*W; sums times 1/(H*W); average pools whose window is the whole extent.

    Before::

        y = R.mean(x, axis=[-1, -2], keepdims=False)

    After::

        pooled = R.mean(x, axis=[2, 3], keepdims=True)
        y = R.reshape(pooled, (1, C))
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every such average of ``main``."""
        return _Pooling(mod).run()


class _Pooling(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        op = op_name(expr)
        if op == "relax.mean":
            return self._mean(name, expr)
        if op == "relax.multiply":
            return self._scaled_sum(expr)
        if op == "relax.nn.avg_pool2d":
            return _whole_pool(expr)
        return None

    def _mean(self, name: str, call: tvm.ir.Call) -> relax.Expr | None:
        data, axes, keepdims = call.args[0], _axes(call), bool(call.attrs.keepdims)
        shape, result = shape_of(data), shape_of(call)
        if shape is None or result is None:
            return None
        if len(shape) == 4 and axes == [2, 3]:
            if keepdims and call.attrs.axis is not None and list(map(int, call.attrs.axis)) == axes:
                return None
            return _keep_shape(self.emit(_global(data), name), result)
        source = self.producer(data, "relax.reshape")
        if len(shape) == 3 and axes == [2] and source is not None:
            before = shape_of(source.args[0]) or ()
            if len(before) == 4 and before[:2] == shape[:2]:
                return _keep_shape(self.emit(_global(source.args[0]), name), result)
        source = self.producer(data, "relax.mean")
        if source is not None and len(axes) == 1:
            before = shape_of(source.args[0]) or ()
            first, kept = _axes(source), bool(source.attrs.keepdims)
            if len(before) == 4 and len(first) == 1:
                second = axes[0] if kept or axes[0] < first[0] else axes[0] + 1
                if {first[0], second} == {2, 3}:
                    return _keep_shape(self.emit(_global(source.args[0]), name), result)
        return None

    def _scaled_sum(self, call: tvm.ir.Call) -> relax.Expr | None:
        factor, total = scalar(call.args[1]), self.producer(call.args[0], "relax.sum")
        if factor is None or total is None:
            return None
        shape = shape_of(total.args[0]) or ()
        if len(shape) != 4 or _axes(total) != [2, 3]:
            return None
        if not math.isclose(factor * shape[2] * shape[3], 1.0, rel_tol=1e-6):
            return None
        return relax.op.mean(total.args[0], [2, 3], bool(total.attrs.keepdims))


def _global(data: relax.Expr) -> relax.Expr:
    return relax.op.mean(data, axis=[2, 3], keepdims=True)


def _keep_shape(pooled: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    return pooled if shape_of(pooled) == shape else relax.op.reshape(pooled, shape)


def _axes(call: tvm.ir.Call) -> list[int]:
    rank = len(shape_of(call.args[0]) or ())
    axes = call.attrs.axis
    return list(range(rank)) if axes is None else sorted(int(axis) % rank for axis in axes)


def _whole_pool(call: tvm.ir.Call) -> relax.Expr | None:
    shape, result, attrs = shape_of(call.args[0]), shape_of(call), call.attrs
    if shape is None or result is None or any(int(p) for p in attrs.padding):
        return None
    window = tuple(int(size) for size in attrs.pool_size)
    if window != shape[2:] or result[2:] != (1, 1) or any(int(d) != 1 for d in attrs.dilation):
        return None
    return _global(call.args[0])
