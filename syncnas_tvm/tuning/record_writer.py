"""Adds to a folder of tuning records, and knows what is in it without reading it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.database import TuningRecord, Workload

from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.cost_models.importers import described_sample
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning.kernel_file import KernelEntry, append_kernel, read_kernels
from syncnas_tvm.tuning.record_files import (
    RECORDS,
    WORKLOADS,
    Record,
    append_lines,
    record_of,
)
from syncnas_tvm.tuning.records import TuningRecords, function_hash
from syncnas_tvm.work import Kernel

FAILED = (1e10,)
"""What MetaSchedule writes for a candidate that cannot be built or run."""


class RecordWriter(TuningRecords):
    """The records of a folder that this process has locked (:func:`record_files.locked`).

    Whatever is added is on the disk when the call returns; a kill loses nothing before it. MetaSchedule's
    own ``JSONDatabase`` reads the files.
    """

    def __init__(self, folder: Path, target: Target) -> None:
        super().__init__(folder, target)
        self._entries = dict.fromkeys(read_kernels(folder, []))

    @property
    def entries(self) -> list[KernelEntry]:
        """The kernels that are described."""
        return list(self._entries)

    def of_kernel(self, kernel: Kernel) -> list[list[Record]]:
        """The records of each function of a described kernel."""
        entry = next((e for e in reversed(self._entries) if e.kernel == kernel), None)
        numbers = entry.workloads if entry else ()
        return [self._records.get((kernel.lane, number), []) for number in numbers]

    def samples(self) -> Dataset:
        """What the described kernels take, as :func:`import_metaschedule` reads it from the folder."""
        found = [
            described_sample(entry.kernel, records, self.target.name, self.folder.name)
            for entry in self._entries
            if any(records := self.of_kernel(entry.kernel))
        ]
        return Dataset(tuple(sample for sample in found if sample is not None))

    def describe(self, kernel: Kernel, spaces: Sequence[TuningSpace]) -> None:
        """Note which kernel the spaces' functions make, unless that is there."""
        entry = KernelEntry(kernel, tuple(self._workload(space) for space in spaces))
        if entry not in self._entries:
            append_kernel(self.folder, entry)
            self._entries[entry] = None

    def add(self, space: TuningSpace, *measured: tuple[Any, Sequence[float]]) -> None:
        """Note measurements of the space's function, all or none of them: the traces of its schedules, and
        seconds (``FAILED`` for one that cannot be built or run)."""
        number = self._workload(space)
        workload, info = Workload(space.workload), ArgInfo.from_prim_func(space.function)
        target = self.target.cpu_target() if space.lane == "cpu" else self.target.gpu_target()
        lines = []
        for trace, seconds in measured:
            record = TuningRecord(trace, workload, [float(s) for s in seconds], target, info)
            lines.append([number, record.as_json()])
        append_lines(self.folder / RECORDS, *lines)
        for line in lines:
            self._take(record_of(line))

    def _workload(self, space: TuningSpace) -> int:
        """The line of the space's function, which is written where it is missing."""
        for number in self._numbers(space):
            return number
        append_lines(self.folder / WORKLOADS, Workload(space.workload).as_json())
        self._workloads.append(space.function)
        number = len(self._workloads) - 1
        self._by_hash[function_hash(space.function)].append(number)
        return number
