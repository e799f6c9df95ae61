"""``PlaceAllocations``: buffers of the GPU lane's functions are allocated on the GPU."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from syncnas_tvm.graph.calls import LANE_ATTR

# Order of the devices that the runtime gives to the VM.
DEVICE_INDEX = {"cpu": 0, "gpu": 1}


@tvm.transform.module_pass(opt_level=0, name="PlaceAllocations")
class PlaceAllocations:
    """Set the device index of every ``alloc_tensor`` to that of the function's lane.

    A lane function allocates on its own device only, so memory planning, which works function by
    function and does not look at devices, cannot share storage between lanes.

    Before::

        def r0_gpu(x): b = alloc_tensor(shape, device 0) ...   # lane gpu

    After::

        def r0_gpu(x): b = alloc_tensor(shape, device 1) ...   # lane gpu
    """

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rewrite the lane functions."""
        for gv, function in mod.functions_items():
            if isinstance(function, relax.Function) and LANE_ATTR in (function.attrs or {}):
                lane = str(function.attrs[LANE_ATTR])
                mod[gv] = _Placer(mod, DEVICE_INDEX[lane]).visit_expr(function)
        return mod


@mutator
class _Placer(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, index: int) -> None:
        super().__init__(mod)
        self._index = index

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if getattr(call.op, "name", "") != "relax.builtin.alloc_tensor":
            return super().visit_call_(call)
        args = list(call.args)
        args[2] = tvm.tirx.IntImm("int64", self._index)
        return relax.Call(call.op, args, call.attrs, call.ty_args)
