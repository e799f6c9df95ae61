"""A compiled model in memory: called with arrays, returns arrays, can be timed and profiled."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import tvm
import tvm_ffi

from syncnas_tvm.artifact import Manifest, read_manifest
from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.runtime.inputs import Array, Arrays, checked_inputs, random_inputs
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane, reserve_cores
from syncnas_tvm.runtime.profiler import measured_timeline
from syncnas_tvm.runtime.timing import timed_in_calls
from syncnas_tvm.targets import load_target
from syncnas_tvm.timeline import Timeline

_CALL_S = 1.0
"""Seconds of runs that are timed in one call."""


class Executable:
    """A model that runs on this machine; made by :func:`load`.

    ``inputs`` and ``outputs`` are the ONNX model's names, shapes and types, in order. The GPU
    lane's weights are uploaded once, when the executable is made, and its memory is allocated then.
    Threads that call the same executable take turns.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        target = load_target("host")
        reserve_cores(target)
        self._cpus = target.cpus if self.uses_gpu else ()
        self._turn = threading.Lock()  # inputs and outputs are one caller's at a time
        if self.uses_gpu:
            gpu_device()  # says what is missing, in one line
        with on_cpu_lane(self._cpus):
            load_here = tvm_ffi.get_global_func("syncnas.runner.load_unbound")
            try:
                self._runner = load_here(str(folder), json.dumps(manifest.to_json()))
            except RuntimeError as error:
                if str(error).startswith("the model calls"):  # runtime/runner/capture.cc
                    raise ArtifactError(str(error).splitlines()[0]) from error
                raise

    @property
    def uses_gpu(self) -> bool:
        """Whether any part of the model runs on the GPU lane."""
        return "gpu" in self.manifest.lanes

    def __call__(self, /, *args: Array | Arrays, **kwargs: Array) -> dict[str, Array]:
        """Run the model on arrays given by position, by input name, or in one mapping of names.

        Returns the outputs by name.

        Raises InputError for a missing, unknown or surplus input, a wrong shape or type.
        """
        with self._turn:
            self._set_inputs(args, kwargs)
            with on_cpu_lane(self._cpus):
                self._runner["run"]()
            output = self._runner["output"]
            return {spec.name: output(i).numpy() for i, spec in enumerate(self.outputs)}

    def time(
        self,
        /,
        *args: Array | Arrays,
        repeat: int = 20,
        warmup: int = 3,
        seconds: float = 0.0,
        **kwargs: Array,
    ) -> list[float]:
        """Latencies in microseconds of ``repeat`` runs, inputs and outputs on the CPU.

        With ``seconds`` no further run begins after that time.
        """
        with self._turn, on_cpu_lane(self._cpus):
            self._set_inputs(args, kwargs)
            return timed_in_calls(self._measure, repeat, warmup, seconds, _CALL_S)

    def profile(self, /, *args: Array | Arrays, **kwargs: Array) -> Timeline:
        """The measured timeline of one run (after one to warm up): kernels and syncs, by lane."""
        with self._turn, on_cpu_lane(self._cpus):
            self._set_inputs(args, kwargs)
            return measured_timeline(self._runner["profile"]())

    def celsius(self) -> float:
        """The hottest sensor of this machine in degrees Celsius; -1 where it shows none."""
        return float(tvm_ffi.get_global_func("syncnas.runner.hottest_celsius")())

    def random_inputs(self, seed: int = 0) -> dict[str, Array]:
        """Inputs of the right shapes: normal for floats, 0 and 1 for integers."""
        return random_inputs(self.inputs, seed)

    def _measure(self, repeat: int, seconds: float) -> list[float]:
        return list(json.loads(self._runner["time"](repeat, seconds)))

    def _set_inputs(self, args: tuple[Array | Arrays, ...], kwargs: Arrays) -> None:
        for i, array in enumerate(checked_inputs(self.inputs, args, kwargs)):
            self._runner["set_input"](i, tvm.runtime.tensor(array))


def load(folder: str | Path) -> Executable:
    """Load a folder that ``compile`` wrote, for this machine.

    Raises ArtifactError where a file is missing or changed, or was made by an incompatible
    version or for another machine; DeviceError where the GPU lane has no device.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if not manifest.runs_here:
        raise ArtifactError(
            f"{path} was compiled for target '{manifest.target}' ({manifest.machine}); it runs there, "
            "not on this machine: --rpc-tracker runs it on a device"
        )
    return Executable(path, manifest)
