"""``LiftGpuWeights``: constants of the GPU lane become parameters, uploaded once."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax.expr_functor import PyExprMutator, mutator

from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.dataflow import dtype_of, shape_of
from syncnas_tvm.graph.rebuild import emit_function, tensor_type
from syncnas_tvm.passes.insert_transfers import texture, transfer
from syncnas_tvm.passes.lift_constants import ConstantLifter

WEIGHTS_FUNCTION = "gpu_weights"


@tvm.transform.module_pass(opt_level=0, name="LiftGpuWeights")
class LiftGpuWeights:
    """Move the GPU lane's constants into parameters of ``main`` that follow the model's inputs.

    The VM keeps constants on the CPU, where a GPU kernel cannot read them. The new function
    ``gpu_weights`` uploads them all and returns them as a tuple; the runtime calls it once. What a kernel
    reads as a texture becomes one there.

    Before::

        def r0_gpu(x): return call_tir(gpu_conv, (x, const))
        def main(x): return r0_gpu(to_device(x, gpu))

    After::

        def r0_gpu(x, w): return call_tir(gpu_conv, (x, w))
        def gpu_weights(): return (to_device(const, gpu),)
        def main(x, w0): return r0_gpu(to_device(x, gpu), w0)
    """

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rewrite the GPU lane's functions, their calls in ``main``, and add ``gpu_weights``."""
        lifted: dict[tvm.ir.GlobalVar, list[GenericConst]] = {}
        result = tvm.IRModule(attrs=mod.attrs)
        new_gv: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar] = {}
        textures: set[GenericConst] = set()
        for gv, function in mod.functions_items():
            if isinstance(function, relax.Function) and _is_gpu_function(gv, function):
                lifter = ConstantLifter(mod)
                function = lifter.lift(function)
                lifted[gv] = list(lifter.constants)
                textures |= lifter.textures
                fresh = tvm.ir.GlobalVar(gv.name_hint)
                relax.expr._update_type(fresh, function.ty)
                new_gv[gv] = fresh
            if gv.name_hint != "main":
                result[new_gv.get(gv, gv)] = function
        main, constants = _MainRewriter(new_gv, lifted).rewrite(mod["main"])
        result[mod.get_global_var("main")] = main
        gv, function = _uploader(constants, textures)
        result[gv] = function
        return result


def _is_gpu_function(gv: tvm.ir.GlobalVar, function: relax.Function) -> bool:
    return gv.name_hint != "main" and (function.attrs or {}).get(LANE_ATTR) == "gpu"


@mutator
class _MainRewriter(PyExprMutator):
    """Passes the weights on at each call of a GPU function."""

    def __init__(
        self,
        new_gv: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar],
        lifted: dict[tvm.ir.GlobalVar, list[GenericConst]],
    ) -> None:
        super().__init__()
        self._new_gv = new_gv
        self._lifted = lifted
        self._weights: list[relax.Var] = []
        self._constants: list[GenericConst] = []

    def rewrite(self, main: relax.Function) -> tuple[relax.Function, list[GenericConst]]:
        body = self.visit_expr(main.body)
        params = [*main.params, *self._weights]
        function = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
        return function, self._constants

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.GlobalVar) or call.op not in self._new_gv:
            return call
        extra = []
        for constant in self._lifted[call.op]:
            type_ = tensor_type(shape_of(constant), dtype_of(constant))
            extra.append(relax.Var(f"weight{len(self._weights)}", type_))
            self._weights.append(extra[-1])
            self._constants.append(constant)
        return relax.Call(self._new_gv[call.op], [*call.args, *extra])


def _uploader(
    constants: list[GenericConst], textures: set[GenericConst]
) -> tuple[tvm.ir.GlobalVar, relax.Function]:
    builder = relax.BlockBuilder()

    def body() -> list[relax.Expr]:
        uploaded = [
            builder.emit(texture(c) if c in textures else transfer(c, "gpu")) for c in constants
        ]
        return [relax.Tuple(uploaded)]

    emit_function(builder, WEIGHTS_FUNCTION, [], body, {}, private=False)
    ((gv, function),) = builder.get().functions_items()
    return gv, function
