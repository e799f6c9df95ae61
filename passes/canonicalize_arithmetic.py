"""One form for element-wise arithmetic with constants."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import (
    Rewriter,
    const,
    constant,
    dtype_of,
    op_name,
    shape_of,
)


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeArithmetic")
class CanonicalizeArithmetic:
    """Leave only ``add`` and ``multiply`` by a constant, with the constant on the right.

    A constant with one element becomes a scalar; one that varies along a dimension gets the
    rank of the other operand (of rank 2: only the last dimension), so that a bias of a
    convolution is always ``(1, C, 1, 1)`` and one of a dense layer ``(N,)``.

    Before::

        a = R.subtract(x, const(3.0))
        b = R.divide(a, const[1](6.0))
        c = R.add(const[C, 1, 1], b)
        d = R.multiply(c, const(1.0))
        e = R.subtract(const(1.0), d)

    After::

        a = R.add(x, const(-3.0))
        b = R.multiply(a, const(0.16666667))
        c = R.add(b, const[1, C, 1, 1])
        e = R.add(R.multiply(c, const(-1.0)), const(1.0))
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every such operator of ``main``."""
        return _Arithmetic(mod).run()


_BUILD = {"relax.add": relax.op.add, "relax.multiply": relax.op.multiply}
_NEUTRAL = {"relax.add": 0.0, "relax.multiply": 1.0}


class _Arithmetic(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        op = op_name(expr)
        if op not in {"relax.add", "relax.multiply", "relax.subtract", "relax.divide"}:
            return None
        lhs, rhs = expr.args
        if dtype_of(expr) != "float32":
            return None
        left, right = constant(lhs), constant(rhs)
        if right is None:
            if left is None:
                return None
            if op == "relax.subtract":
                return relax.op.add(self.emit(relax.op.multiply(rhs, const(-1.0)), name), lhs)
            return _BUILD[op](rhs, lhs) if op in _BUILD else None
        if op == "relax.subtract":
            return relax.op.add(lhs, const(-right))
        if op == "relax.divide" and np.all(right != 0):
            return relax.op.multiply(lhs, const(1.0 / right.astype("float64")))
        if op not in _BUILD or shape_of(lhs) != shape_of(expr):
            return None
        if np.all(right == _NEUTRAL[op]):
            return lhs
        merged = self._merge(op, lhs, right)
        if merged is not None:
            return merged
        shape = self._constant_shape(lhs, right)
        return None if shape == right.shape else _BUILD[op](lhs, const(right.reshape(shape)))

    def _merge(self, op: str, lhs: relax.Expr, right: np.ndarray) -> relax.Expr | None:
        """``(x + a) + b`` is ``x + (a + b)``, and the same for two scalar factors."""
        inner = self.producer(lhs, op)
        first = constant(inner.args[1]) if inner is not None else None
        if inner is None or first is None or not self.single_use(lhs):
            return None
        if shape_of(inner.args[0]) != shape_of(lhs) or (first.size == 1) != (right.size == 1):
            return None  # a value per channel belongs to a layer, a scalar to an activation
        both = first.astype("float64") + right if op == "relax.add" else first * right
        return _BUILD[op](inner.args[0], const(both))

    def _constant_shape(self, data: relax.Expr, value: np.ndarray) -> tuple[int, ...]:
        shape = shape_of(data) or ()
        if value.size == 1:
            # The bias of a layer with a single output channel keeps the shape of a bias.
            if shape[1:2] == (1,) and self.producer(data, "relax.nn.conv2d") is not None:
                return (1,) * len(shape)
            if shape[-1:] == (1,) and self.producer(data, "relax.matmul") is not None:
                return (1,)
            return ()
        if len(shape) == 2 and value.shape[0] == 1 and value.ndim == 2:
            return value.shape[1:]
        return (1,) * (len(shape) - value.ndim) + value.shape if len(shape) > 2 else value.shape
