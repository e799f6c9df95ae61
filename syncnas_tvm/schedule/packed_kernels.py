"""Packed kernels of both lanes, scheduled: tile sizes from the target, each kernel once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm import s_tir, tirx

from syncnas_tvm.lane_types import FLOAT32, HALF, LaneTypes
from syncnas_tvm.schedule import cpu_tilings, gpu_tilings, packed_cpu, packed_gpu
from syncnas_tvm.schedule.conversion import conversion
from syncnas_tvm.schedule.kernels import SCHEDULED_ATTR
from syncnas_tvm.schedule.merge import merge
from syncnas_tvm.schedule.packed_definition import Definition, Family, Machine
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Lane, Shape

# TVM's operator pattern of a kernel that nothing may be fused into.
OPAQUE = 8
NEON_VECTOR = 4


class Records(Protocol):
    """Where tuned tilings come from: ``syncnas_tvm.tuning.TuningRecords``."""

    def tiling(self, space: TuningSpace) -> Tiling | None:
        """The best one of the space's tilings; None where the rule's own is to be taken."""


@dataclass(frozen=True)
class PackedSchedules:
    """Schedules packed kernels for a target.

    ``vector`` floats are a packed group of channels; ``registers`` the CPU's vector registers;
    ``accumulators`` the vectors that a GPU work item keeps; ``threads`` those of the CPU lane;
    ``types`` what the lanes keep in memory; ``work_items`` the most of a GPU's work group.
    ``texture_limit`` is the GPU's, in texels, where its weights are textures. ``records`` refine what the
    rules choose.
    """

    vector: int
    registers: int
    accumulators: int
    threads: int = 1
    types: LaneTypes = FLOAT32
    work_items: int = 256
    records: Records | None = None
    texture_limit: int = 0

    @staticmethod
    def of(
        target: Target, types: LaneTypes = FLOAT32, records: Records | None = None
    ) -> PackedSchedules:
        """From the target's vector width: AVX-512 and NEON have 32 registers, AVX2 has 16.

        A GPU work item of a mobile GPU has room for few accumulators; OpenCL on CPU cores (``host``)
        has the CPU's own registers. Halves on the CPU lane: a register holds twice as many, so that is
        the group of channels, which both lanes share.
        """
        registers = 16 if target.vector_lanes == 8 else 32
        accumulators = registers * 3 // 4 if target.is_host else 8
        items = int(target.gpu.get("max_num_threads", 256))
        vector = target.vector_lanes
        if types.cpu == HALF:
            vector, accumulators = vector * 2, accumulators // 2
        limit = target.texture_limit if target.opencl.weights == "texture" else 0
        return PackedSchedules(
            vector, registers, accumulators, target.cpu_threads, types, items, records, limit
        )

    @property
    def cpu_accumulators(self) -> int:
        """Accumulators of a CPU tile: as many as leave registers for operands.

        x86 multiplies with an input that it broadcasts from memory; NEON loads inputs into registers
        first, and with 16 accumulators or more some kernels spill.
        """
        return self.registers * 3 // 4 if self.vector > NEON_VECTOR else self.registers // 2 - 2

    def machine(self, lane: Lane) -> Machine:
        """What a definition has to know of ``lane``."""
        on_cpu = lane == "cpu"
        columns = self.registers // 4 if on_cpu else max(1, self.accumulators // 3)
        sums_in_registers = self.cpu_accumulators if on_cpu else self.accumulators
        tokens = max(1, sums_in_registers // max(1, columns // 2))
        dtype = self.types.of(lane)
        # In halves, Winograd's sums and differences would lose what they cancel.
        # OpenCL computes in float32 whatever it reads; the CPU's halves are for speed, too.
        sums = dtype if on_cpu else "float32"
        return Machine(
            self.vector,
            columns,
            vectorised_exp=on_cpu,
            tokens=tokens,
            accumulators=self.cpu_accumulators if on_cpu else 0,
            winograd=on_cpu and dtype != HALF,
            dtype=dtype,
            sums=sums,
            texture_limit=0 if on_cpu else self.texture_limit,
        )

    def kernel(
        self, definition: Definition, lane: Lane, room: tuple[Shape, int] | None = None
    ) -> tirx.PrimFunc:
        """The definition's functions, scheduled for ``lane``, as one.

        With ``room``, a packed shape and a row of it, they write their output there. Tiles are those
        of the kernel without, which is the one that is tuned.
        """
        known = self.spaces(definition, lane)
        spaces = self.spaces(definition.in_rows(*room), lane) if room else known
        tuned = [None if self.records is None else self.records.tiling(space) for space in known]
        parts = [space.scheduled(tiling) for space, tiling in zip(spaces, tuned, strict=True)]
        return _final(merge(parts) if len(parts) > 1 else parts[0])

    def spaces(self, definition: Definition, lane: Lane) -> list[TuningSpace]:
        """What may be chosen in the schedule of each of the definition's functions."""
        return [self._space(f, definition.family, lane) for f in definition.functions]

    def _space(self, function: tirx.PrimFunc, family: Family, lane: Lane) -> TuningSpace:
        function = function.with_attr("global_symbol", "main")
        sch = s_tir.Schedule(function)
        if lane == "cpu":
            tilings = cpu_tilings.tilings(sch, family, self.cpu_accumulators, self.threads)
        else:
            tilings = gpu_tilings.tilings(sch, family, self.accumulators, self.work_items)
        return TuningSpace(function, family, lane, tilings)

    def conversion(
        self, shape: Shape, lane: Lane, packing: bool, dtype: str = "float32"
    ) -> tirx.PrimFunc:
        """The kernel that changes the layout of an NCHW tensor of ``shape`` and type ``dtype``."""
        function = conversion(shape, self.vector, packing, dtype)
        if lane == "cpu":
            return _final(packed_cpu.schedule_conversion(function))
        return _final(packed_gpu.schedule_conversion(function, self.work_items))


def _final(function: tirx.PrimFunc) -> tirx.PrimFunc:
    return function.with_attrs({SCHEDULED_ATTR: True, "op_pattern": OPAQUE})
