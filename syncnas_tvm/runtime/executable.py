"""A compiled model in this machine's memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from syncnas_tvm.artifact import Manifest, read_manifest
from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.runtime.inputs import Array
from syncnas_tvm.runtime.lanes import gpu_device, on_cpu_lane, reserve_cores
from syncnas_tvm.runtime.loaded_model import RUNNER_FUNCTIONS, LoadedModel
from syncnas_tvm.targets import load_target


class Executable(LoadedModel):
    """A model that runs on this machine; made by :func:`load`."""

    call_s = 1.0

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        target = load_target("host")
        reserve_cores(target)
        self._cpus = target.cpus if self.uses_gpu else ()
        if self.uses_gpu:
            gpu_device()  # says what is missing, in one line
        load_here = tvm_ffi.get_global_func("syncnas.runner.load_unbound")
        try:
            runner = self._call("loading", load_here, str(folder), json.dumps(manifest.to_json()))
        except RuntimeError as error:
            if str(error).startswith("the model calls"):  # runtime/runner/capture.cc
                raise ArtifactError(str(error).splitlines()[0]) from error
            raise
        self._runner = {name: runner[name] for name in RUNNER_FUNCTIONS}

    def celsius(self) -> float:
        """The hottest sensor of this machine in degrees Celsius; -1 where it shows none."""
        return float(tvm_ffi.get_global_func("syncnas.runner.hottest_celsius")())

    def _call(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        with on_cpu_lane(self._cpus):
            return function(*args)

    def _tensor(self, array: Array) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(array)


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
