"""Packed kernels of both lanes, scheduled: tile sizes from the target, each kernel once."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from syncnas_tvm.lane_types import FLOAT32, HALF, LaneTypes
from syncnas_tvm.schedule import packed_cpu, packed_gpu
from syncnas_tvm.schedule.conversion import conversion
from syncnas_tvm.schedule.kernels import SCHEDULED_ATTR
from syncnas_tvm.schedule.merge import merge
from syncnas_tvm.schedule.packed import Definition, Machine
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Lane, Shape

# TVM's operator pattern of a kernel that nothing may be fused into.
OPAQUE = 8
NEON_VECTOR = 4


@dataclass(frozen=True)
class PackedSchedules:
    """Schedules packed kernels for a target.

    ``vector`` floats are a packed group of channels; ``registers`` the CPU's vector registers;
    ``accumulators`` the vectors that a GPU work item keeps; ``threads`` those of the CPU lane;
    ``types`` what the lanes keep in memory.
    """

    vector: int
    registers: int
    accumulators: int
    threads: int = 1
    types: LaneTypes = FLOAT32

    @staticmethod
    def of(target: Target, types: LaneTypes = FLOAT32) -> PackedSchedules:
        """From the target's vector width: AVX-512 and NEON have 32 registers, AVX2 has 16.

        A GPU work item of a mobile GPU has room for few accumulators; OpenCL on CPU cores (``host``)
        has the CPU's own registers. Halves on the CPU lane: a register holds twice as many, so that is
        the group of channels, which both lanes share.
        """
        registers = 16 if target.vector_lanes == 8 else 32
        accumulators = registers * 3 // 4 if target.is_host else 8
        vector = target.vector_lanes
        if types.cpu == HALF:
            vector, accumulators = vector * 2, accumulators // 2
        return PackedSchedules(vector, registers, accumulators, target.cpu_threads, types)

    @property
    def cpu_accumulators(self) -> int:
        """Accumulators of a CPU tile: as many as leave registers for operands.

        x86 multiplies with an input that it broadcasts from memory; NEON loads inputs into registers
        first, and with 16 accumulators or more some kernels spill.
        """
        return self.registers * 3 // 4 if self.vector > NEON_VECTOR else self.registers // 2 - 2

    def machine(self, lane: Lane) -> Machine:
        """What a definition has to know of ``lane``."""
        columns = self.registers // 4 if lane == "cpu" else max(1, self.accumulators // 3)
        on_cpu = lane == "cpu"
        dtype = self.types.of(lane)
        # In halves, Winograd's sums and differences would lose what they cancel.
        # OpenCL computes in float32 whatever it reads; the CPU's halves are for speed, too.
        sums = dtype if on_cpu else "float32"
        return Machine(self.vector, columns, on_cpu, on_cpu and dtype != HALF, dtype, sums)

    def kernel(self, definition: Definition, lane: Lane) -> tirx.PrimFunc:
        """The definition's functions, scheduled for ``lane``, as one."""
        family = definition.family
        if lane == "cpu":
            parts = [
                packed_cpu.schedule(f, family, self.cpu_accumulators, self.threads)
                for f in definition.functions
            ]
        else:
            parts = [
                packed_gpu.schedule(f, family, self.accumulators) for f in definition.functions
            ]
        return _final(merge(parts) if len(parts) > 1 else parts[0])

    def conversion(
        self, shape: Shape, lane: Lane, packing: bool, dtype: str = "float32"
    ) -> tirx.PrimFunc:
        """The kernel that changes the layout of an NCHW tensor of ``shape`` and type ``dtype``."""
        function = conversion(shape, self.vector, packing, dtype)
        module = packed_cpu if lane == "cpu" else packed_gpu
        return _final(module.schedule_conversion(function))


def _final(function: tirx.PrimFunc) -> tirx.PrimFunc:
    return function.with_attrs({SCHEDULED_ATTR: True, "op_pattern": OPAQUE})
