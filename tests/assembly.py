"""The machine code of a kernel, and the loop in it that the time goes to."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tvm

from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.schedule.packed import define
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.prefetch import InsertPrefetches
from syncnas_tvm.schedule.stack_sums import pipeline
from syncnas_tvm.targets import Target


@dataclass(frozen=True)
class Loop:
    """An AArch64 loop that has no other inside: its instructions, without labels."""

    lines: tuple[str, ...]

    @property
    def fused(self) -> int:
        """Fused multiply-adds on vectors."""
        return sum("\tfmla\t" in line for line in self.lines)

    @property
    def unfused(self) -> int:
        """Multiplications on vectors that are not fused."""
        return sum("\tfmul\t" in line for line in self.lines)

    @property
    def spills(self) -> int:
        """Loads from and stores to the stack."""
        return sum(bool(re.search(r"\t(ld|st)[rp]\t.*\[sp", line)) for line in self.lines)


def assembly(group: Group, target: Target, types: LaneTypes = FLOAT32) -> str:
    """A kernel's assembly, scheduled for the CPU lane of ``target`` with ``types``."""
    schedules = PackedSchedules.of(target, types)
    definition = define(group, schedules.machine("cpu"))
    assert definition is not None
    function = schedules.kernel(definition, "cpu").with_attr("global_symbol", "kernel")
    mod = InsertPrefetches()(tvm.IRModule({"kernel": function}))
    built = tvm.compile(mod, target=target.cpu_target(), tir_pipeline=pipeline())
    return str(built.mod.inspect_source("asm"))


def hottest_loop(text: str) -> Loop:
    """The innermost loop with the most fused multiply-adds."""
    loops = []
    for block in re.split(r"\n(?=\.L\w+:)", text):
        label, *lines = block.splitlines()
        back = re.compile(rf"\t(b\.\w+|cbnz\t\w+,|tbnz\t.*,)\s*{re.escape(label.rstrip(':'))}$")
        end = next((i for i, line in enumerate(lines) if back.search(line)), None)
        if end is not None:
            loops.append(Loop(tuple(lines[: end + 1])))
    return max(loops, key=lambda loop: loop.fused)
