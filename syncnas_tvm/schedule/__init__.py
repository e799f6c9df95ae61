"""Schedules for the kernels of both lanes: this is where a kernel's loops are decided."""

from syncnas_tvm.schedule.kernels import ScheduleKernels

__all__ = ["ScheduleKernels"]
