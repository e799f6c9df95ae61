"""Schedules for the kernels of both lanes; this is where a kernel's loops are decided."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import dlight


@tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")
class ScheduleKernels:
    def transform_module(self, mod, _context):
        for gv, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and function.attrs["target"].kind.name == "opencl":
                sub = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(tvm.IRModule({gv: function}))
                mod[gv] = sub[gv.name_hint]
        return mod
