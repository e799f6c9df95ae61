"""One form for every activation, whichever way the exporter spelt it."""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, const, dtype_of, op_name, scalar, shape_of


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeActivations")
class CanonicalizeActivations:
    """Recognise activations in their decomposed forms and write each in one way.

    ================  ====================================================================
    relu              ``nn.relu(x)``
    relu6, any clip   ``clip(x, lo, hi)`` with float bounds, infinite where there is none
    sigmoid           ``sigmoid(x)``
    swish             ``nn.silu(x)``
    hard-sigmoid      ``clip(add(multiply(x, alpha), beta), 0, 1)`` with scalar constants
    hard-swish        ``multiply(x, hard-sigmoid(x))`` with alpha = 1/6 and beta = 1/2
    gate              ``multiply(features, gate)``: the smaller operand is the second
    ================  ====================================================================

    Before::

        a = R.add(x, const(3.0))
        b = R.minimum(R.nn.relu(a), const(6.0))
        c = R.multiply(R.multiply(x, b), const(0.16666667))

    After::

        a = R.multiply(x, const(0.16666667))
        b = R.clip(R.add(a, const(0.5)), 0.0, 1.0)
        c = R.multiply(x, b)

    Expects constants on the right, as :class:`CanonicalizeArithmetic` leaves them.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite every activation of ``main``."""
        return _Activations(mod).run()


_INF = math.inf


class _Activations(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        op = op_name(expr)
        if dtype_of(expr) != "float32":
            return None
        if op in ("relax.maximum", "relax.minimum"):
            return _bound(op, expr)
        if op in ("relax.clip", "relax.nn.relu"):
            return self._clip(name, expr)
        if op == "relax.multiply":
            swish = self._swish(expr)
            scaled = self._scaled_clip(name, expr) if swish is None else swish
            return self._gate(expr) if scaled is None else scaled
        if op == "relax.divide":
            return self._logistic(expr)
        if op == "relax.add":
            return self._tanh_sigmoid(expr)
        return None

    def _clip(self, name: str, call: tvm.ir.Call) -> relax.Expr | None:
        data, lo, hi = bounds(call)
        inner = self.producer(data, "relax.clip", "relax.nn.relu")
        if inner is not None:
            source, inner_lo, inner_hi = bounds(inner)
            if inner_lo <= hi and lo <= inner_hi:  # disjoint ranges give a constant: leave them
                return relax.op.clip(source, max(lo, inner_lo), min(hi, inner_hi))
        if op_name(call) == "relax.nn.relu":
            return None
        if (lo, hi) == (-_INF, _INF):
            return data
        if (lo, hi) == (0.0, _INF):
            return relax.op.nn.relu(data)
        if (lo, hi) == (0.0, 1.0) and not self._is_affine(data):
            gate = self._hard_sigmoid(name, call, 1.0)
            if gate is not None:
                return gate
        exact = all(isinstance(bound, tvm.tirx.FloatImm) for bound in call.args[1:])
        return None if exact else relax.op.clip(data, lo, hi)

    def _hard_sigmoid(self, name: str, call: relax.Expr, factor: float) -> relax.Expr | None:
        """``clip(alpha * x + beta, 0, hi) * factor`` in its one form, where it is one."""
        if op_name(call) != "relax.clip":
            return None
        data, lo, hi = bounds(call)
        if lo != 0.0 or not math.isclose(hi * factor, 1.0, rel_tol=1e-6):
            return None
        source, alpha, beta = self._affine(data)
        alpha, beta = alpha * factor, beta * factor
        if beta == 0.0 or alpha == 1.0:
            return None
        scaled = self.emit(relax.op.multiply(source, const(alpha)), f"{name}_scale")
        shifted = self.emit(relax.op.add(scaled, const(beta)), f"{name}_shift")
        return relax.op.clip(shifted, 0.0, 1.0)

    def _affine(self, expr: relax.Expr) -> tuple[relax.Expr, float, float]:
        """``(x, a, b)`` such that the expression is ``a * x + b`` with scalars."""
        alpha, beta = 1.0, 0.0
        while (call := self.producer(expr, "relax.add", "relax.multiply")) is not None:
            value = scalar(call.args[1])
            if value is None or shape_of(call.args[0]) != shape_of(expr):
                break
            if op_name(call) == "relax.add":
                beta += alpha * value
            else:
                alpha *= value
            expr = call.args[0]
        return expr, alpha, beta

    def _is_affine(self, expr: relax.Expr) -> bool:
        """Whether the expression already is ``add(multiply(x, scalar), scalar)``."""
        outer = self.producer(expr, "relax.add")
        inner = self.producer(outer.args[0], "relax.multiply") if outer is not None else None
        if outer is None or inner is None or self.producer(inner.args[0], "relax.add") is not None:
            return False
        return scalar(outer.args[1]) is not None and scalar(inner.args[1]) is not None

    def _scaled_clip(self, name: str, call: tvm.ir.Call) -> relax.Expr | None:
        """Move the 1/6 of ``x * relu6(x + 3) / 6`` into the clip, wherever it was applied."""
        lhs, rhs = call.args
        factor = scalar(rhs)
        if factor is not None:
            gate = self._hard_sigmoid(name, self.definition(lhs), factor)
            product = self.producer(lhs, "relax.multiply")
            if gate is not None or product is None or not self.single_use(lhs):
                return gate
            return self._scaled_factor(name, *product.args, factor)
        for clipped, other in ((rhs, lhs), (lhs, rhs)):
            product = self.producer(other, "relax.multiply")
            factor = scalar(product.args[1]) if product is not None else None
            if product is not None and factor is not None and self.single_use(other):
                gate = self._hard_sigmoid(name, self.definition(clipped), factor)
                if gate is not None:
                    bound = self.emit(gate, f"{name}_gate")
                    return relax.op.multiply(product.args[0], bound)
        return None

    def _scaled_factor(
        self, name: str, lhs: relax.Expr, rhs: relax.Expr, factor: float
    ) -> relax.Expr | None:
        for clipped, other in ((rhs, lhs), (lhs, rhs)):
            gate = self._hard_sigmoid(name, self.definition(clipped), factor)
            if gate is not None:
                return relax.op.multiply(other, self.emit(gate, f"{name}_gate"))
        return None

    def _swish(self, call: tvm.ir.Call) -> relax.Expr | None:
        for data, gate in (call.args, reversed(call.args)):
            sigmoid = self.producer(gate, "relax.sigmoid")
            if sigmoid is not None and sigmoid.args[0].same_as(data):
                return relax.op.nn.silu(data)
        return None

    def _gate(self, call: tvm.ir.Call) -> relax.Expr | None:
        """Put the gate second: the smaller operand, or of two equal ones the activation."""
        lhs, rhs = call.args
        left, right = shape_of(lhs), shape_of(rhs)
        if left is None or right is None or scalar(rhs) is not None:
            return None
        swap = math.prod(left) < math.prod(right)
        if left == right:
            gates = ("relax.sigmoid", "relax.clip")
            first, second = (self.producer(side, *gates) is not None for side in call.args)
            swap = first and not second
        return relax.op.multiply(rhs, lhs) if swap else None

    def _logistic(self, call: tvm.ir.Call) -> relax.Expr | None:
        """``n / (1 + exp(-x))``: a sigmoid for n = 1, a swish for n = x."""
        total = self.producer(call.args[1], "relax.add")
        power = self.producer(total.args[0], "relax.exp") if total is not None else None
        if total is None or power is None or scalar(total.args[1]) != 1.0:
            return None
        minus = self.producer(power.args[0], "relax.negative", "relax.multiply")
        if minus is None or (len(minus.args) > 1 and scalar(minus.args[1]) != -1.0):
            return None
        data = minus.args[0]
        if scalar(call.args[0]) == 1.0 and shape_of(data) == shape_of(call):
            return relax.op.sigmoid(data)
        return relax.op.nn.silu(data) if call.args[0].same_as(data) else None

    def _tanh_sigmoid(self, call: tvm.ir.Call) -> relax.Expr | None:
        """``tanh(x / 2) / 2 + 1 / 2`` is a sigmoid."""
        half = self.producer(call.args[0], "relax.multiply")
        tanh = self.producer(half.args[0], "relax.tanh") if half is not None else None
        scaled = self.producer(tanh.args[0], "relax.multiply") if tanh is not None else None
        if half is None or scaled is None:
            return None
        halves = [scalar(call.args[1]), scalar(half.args[1]), scalar(scaled.args[1])]
        return relax.op.sigmoid(scaled.args[0]) if halves == [0.5, 0.5, 0.5] else None


def bounds(call: tvm.ir.Call) -> tuple[relax.Expr, float, float]:
    """``(x, lo, hi)`` of a ``clip`` or a ``relu``."""
    if op_name(call) == "relax.nn.relu":
        return call.args[0], 0.0, _INF
    lo, hi = (float(np.float32(bound.value)) for bound in call.args[1:3])
    return call.args[0], lo, hi


def _bound(op: str, call: tvm.ir.Call) -> relax.Expr | None:
    for data, limit in (call.args, reversed(call.args)):
        value = scalar(limit)
        if value is not None and not math.isnan(value) and shape_of(data) == shape_of(call):
            return relax.op.clip(
                data, *((value, _INF) if op == "relax.maximum" else (-_INF, value))
            )
    return None
