"""Gives each lane its own cores on this machine, so that the lanes do not take turns on one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import tvm
import tvm_ffi

from syncnas_tvm.errors import DeviceError
from syncnas_tvm.targets import Target, lane_threads

GPU_DEVICE = 0


def reserve_cores(target: Target) -> None:
    """Set the threads of both lanes; has to run before the first use of OpenCL to bind PoCL.

    PoCL, an OpenCL on CPU cores, gets the cores that the CPU lane does not use. A real GPU ignores
    the variables. What the user has set wins.
    """
    if target.is_host:
        os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", str(lane_threads().gpu_threads))
        os.environ.setdefault("POCL_AFFINITY", "1")
        # TVM would bind the calling thread to the first core, which is PoCL's.
        os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(target.cpu_threads))
    # 1: the big cores first, where there are several kinds.
    tvm_ffi.get_global_func("runtime.config_threadpool")(1, int(os.environ["TVM_NUM_THREADS"]))


@contextmanager
def on_cpu_lane(cpus: tuple[int, ...]) -> Iterator[None]:
    """Keep the calling thread on the CPU lane's cores while it runs a model."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    # Not only within ``before``: TVM may have bound this thread to the other lane's core.
    with suppress(OSError):
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def gpu_device() -> tvm.runtime.Device:
    """TVM's device of the GPU lane; raises DeviceError where there is none."""
    device = tvm.opencl(GPU_DEVICE)
    if not device.exist:
        raise DeviceError(
            "no OpenCL device for the GPU lane; run 'python -m syncnas_tvm.opencl_setup' to install "
            "PoCL, or compile with --lanes cpu"
        )
    return device


def gpu_name() -> str:
    """Name of the GPU lane's OpenCL device."""
    gpu_device()
    devices = json.loads(tvm_ffi.get_global_func("syncnas.opencl.devices")())
    return str(devices[GPU_DEVICE]["name"])
