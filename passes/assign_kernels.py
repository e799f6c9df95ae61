"""``AssignKernels``: every kernel belongs to one lane and carries that lane's TVM target."""

from __future__ import annotations

import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import renew_defs

from syncnas_tvm.graph.calls import LANE_ATTR

CALL_TIR = ("relax.call_tir", "relax.call_tir_inplace")


@tvm.transform.module_pass(opt_level=0, name="AssignKernels")
class AssignKernels:
    """Give each lane its own copy of the kernels that it calls, with the attribute ``target``.

    Before::

        def r0_cpu(x): return call_tir(conv, x)     # lane cpu
        def r1_gpu(x): return call_tir(conv, x)     # lane gpu

    After::

        def r0_cpu(x): return call_tir(cpu_conv, x)   # cpu_conv has target llvm
        def r1_gpu(x): return call_tir(gpu_conv, x)   # gpu_conv has target opencl
    """

    def __init__(self, cpu: tvm.target.Target, gpu: tvm.target.Target) -> None:
        self.targets = {"cpu": cpu, "gpu": gpu}

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rename and annotate the kernels; kernels that nothing calls are dropped."""
        assigner = _Assigner(mod, self.targets)
        for gv, function in mod.functions_items():
            if isinstance(function, relax.Function) and LANE_ATTR in (function.attrs or {}):
                assigner.lane = str(function.attrs[LANE_ATTR])
                assigner.builder_.update_func(gv, assigner.visit_expr(function))
        result = assigner.builder_.get()
        for gv, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc):
                result.__delitem__(gv)
        return result


@mutator
class _Assigner(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, targets: dict[str, tvm.target.Target]) -> None:
        super().__init__(mod)
        self._mod = mod
        self._targets = targets
        self._copies: dict[tuple[str, str], tvm.ir.GlobalVar] = {}
        self.lane = ""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in CALL_TIR:
            return call
        kernel = call.args[0]
        key = (self.lane, kernel.name_hint)
        if key not in self._copies:
            name = f"{self.lane}_{kernel.name_hint}"
            # The lanes must not share loops: a schedule may change them in place.
            copy = renew_defs(self._mod[kernel])
            function = copy.with_attr("target", self._targets[self.lane])
            self._copies[key] = self.builder_.add_func(
                function.with_attr("global_symbol", name), name
            )
        return relax.Call(call.op, [self._copies[key], *call.args[1:]], call.attrs, call.ty_args)
