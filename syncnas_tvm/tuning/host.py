"""MetaSchedule's builder and runner on this machine.

TVM's ``LocalBuilder`` imports all of ``tvm.s_tir.tensor_intrin`` in each of its processes, which takes
20 to 60 s a batch, and ``LocalRunner`` calls one kernel in a loop, with its weights in the cache. Here
both work in this process, and all kernels of a batch are called in turn, as a network does it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import PyRunner, RunnerFuture, RunnerInput, RunnerResult

from syncnas_tvm.errors import error_line
from syncnas_tvm.kernel_timer import cpu_us, gpu_us
from syncnas_tvm.link import linker
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane
from syncnas_tvm.schedule.opencl_half import install
from syncnas_tvm.schedule.prefetch import InsertPrefetches
from syncnas_tvm.schedule.stack_sums import pipeline
from syncnas_tvm.targets import Target

MOST_THREADS = 8
"""Candidates that are built at once: a visit of a kernel has as many."""
ROUNDS = 15
# Floats that are written between two calls, so that a kernel finds its weights where it finds them
# in a network: out of the nearest caches.
SWEEP = 1 << 20


@derived_object
class HostBuilder(PyBuilder):
    """Compiles and links candidates in this process, on all of its cores, for ``target``.

    They go to folders in ``scratch`` (default: the system's).
    """

    def __init__(self, target: Target, scratch: Path | None = None) -> None:
        super().__init__()
        self._target, self._scratch = target, scratch
        install()  # OpenCL kernels with halves are what a compile makes of them

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """A library each, in a folder of its own: MetaSchedule removes the folder afterwards."""
        # Code generation and linkers leave Python's lock alone.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
            return list(pool.map(self._build, build_inputs))

    def _build(self, wanted: BuilderInput) -> BuilderResult:
        folder = Path(tempfile.mkdtemp(prefix="syncnas-tune-", dir=self._scratch))
        try:
            path = str(folder / "kernel.so")
            mod = tvm.transform.Sequential([InsertPrefetches()])(wanted.mod)
            built = tvm.compile(mod, target=wanted.target, tir_pipeline=pipeline())
            built.export_library(path, fcompile=linker(self._target, "a kernel"))
            return BuilderResult(path, None)
        except Exception as error:  # one candidate that cannot be built is no candidate
            shutil.rmtree(folder, ignore_errors=True)
            return BuilderResult(None, error_line(error))


@derived_object
class HostRunner(PyRunner):
    """Times candidates of one lane, interleaved; ``run_secs`` are seconds of one call each."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """All calls are done when this returns."""
        with on_cpu_lane(self._target.cpus):
            calls = [_prepare(wanted) for wanted in runner_inputs]
            seconds = _time([call for call in calls if isinstance(call, _Call)])
        results = [
            RunnerResult(seconds.pop(0), None) if isinstance(call, _Call) else call
            for call in calls
        ]
        return [_done(result) for result in results]


class _Call:
    """A built candidate with tensors of its own: the first is its feature map, the last its output."""

    def __init__(self, wanted: RunnerInput) -> None:
        self.on_gpu = str(wanted.device_type) == "opencl"
        self._device = gpu_device() if self.on_gpu else tvm.cpu(0)
        self._run = tvm.runtime.load_module(str(wanted.artifact_path))["main"]
        rng = np.random.default_rng(0)
        arrays = [
            rng.random(tuple(int(n) for n in info.shape), "float32").astype(str(info.dtype))
            for info in wanted.args_info
        ]
        self._args = [tvm.runtime.tensor(array, self._device) for array in arrays]
        self._input = arrays[0]

    def write_inputs(self) -> None:
        """Write the feature map anew: it is where a kernel in front would have left it."""
        self._args[0].copyfrom(self._input)

    def run(self) -> None:
        """Run the kernel, or hand it to the GPU."""
        self._run(*self._args)
        if self.on_gpu:
            self._device.sync()


def _prepare(wanted: RunnerInput) -> _Call | RunnerResult:
    """A call that has run once; what went wrong where it cannot."""
    try:
        call = _Call(wanted)
        call.run()
    except Exception as error:
        return RunnerResult(None, error_line(error))
    return call


def _time(calls: Sequence[_Call]) -> list[list[float]]:
    """Seconds of each call in each round; rounds begin with another call each."""
    samples: list[list[float]] = [[] for _ in calls]
    sweep = np.zeros(SWEEP, "float32")
    for turn in range(ROUNDS if calls else 0):
        for i in range(len(calls)):
            at = (i + turn) % len(calls)
            sweep += 1.0
            us = gpu_us(calls[at]) if calls[at].on_gpu else cpu_us(calls[at])
            samples[at].append(us / 1e6)
    return samples


def _done(result: RunnerResult) -> RunnerFuture:
    return RunnerFuture(lambda: True, lambda: result)


def remove_artifact(result: Any) -> None:
    """Remove a built candidate, as MetaSchedule does it for those that it built itself."""
    if result.artifact_path is not None:
        shutil.rmtree(Path(str(result.artifact_path)).parent, ignore_errors=True)
