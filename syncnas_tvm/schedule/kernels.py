"""``ScheduleKernels``: applies the schedule rules of its lane to every kernel."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import dlight

from syncnas_tvm.schedule.cpu import schedule_cpu
from syncnas_tvm.schedule.gpu import schedule_gpu

SCHEDULED_ATTR = "tirx.is_scheduled"


@tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")
class ScheduleKernels:
    """Schedule every kernel for the target in its attribute ``target``.

    A kernel that no rule knows gets a correct default: serial loops on the CPU, one element a work
    item on the GPU.
    """

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Replace the kernels by scheduled ones."""
        for gv, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and "target" in function.attrs:
                mod[gv] = schedule_kernel(function)
        return mod


def schedule_kernel(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """One kernel, scheduled by the first rule of its lane that fits, or by the default."""
    if function.attrs.get(SCHEDULED_ATTR):
        return function
    on_gpu = function.attrs["target"].kind.name == "opencl"
    scheduled = (schedule_gpu if on_gpu else schedule_cpu)(function)
    if scheduled is None and on_gpu:
        return _default_gpu(function)
    if scheduled is None:
        return function
    return scheduled.with_attrs({**dict(function.attrs.items()), SCHEDULED_ATTR: True})


def _default_gpu(function: tirx.PrimFunc) -> tirx.PrimFunc:
    mod = tvm.IRModule({"main": function})
    mod = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(mod)
    return mod["main"]
