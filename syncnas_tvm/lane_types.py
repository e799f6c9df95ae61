"""In which type each lane keeps its floats: tensors between kernels, and weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from syncnas_tvm.work import DTYPE_BYTES, Kernel, Lane, Phase, Sync, Work

FloatType = Literal["float32", "float16"]
WIDE = "float32"
HALF = "float16"
FLOAT_TYPES: tuple[FloatType, ...] = ("float32", "float16")


@dataclass(frozen=True)
class LaneTypes:
    """The type of each lane's floats in memory; the model's inputs and outputs stay float32.

    What moves between the lanes has the GPU lane's type: the CPU lane converts, before a copy to the
    GPU and after one from it.
    """

    cpu: FloatType = "float32"
    gpu: FloatType = "float32"

    def of(self, lane: Lane) -> FloatType:
        """The type of the lane's floats."""
        return self.cpu if lane == "cpu" else self.gpu

    def stored(self, dtype: str, lane: Lane) -> str:
        """The type in which the lane keeps values that have type ``dtype`` in the model."""
        return self.of(lane) if dtype == WIDE else dtype

    @property
    def half(self) -> bool:
        """Whether any lane keeps halves."""
        return HALF in (self.cpu, self.gpu)

    @property
    def converting(self) -> bool:
        """Whether what moves between the lanes is converted."""
        return self.cpu != self.gpu

    def kernel(self, kernel: Kernel) -> Kernel:
        """A kernel of the model, as its lane runs it."""
        dtype = self.stored(kernel.dtype, kernel.lane)
        return kernel if dtype == kernel.dtype else replace(kernel, dtype=dtype)

    def work(self, work: Work) -> Work:
        """The work of a decision on the model, as the lanes do it."""
        return Work(tuple(self._phase(phase) for phase in work.phases)) if self.half else work

    def _phase(self, phase: Phase) -> Phase:
        kernels = {lane: tuple(map(self.kernel, phase.kernels(lane))) for lane in ("cpu", "gpu")}
        return Phase(kernels["cpu"], kernels["gpu"], self._sync(phase.output), phase.reads)

    def _sync(self, sync: Sync) -> Sync:
        """All that lanes exchange are floats; bands that are converted on the way have to be joined."""
        divisor = DTYPE_BYTES[WIDE] // DTYPE_BYTES[self.gpu]
        join = tuple(map(self.kernel, sync.join))
        seam = None if self.converting and sync.kind != "copy" else sync.seam
        if seam:
            seam = replace(seam, row_bytes=seam.row_bytes // divisor)
        return Sync(sync.kind, sync.cpu_bytes // divisor, sync.gpu_bytes // divisor, join, seam)


FLOAT32 = LaneTypes()
