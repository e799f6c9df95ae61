"""A compiled model in memory: called with arrays, returns arrays, can be timed and profiled."""

from __future__ import annotations

import time
from pathlib import Path

import tvm
import tvm_ffi
from tvm import relax

from syncnas_tvm.artifact import Manifest, read_manifest
from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.passes.lift_gpu_weights import WEIGHTS_FUNCTION
from syncnas_tvm.runtime.inputs import Array, Arrays, checked_inputs, random_inputs
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane, reserve_cores
from syncnas_tvm.runtime.profiler import measured_timeline
from syncnas_tvm.targets import load_target
from syncnas_tvm.timeline import Timeline


class Executable:
    """A model that runs on this machine; made by :func:`load`.

    ``inputs`` and ``outputs`` are the ONNX model's names, shapes and types, in order. The GPU
    lane's weights are uploaded once, when the executable is made.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        target = load_target("host")
        reserve_cores(target)
        self._cpus = target.cpus if self.uses_gpu else ()
        devices = [tvm.cpu(0), *([gpu_device()] if self.uses_gpu else [])]
        module = tvm.runtime.load_module(str(folder / "model.so"))
        self._vm = relax.VirtualMachine(module, devices)
        self._weights = list(self._vm[WEIGHTS_FUNCTION]()) if self.uses_gpu else []
        self._main = self._vm["main"]

    @property
    def uses_gpu(self) -> bool:
        """Whether any part of the model runs on the GPU lane."""
        return "gpu" in self.manifest.lanes

    def __call__(self, /, *args: Array | Arrays, **kwargs: Array) -> dict[str, Array]:
        """Run the model on arrays given by position, by input name, or in one mapping of names.

        Returns the outputs by name.

        Raises InputError for a missing, unknown or surplus input, a wrong shape or type.
        """
        tensors = self._tensors(args, kwargs)
        with on_cpu_lane(self._cpus):
            results = self._run(tensors)
        return {
            spec.name: result.numpy() for spec, result in zip(self.outputs, results, strict=True)
        }

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
        tensors = self._tensors(args, kwargs)
        with on_cpu_lane(self._cpus):
            for _ in range(warmup):
                self._run(tensors)
            latencies_us: list[float] = []
            begin = time.perf_counter()
            while len(latencies_us) < repeat:
                start = time.perf_counter()
                self._run(tensors)
                end = time.perf_counter()
                latencies_us.append((end - start) * 1e6)
                if seconds and end - begin >= seconds:
                    break
        return latencies_us

    def profile(self, /, *args: Array | Arrays, **kwargs: Array) -> Timeline:
        """The measured timeline of one run (after one to warm up): kernels and syncs, by lane."""
        tensors = self._tensors(args, kwargs)
        with on_cpu_lane(self._cpus):
            self._run(tensors)
            return measured_timeline(self._vm, lambda: self._run(tensors), self.uses_gpu)

    def celsius(self) -> float:
        """The hottest sensor of this machine in degrees Celsius; -1 where it shows none."""
        return float(tvm_ffi.get_global_func("syncnas.runner.hottest_celsius")())

    def random_inputs(self, seed: int = 0) -> dict[str, Array]:
        """Inputs of the right shapes: normal for floats, 0 and 1 for integers."""
        return random_inputs(self.inputs, seed)

    def _run(self, tensors: list[tvm.runtime.Tensor]) -> list[tvm.runtime.Tensor]:
        result = self._main(*tensors, *self._weights)
        return [result] if len(self.outputs) == 1 else list(result)

    def _tensors(
        self, args: tuple[Array | Arrays, ...], kwargs: Arrays
    ) -> list[tvm.runtime.Tensor]:
        arrays = checked_inputs(self.inputs, args, kwargs)
        return [tvm.runtime.tensor(array) for array in arrays]


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
