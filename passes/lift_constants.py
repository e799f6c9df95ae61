"""``LiftConstants``: constants of lane functions become parameters."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.dataflow import dtype_of, shape_of
from syncnas_tvm.graph.rebuild import tensor_type
from syncnas_tvm.passes.assign_kernels import CALL_TIR
from syncnas_tvm.schedule.texture import is_texture

TEXTURES_ATTR = "syncnas.textures"
"""Numbers of the parameters of a lane function that have to be textures."""


@tvm.transform.module_pass(opt_level=0, name="LiftConstants")
class LiftConstants:
    """Give every lane function its constants as parameters behind its own.

    For functions that are called alone, on tensors of their lane.

    Before::

        def k0(x): return call_tir(conv, (x, const))       # lane gpu

    After::

        def k0(x, w0): return call_tir(conv, (x, w0))      # lane gpu
    """

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rewrite the lane functions; no function of the module may call them."""
        result = tvm.IRModule(attrs=mod.attrs)
        for gv, function in mod.functions_items():
            if isinstance(function, relax.Function) and LANE_ATTR in (function.attrs or {}):
                lifter = ConstantLifter(mod)
                lifted = lifter.lift(function)
                if lifter.textures:
                    first = len(function.params)
                    order = enumerate(lifter.constants, first)
                    numbers = [i for i, constant in order if constant in lifter.textures]
                    lifted = lifted.with_attr(TEXTURES_ATTR, numbers)
                result[gv.name_hint] = lifted
            else:
                result[gv] = function
        return result


@mutator
class ConstantLifter(PyExprMutator):
    """Lifts the tensor constants of one function of ``mod``; ``constants`` keeps them, in parameter order.

    ``textures`` are those that a kernel reads as a texture.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__()
        self._mod = mod
        self.constants: dict[GenericConst, relax.Var] = {}
        self.textures: set[GenericConst] = set()

    def lift(self, function: relax.Function) -> relax.Function:
        """The function with the constants as further parameters."""
        body = self.visit_expr(function.body)
        params = [*function.params, *self.constants.values()]
        return relax.Function(params, body, function.ret_ty, function.is_pure, function.attrs)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        def lifted(expr: relax.Expr) -> relax.Expr:
            if isinstance(expr, relax.Tuple):
                return relax.Tuple([lifted(field) for field in expr.fields])
            if not isinstance(expr, GenericConst):
                return self.visit_expr(expr)
            if expr not in self.constants:
                type_ = tensor_type(shape_of(expr), dtype_of(expr))
                self.constants[expr] = relax.Var(f"w{len(self.constants)}", type_)
            return self.constants[expr]

        if isinstance(call.op, tvm.ir.Op) and call.op.name in CALL_TIR:
            pairs = zip(call.args[1].fields, self._mod[call.args[0]].params, strict=False)
            self.textures |= {arg for arg, param in pairs if is_texture(param)}
        args = [lifted(arg) for arg in call.args]
        return relax.Call(call.op, args, call.attrs, call.ty_args)
