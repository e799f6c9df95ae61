"""Batch normalisation disappears into the weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, const, constant, op_name, shape_of


@tvm.transform.module_pass(opt_level=0, name="FoldBatchNorm")
class FoldBatchNorm:
    """Fold batch norm, and any scale or shift per channel, into the layer that feeds it.

    A batch norm is a scale and a shift per channel. Both go into the weights and the bias of a
    convolution or a dense layer that nothing else reads, through a concat of channels into each
    of its branches, and otherwise stay behind as one ``multiply`` and one ``add``.

    Before::

        c = R.concat((R.nn.conv2d(x, w0), R.nn.conv2d(y, w1)), axis=1)
        n = R.nn.batch_norm(c, gamma, beta, mean, var)
        z = n[0]

    After, with ``s = gamma / sqrt(var + epsilon)`` and ``t = beta - mean * s``::

        a = R.add(R.nn.conv2d(x, w0 * s[:k]), t[:k])
        b = R.add(R.nn.conv2d(y, w1 * s[k:]), t[k:])
        z = R.concat((a, b), axis=1)

    Scalars stay where they are: they belong to activations.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Fold every batch norm of ``main``."""
        return _Folder(mod).run()


class _Folder(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        if isinstance(expr, relax.TupleGetItem):
            return self._scale_and_shift(name, expr)
        if op_name(expr) not in ("relax.multiply", "relax.add"):
            return None
        data, values = expr.args[0], _per_channel(expr)
        if values is None:
            return None
        if op_name(expr) == "relax.multiply":
            return self._scale(data, values) if self._foldable(data) else None
        mergeable = self._foldable(data) and self._has_bias(data)
        return self._shift(data, values) if mergeable else None

    def _scale_and_shift(self, name: str, item: relax.TupleGetItem) -> relax.Expr | None:
        call = self.definition(item.tuple_value)
        if op_name(call) != "relax.nn.batch_norm" or item.index != 0 or call.attrs.training:
            return None
        data, *arguments = call.args
        parameters = [constant(argument) for argument in arguments]
        shape, axis = shape_of(data), int(call.attrs.axis)
        if shape is None or any(parameter is None for parameter in parameters):
            return None
        gamma, beta, mean, variance = (np.float64(p) for p in parameters)
        with np.errstate(all="ignore"):  # a negative variance belongs to the model, not to us
            scale = gamma / np.sqrt(variance + call.attrs.epsilon)
        along = _along(shape, axis % len(shape))
        scaled = self.emit(relax.op.multiply(data, const(scale.reshape(along))), f"{name}_scale")
        return relax.op.add(scaled, const((beta - mean * scale).reshape(along)))

    def _foldable(self, expr: relax.Expr) -> bool:
        """Whether a scale per channel of this value can be applied to weights instead."""
        call = self.definition(expr)
        if not self.single_use(expr):
            return False
        if op_name(call) == "relax.nn.conv2d":
            return constant(call.args[1]) is not None
        if op_name(call) == "relax.matmul":
            weight, rank = constant(call.args[1]), len(shape_of(call) or ())
            return weight is not None and weight.ndim == 2 and rank in (2, 3)
        if op_name(call) == "relax.add":
            return _per_channel(call) is not None and self._foldable(call.args[0])
        return self._is_concat(call) and all(self._foldable(part) for part in call.args[0].fields)

    def _has_bias(self, expr: relax.Expr) -> bool:
        """Whether the value ends in a bias, or in a concat, that a shift can be merged with."""
        call = self.definition(expr)
        return op_name(call) == "relax.add" or self._is_concat(call)

    @staticmethod
    def _is_concat(call: relax.Expr | None) -> bool:
        return (
            op_name(call) == "relax.concat"
            and int(call.attrs.axis) == 1
            and isinstance(call.args[0], relax.Tuple)
            and len(shape_of(call) or ()) == 4
        )

    def _scale(self, expr: relax.Expr, scale: np.ndarray) -> relax.Expr:
        """The value times ``scale``, a vector with one entry per channel."""
        call = self.definition(expr)
        if self._is_concat(call):
            return self._branches(call, scale, self._scale)
        if op_name(call) == "relax.add":
            bias = constant(call.args[1])
            scaled = self._scale(call.args[0], scale)
            biased = relax.op.add(scaled, const(bias * scale.reshape(bias.shape)))
            return self.emit(biased, expr.name)
        weight = constant(call.args[1])
        along = (-1, 1, 1, 1) if weight.ndim == 4 else (1, -1)
        folded = const(weight * scale.reshape(along))
        layer = relax.Call(call.op, [call.args[0], folded], call.attrs, call.ty_args)
        return self.emit(layer, expr.name)  # users know the layer by its own name

    def _shift(self, expr: relax.Expr, shift: np.ndarray) -> relax.Expr:
        """The value plus ``shift``, a vector with one entry per channel."""
        call = self.definition(expr)
        if self._is_concat(call):
            return self._branches(call, shift, self._shift)
        shape = shape_of(expr) or ()
        along = (1, -1, 1, 1) if len(shape) == 4 else (-1,)
        if op_name(call) == "relax.add":
            bias = constant(call.args[1])
            return relax.op.add(call.args[0], const(bias + shift.reshape(bias.shape)))
        return relax.op.add(expr, const(shift.reshape(along)))

    def _branches(
        self,
        call: tvm.ir.Call,
        values: np.ndarray,
        apply: Callable[[relax.Expr, np.ndarray], relax.Expr],
    ) -> relax.Expr:
        parts, first = [], 0
        for part in call.args[0].fields:
            channels = (shape_of(part) or ())[1]
            own = values[first : first + channels]
            layer = op_name(self.definition(part)) != "relax.add"
            parts.append(self.emit(apply(part, own), f"{part.name}_bias" if layer else part.name))
            first += channels
        return relax.op.concat(relax.Tuple(parts), axis=1)


def _along(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of a constant that varies along one axis; of rank 2 only the last."""
    if len(shape) == 2 and axis == 1:
        return (shape[1],)
    return tuple(extent if index == axis else 1 for index, extent in enumerate(shape))


def _per_channel(call: tvm.ir.Call) -> np.ndarray | None:
    """The constant of an add or a multiply as one value per channel (in float64), or None."""
    value, shape = constant(call.args[1]), shape_of(call.args[0])
    if value is None or shape is None or value.ndim == 0 or shape != shape_of(call):
        return None
    if len(shape) == 4 and value.shape == _along(shape, 1):
        return np.float64(value).reshape(-1)
    if len(shape) != 4 and value.shape == shape[-1:]:
        return np.float64(value)
    return None
