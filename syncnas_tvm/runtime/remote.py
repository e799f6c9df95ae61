"""A compiled model on a device at the other end of TVM's RPC."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
from tvm import rpc

from syncnas_tvm.artifact import MANIFEST, MODEL, Manifest, read_manifest
from syncnas_tvm.errors import ArtifactError, DeviceError, error_line
from syncnas_tvm.runtime.deadline import deadline
from syncnas_tvm.runtime.inputs import Array
from syncnas_tvm.runtime.loaded_model import RUNNER_FUNCTIONS, LoadedModel
from syncnas_tvm.runtime.tracker import request_device


class RemoteExecutable(LoadedModel):
    """A model that runs on a device; made by :func:`load_on_device`.

    The device library's runner (runtime/runner/) holds the executable and the GPU lane's weights on
    the device; inputs, outputs and times are all that crosses the network.
    """

    call_s = 2.0

    def __init__(
        self, folder: Path, manifest: Manifest, session: rpc.RPCSession, timeout_s: float
    ) -> None:
        super().__init__(folder, manifest)
        self._session = session
        self._timeout_s = timeout_s
        self._cpu = session.cpu(0)
        load = self._function("syncnas.runner.load")
        for name in (MODEL, MANIFEST):
            self._upload(name)
        runner = self._call("loading the model", load, "")
        # Looking a function up goes over the network too.
        self._runner = {
            name: self._call("asking the device", runner.__getitem__, name)
            for name in RUNNER_FUNCTIONS
        }

    @property
    def device(self) -> dict[str, Any]:
        """``cpus`` that the CPU lane is bound to, ``cpu_threads``, and the ``gpu``'s name."""
        return json.loads(self._call("asking the device", self._runner["describe"]))

    def celsius(self) -> float:
        """The hottest sensor of the device; -1 where it shows none."""
        return float(
            self._call("reading sensors", self._function("syncnas.runner.hottest_celsius"))
        )

    def _tensor(self, array: Array) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(array, self._cpu)

    def _upload(self, name: str) -> None:
        data = (self.folder / name).read_bytes()
        problem = ""
        try:
            self._call(f"uploading {name}", self._session.upload, bytearray(data), name)
        except DeviceError as error:
            problem = f" ({error})"
        # TVM does not notice a disk that is full.
        status = self._function("syncnas.runner.file_status")
        found = json.loads(self._call("checking the upload", status, name))
        if found["bytes"] != len(data):
            raise DeviceError(
                f"{name} did not fit on the device: {max(found['bytes'], 0)} of {len(data)} bytes "
                f"arrived, {found['free_bytes']} bytes are free in its work folder; make room or "
                f"start its server with another --work-dir{problem}"
            )

    def _function(self, name: str) -> Callable[..., Any]:
        try:
            return self._call("asking the device", self._session.get_function, name)
        except DeviceError as error:
            raise DeviceError(
                f"the server on the device is none of this project's (it has no {name}); start "
                "syncnas-server from 'python -m syncnas_tvm.device build'"
            ) from error

    def _call(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """``function`` on the device, within the time-out; its errors become DeviceError."""
        try:
            with deadline(self._timeout_s, what):
                return function(*args)
        except (DeviceError, KeyboardInterrupt):
            raise
        except Exception as error:  # TVM raises several types, also for a lost connection
            raise DeviceError(f"{what} on the device failed: {error_line(error)}") from error


def load_on_device(
    folder: str | Path, address: tuple[str, int], key: str, timeout_s: float = 300.0
) -> RemoteExecutable:
    """Load a compiled folder on the device that a tracker knows as ``key``.

    ``timeout_s`` is for waiting for the device and for each call to it. Raises ArtifactError where the
    folder is damaged or for this machine's own kind of target, DeviceError where the device fails.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if manifest.runs_on_host:
        raise ArtifactError(
            f"{path} was compiled for this machine (target '{manifest.target}'); compile it for the "
            "device: --target rk3399, android or a .toml file"
        )
    session = request_device(address, key, timeout_s)
    return RemoteExecutable(path, manifest, session, timeout_s)
