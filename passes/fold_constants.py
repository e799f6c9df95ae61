"""Evaluate operators whose inputs are all constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, const, constant, dtype_of, op_name, shape_of


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
class FoldConstants:
    """Compute with numpy what does not depend on the model's inputs.

    Exporters leave weights behind reshapes and transposes; a folded weight is what every later
    pass looks for. TVM's FoldConstant would build and run a kernel for each of them.

    Before::

        w = R.permute_dims(const[1000, 1280], axes=[1, 0])
        y = R.matmul(x, w)

    After::

        y = R.matmul(x, const[1280, 1000])
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Fold every such operator of ``main``."""
        return _Folder(mod).run()


_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relax.abs": np.abs,
    "relax.ceil": np.ceil,
    "relax.exp": np.exp,
    "relax.floor": np.floor,
    "relax.isnan": np.isnan,
    "relax.log": np.log,
    "relax.logical_not": np.logical_not,
    "relax.negative": np.negative,
    "relax.rsqrt": lambda x: 1 / np.sqrt(x),
    "relax.sqrt": np.sqrt,
    "relax.tanh": np.tanh,
}

_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "relax.add": np.add,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.multiply": np.multiply,
    "relax.power": np.power,
    "relax.subtract": np.subtract,
}

_RESHAPES = {"relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"}


class _Folder(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        shape = shape_of(expr)
        if not op_name(expr) or shape is None:
            return None
        value = self._evaluate(expr, shape)
        return None if value is None else const(value.reshape(shape), dtype_of(expr))

    def _evaluate(self, call: tvm.ir.Call, shape: tuple[int, ...]) -> np.ndarray | None:
        name = op_name(call)
        if name == "relax.concat":
            parts = [constant(field) for field in getattr(call.args[0], "fields", [])]
            known = [part for part in parts if part is not None]
            if not parts or len(known) != len(parts):
                return None
            return np.concatenate(known, axis=int(call.attrs.axis or 0))
        values = [constant(arg) for arg in call.args if isinstance(arg.ty, relax.TensorType)]
        inputs = [value for value in values if value is not None]
        if not inputs or len(inputs) != len(values):
            return None
        if name in _RESHAPES:
            return inputs[0]
        if name == "relax.permute_dims":
            axes = call.attrs.axes
            return np.transpose(inputs[0], None if axes is None else [int(a) for a in axes])
        if name == "relax.astype":
            return inputs[0].astype(dtype_of(call))
        if name == "relax.broadcast_to":
            return np.broadcast_to(inputs[0], shape)
        if name == "relax.where":
            return np.where(*inputs)
        with np.errstate(all="ignore"):  # a division by zero belongs to the model, not to us
            if name in _UNARY:
                return _UNARY[name](inputs[0])
            if name in _BINARY and np.issubdtype(inputs[0].dtype, np.floating):
                return _BINARY[name](*inputs)
        return None
