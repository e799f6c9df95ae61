"""A compiled model in memory: called with arrays, returns arrays, can be timed and profiled."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.artifact import Manifest, read_manifest
from syncnas_tvm.errors import ArtifactError, InputError
from syncnas_tvm.passes.lift_gpu_weights import WEIGHTS_FUNCTION
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane, reserve_cores
from syncnas_tvm.runtime.profiler import measured_timeline
from syncnas_tvm.targets import load_target
from syncnas_tvm.timeline import Timeline

Array = np.ndarray
Arrays = Mapping[str, Array]


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
        self, /, *args: Array | Arrays, repeat: int = 20, warmup: int = 3, **kwargs: Array
    ) -> list[float]:
        """Latencies in microseconds of ``repeat`` runs, inputs and outputs on the CPU."""
        tensors = self._tensors(args, kwargs)
        with on_cpu_lane(self._cpus):
            for _ in range(warmup):
                self._run(tensors)
            latencies_us = []
            for _ in range(repeat):
                start = time.perf_counter()
                self._run(tensors)
                latencies_us.append((time.perf_counter() - start) * 1e6)
        return latencies_us

    def profile(self, /, *args: Array | Arrays, **kwargs: Array) -> Timeline:
        """The measured timeline of one run (after one to warm up): kernels and syncs, by lane."""
        tensors = self._tensors(args, kwargs)
        with on_cpu_lane(self._cpus):
            self._run(tensors)
            return measured_timeline(self._vm, lambda: self._run(tensors), self.uses_gpu)

    def random_inputs(self, seed: int = 0) -> dict[str, Array]:
        """Inputs of the right shapes: normal for floats, 0 and 1 for integers."""
        rng = np.random.default_rng(seed)
        made = {}
        for spec in self.inputs:
            if np.issubdtype(np.dtype(spec.dtype), np.floating):
                made[spec.name] = rng.standard_normal(spec.shape).astype(spec.dtype)
            else:
                made[spec.name] = rng.integers(0, 2, spec.shape).astype(spec.dtype)
        return made

    def _run(self, tensors: list[tvm.runtime.Tensor]) -> list[tvm.runtime.Tensor]:
        result = self._main(*tensors, *self._weights)
        return [result] if len(self.outputs) == 1 else list(result)

    def _tensors(
        self, args: tuple[Array | Arrays, ...], kwargs: Arrays
    ) -> list[tvm.runtime.Tensor]:
        names = [spec.name for spec in self.inputs]
        if len(args) == 1 and isinstance(args[0], Mapping):
            kwargs, args = {**args[0], **kwargs}, args[1:]
        if len(args) > len(names):
            raise InputError(f"{len(args)} inputs given; the model takes {', '.join(names)}")
        given: dict[str, Any] = dict(zip(names, args, strict=False))
        for name, array in kwargs.items():
            if name not in names:
                raise InputError(f"no input '{name}'; the model takes {', '.join(names)}")
            if name in given:
                raise InputError(f"input '{name}' is given twice")
            given[name] = array
        return [tvm.runtime.tensor(self._checked(spec, given)) for spec in self.inputs]

    @staticmethod
    def _checked(spec: object, given: Mapping[str, Array]) -> Array:
        name, shape, dtype = spec.name, spec.shape, spec.dtype  # type: ignore[attr-defined]
        if name not in given:
            raise InputError(f"input '{name}' is missing; it has shape {shape} and type {dtype}")
        array = np.asarray(given[name])
        if array.shape != shape:
            raise InputError(f"input '{name}' has shape {array.shape}; the model takes {shape}")
        if array.dtype != np.dtype(dtype):
            raise InputError(
                f"input '{name}' has type {array.dtype}; the model takes {dtype}: "
                f"convert it with .astype('{dtype}')"
            )
        return np.ascontiguousarray(array)


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
            "not on this machine"
        )
    return Executable(path, manifest)
