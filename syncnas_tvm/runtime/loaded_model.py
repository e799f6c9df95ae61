"""A compiled model in memory: called with arrays, returns arrays, can be timed and profiled."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import tvm

from syncnas_tvm.artifact import Manifest
from syncnas_tvm.runtime.inputs import Array, Arrays, checked_inputs, random_inputs
from syncnas_tvm.runtime.profiler import measured_timeline
from syncnas_tvm.timeline import Timeline

RUNNER_FUNCTIONS = ("describe", "set_input", "run", "output", "time", "profile")
"""Of the native library's runner (runtime/runner/rpc_functions.cc)."""


class LoadedModel(ABC):
    """What can be done with a model, wherever the runner in the native library holds it.

    ``inputs`` and ``outputs`` are the ONNX model's names, shapes and types, in order. The GPU
    lane's weights are uploaded once, when the model is loaded, and its memory is allocated then.
    Threads that call the same model take turns.
    """

    _runner: Mapping[str, Callable[..., Any]]
    """The runner's functions by name."""
    call_s: ClassVar[float]
    """Seconds of runs that are timed in one call: between two, Ctrl-C gets a chance and a device that
    has gone is noticed."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        self._turn = threading.Lock()  # inputs and outputs are one caller's at a time

    @abstractmethod
    def _call(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """``function`` where the model is; ``what`` it does is for error messages."""

    @abstractmethod
    def _tensor(self, array: Array) -> tvm.runtime.Tensor:
        """An input where the model is."""

    @abstractmethod
    def celsius(self) -> float:
        """The hottest sensor in degrees Celsius where the model is; -1 where there is none."""

    @property
    def device(self) -> dict[str, Any] | None:
        """What a device says of itself; None on this machine."""
        return None

    @property
    def uses_gpu(self) -> bool:
        """Whether any part of the model runs on the GPU lane."""
        return "gpu" in self.manifest.lanes

    def __call__(self, /, *args: Array | Arrays, **kwargs: Array) -> dict[str, Array]:
        """Run the model on arrays given by position, by input name, or in one mapping of names.

        Returns the outputs by name.

        Raises InputError for a missing, unknown or surplus input, a wrong shape or type; DeviceError
        where a device fails.
        """
        with self._turn:
            self._set_inputs(args, kwargs)
            self._call("running the model", self._runner["run"])
            return {spec.name: self._output(i) for i, spec in enumerate(self.outputs)}

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

        They are of the clock where the model is. With ``seconds`` no run begins after that time.
        """
        with self._turn:
            self._set_inputs(args, kwargs)
            if warmup:
                self._measure(warmup, 0.0)
            latencies: list[float] = []
            end = monotonic() + seconds if seconds else inf
            while len(latencies) < repeat and (left_s := end - monotonic()) > 0:
                latencies += self._measure(repeat - len(latencies), min(left_s, self.call_s))
            return latencies

    def profile(self, /, *args: Array | Arrays, **kwargs: Array) -> Timeline:
        """The measured timeline of one run (after one to warm up): kernels and syncs, by lane."""
        with self._turn:
            self._set_inputs(args, kwargs)
            return measured_timeline(self._call("profiling", self._runner["profile"]))

    def random_inputs(self, seed: int = 0) -> dict[str, Array]:
        """Inputs of the right shapes: normal for floats, 0 and 1 for integers."""
        return random_inputs(self.inputs, seed)

    def _set_inputs(self, args: tuple[Array | Arrays, ...], kwargs: Arrays) -> None:
        set_input = self._runner["set_input"]
        for i, array in enumerate(checked_inputs(self.inputs, args, kwargs)):
            tensor = self._call("sending an input", self._tensor, array)
            self._call("sending an input", set_input, i, tensor)

    def _output(self, index: int) -> Array:
        output = self._runner["output"]
        return self._call("reading an output", lambda: output(index).numpy())

    def _measure(self, repeat: int, seconds: float) -> list[float]:
        found = self._call("timing the model", self._runner["time"], repeat, float(seconds))
        return list(json.loads(found))
