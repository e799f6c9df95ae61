"""What is known of a device: frozen dataclasses that the TOML files of this folder fill."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from syncnas_tvm.errors import TargetError
from syncnas_tvm.work import Lane

if TYPE_CHECKING:
    from tvm.target import Target as TVMTarget

KERNEL_KINDS = ("pointwise", "depthwise", "conv", "stem", "matmul", "reduce", "elementwise")
"""Names under ``efficiency``; ``syncnas_tvm.cost_models.kind_of`` says which kernel is which."""

NATIVE = "native"
"""Value of ``mcpu`` and ``mtriple`` that means: what LLVM finds on the machine that compiles."""


LEAST_TRANSFER_US = 1e-3

WeightMemory = Literal["buffer", "texture"]
WEIGHT_MEMORIES: tuple[WeightMemory, ...] = get_args(WeightMemory)
"""Where kernels of the GPU lane read the weights of pointwise and dense convolutions from."""
TEXTURE_LIMIT = 8192
"""Texels a side of an image, where ``texture_spatial_limit`` says nothing: OpenCL 1.2's minimum."""


@dataclass(frozen=True)
class Transfer:
    """Moving a tensor between the lanes in one direction: latency plus bytes over bandwidth."""

    latency_us: float
    gbytes_per_s: float

    def us(self, size: int) -> float:
        """Microseconds for ``size`` bytes, at least a nanosecond: what moves has to be waited for.

        Nothing to move costs nothing.
        """
        if not size:
            return 0.0
        return max(self.latency_us + size / (self.gbytes_per_s * 1e3), LEAST_TRANSFER_US)


@dataclass(frozen=True)
class TargetCosts:
    """What the lanes cost beside their kernels. Overridable in the target's TOML, ``[costs]``.

    ``enqueue_us``: host thread time to hand one kernel to the GPU's queue.
    ``cpu_contention`` and ``gpu_contention``: how many times longer a lane's kernels take while
    the other lane is busy too (1 = not at all, at most 2).
    """

    to_gpu: Transfer
    to_cpu: Transfer
    enqueue_us: float
    cpu_contention: float = 1.0
    gpu_contention: float = 1.0

    def transfer(self, source: Lane) -> Transfer:
        """The transfer away from ``source``."""
        return self.to_gpu if source == "cpu" else self.to_cpu


@dataclass(frozen=True)
class LanePeak:
    """A lane's roofline. ``launch_us`` is the fixed time of one kernel on the lane itself.

    ``efficiency``: the share of ``gflops`` that kernels of a kind reach (0 to 1); kinds not
    named reach ``default_efficiency``.
    """

    gflops: float
    gbytes_per_s: float
    launch_us: float
    efficiency: Mapping[str, float] = field(default_factory=dict, hash=False)
    default_efficiency: float = 0.5

    def reached_gflops(self, kind: str) -> float:
        """GFLOP/s that kernels of ``kind`` reach when memory does not hold them up."""
        return self.gflops * self.efficiency.get(kind, self.default_efficiency)


@dataclass(frozen=True)
class LearnedLane:
    """The trained cost models of a lane, by type: files that ``LearnedModel.load`` reads.

    ``speed``: how many times as fast the lane is as the one that was measured; ``network_bias``: how
    many times longer kernels take in a network than alone.
    """

    models: Mapping[str, Path] = field(hash=False)
    speed: float = 1.0
    network_bias: float = 1.0


@dataclass(frozen=True)
class Link:
    """How a target's ``model.so`` is linked: commands to try in order, their options, a hint."""

    mode: Literal["host", "cross"]
    commands: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    hint: str = ""

    def find(self) -> tuple[str, ...]:
        """The first command that is installed here, as program and arguments.

        Raises TargetError with the hint when there is none. ``python -m NAME ...`` stands for
        the running interpreter and is installed when it has the module ``NAME``.
        """
        for command in self.commands:
            words = shlex.split(command)
            if words[:2] == ["python", "-m"]:
                if importlib.util.find_spec(words[2]) is not None:
                    return (sys.executable, *words[1:])
            elif shutil.which(words[0]):
                return tuple(words)
        tried = ", ".join(f"'{c}'" for c in self.commands)
        raise TargetError(f"no linker for this target is installed (tried {tried}): {self.hint}")


@dataclass(frozen=True)
class OpenCLLimits:
    """What kernels may use of a GPU's OpenCL; work groups and local memory are in ``[gpu]``.

    Kernels are OpenCL C 1.2 with these ``extensions``. The defaults are what every OpenCL 1.2 device
    has (specification 1.2, tables 4.3 and 6.2). ``weights``: where kernels read those of pointwise and dense
    convolutions from.
    """

    max_vector_lanes: int = 16
    max_buffer_bytes: int = 128 << 20
    extensions: tuple[str, ...] = ()
    weights: WeightMemory = "buffer"


@dataclass(frozen=True)
class Target:
    """One device: TVM's targets for both lanes, how to link, and what things cost on it.

    ``cpu`` and ``gpu`` are TVM target dictionaries without the ``host`` key; ``vector_lanes``
    floats fit the CPU's vector registers; channels are cut in steps of ``channel_step``; ``cpus``
    are the core numbers that the CPU lane is pinned to (empty: not pinned).
    """

    name: str
    description: str
    cpu: Mapping[str, Any] = field(hash=False)
    gpu: Mapping[str, Any] = field(hash=False)
    vector_lanes: int
    channel_step: int
    cpus: tuple[int, ...]
    link: Link
    cpu_peak: LanePeak
    gpu_peak: LanePeak
    costs: TargetCosts
    learned: Mapping[Lane, LearnedLane] = field(default_factory=dict, hash=False)
    opencl: OpenCLLimits = field(default_factory=OpenCLLimits)

    def peak(self, lane: Lane) -> LanePeak:
        """The roofline of ``lane``."""
        return self.cpu_peak if lane == "cpu" else self.gpu_peak

    @property
    def cpu_threads(self) -> int:
        """Threads of the CPU lane."""
        return int(self.cpu.get("num-cores", 1))

    @property
    def is_host(self) -> bool:
        """Whether the executable runs on the machine that compiles it."""
        return self.link.mode == "host"

    @property
    def texture_limit(self) -> int:
        """Width and height of a texture at most, in texels."""
        return int(self.gpu.get("texture_spatial_limit", TEXTURE_LIMIT))

    def cpu_config(self) -> dict[str, Any]:
        """The CPU lane's TVM target dictionary, with ``native`` replaced by what LLVM finds."""
        config = dict(self.cpu)
        if NATIVE in (config.get("mcpu"), config.get("mtriple")):
            from tvm.target import codegen

            if config.get("mcpu") == NATIVE:
                config["mcpu"] = str(codegen.llvm_get_system_cpu())
            if config.get("mtriple") == NATIVE:
                config["mtriple"] = str(codegen.llvm_get_system_triple())
        return config

    def gpu_config(self) -> dict[str, Any]:
        """The GPU lane's TVM target dictionary, with the CPU lane as its host."""
        return {**self.gpu, "host": self.cpu_config()}

    def cpu_target(self) -> TVMTarget:
        """TVM's target of the CPU lane; raises TargetError where TVM does not take it."""
        return self._tvm(self.cpu_config(), "cpu")

    def gpu_target(self) -> TVMTarget:
        """TVM's target of the GPU lane; raises TargetError where TVM does not take it."""
        return self._tvm(self.gpu_config(), "gpu")

    def _tvm(self, config: dict[str, Any], lane: Lane) -> TVMTarget:
        from tvm.target import Target as TVMTarget

        try:
            return TVMTarget(config)
        except Exception as error:  # TVM raises several types here
            line = str(error).strip().splitlines()[-1]
            raise TargetError(
                f"target '{self.name}': TVM does not take its [{lane}] table; correct it ({line})"
            ) from error
