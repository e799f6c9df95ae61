"""``TuningRecords``: the best measured tiling of each kernel, out of a MetaSchedule database."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import tvm
import tvm_ffi

from syncnas_tvm.errors import InputError
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import PARAMETERS, TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning.record_files import Record, check_folder, read_records, read_workloads
from syncnas_tvm.work import LANES, Lane

# A tiling takes the rule's place where it is faster by more than what measurements differ by.
MARGIN = 0.02


class TuningRecords:
    """Records of one folder that are for ``target``, by kernel.

    ``ignored`` counts the others, by reason. A record is found by the kernel's function, its lane and
    its target; what it says is a tiling, and one that the rule does not offer (any more) is not taken.
    """

    def __init__(self, folder: Path, target: Target) -> None:
        """Read ``folder``; raises InputError where it is not a database, or damaged."""
        check_folder(folder)
        self.folder = folder
        self.ignored: Counter[str] = Counter()
        self._used: dict[tuple[Lane, int], bool] = {}
        self._workloads = [_function(folder, data) for data in read_workloads(folder)]
        self._by_hash: dict[int, list[int]] = defaultdict(list)
        for number, function in enumerate(self._workloads):
            self._by_hash[_hash(function)].append(number)
        self._records: dict[tuple[Lane, int], list[Record]] = defaultdict(list)
        configs = {lane: target_json(target, lane) for lane in LANES}
        for record in read_records(folder):
            lane = next((lane for lane in LANES if configs[lane] == record.target), None)
            if lane is None:
                self.ignored["for another target"] += 1
            elif record.workload >= len(self._workloads):
                self.ignored["of a workload that is not there"] += 1
            elif len(record.sampled) != len(PARAMETERS):
                self.ignored["of another tuner"] += 1
            elif record.seconds:
                self._records[lane, record.workload].append(record)

    def __len__(self) -> int:
        """Records that are for the target."""
        return sum(map(len, self._records.values()))

    @property
    def digest(self) -> str:
        """Changes with the records that are for the target."""
        entries = [
            (lane, _hash(self._workloads[number]), [(r.sampled, r.seconds) for r in records])
            for (lane, number), records in sorted(self._records.items())
        ]
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:12]

    def measured(self, space: TuningSpace) -> list[tuple[Tiling, float]]:
        """The space's measured tilings and their seconds, in the order of the measurements."""
        found = []
        key = self._key(space)
        for record in self._records[key] if key is not None else ():
            tiling = Tiling(*record.sampled)
            if tiling in space.tilings:
                found.append((tiling, median(record.seconds)))
        return found

    def tiling(self, space: TuningSpace) -> Tiling | None:
        """The fastest measured tiling; None where the rule's own is, or where there is no record.

        The rule's own is measured first, and again, together with the best, in the end: what was
        measured before its last record is not compared with it.
        """
        key = self._key(space)
        if key is None:
            return None
        own = space.tilings[0]
        measured = self.measured(space)
        starts = [i for i, (tiling, _) in enumerate(measured) if tiling == own]
        if not starts:
            return None
        seconds = dict(measured[starts[-1] :])
        best = min(seconds, key=lambda tiling: seconds[tiling])
        better = seconds[best] < (1 - MARGIN) * seconds[own]
        self._used[key] = better
        return best if better else None

    def to_json(self) -> dict[str, Any]:
        """What ``compile --json`` prints: ``kernels`` have records, ``refined`` others than the rule's."""
        return {
            "folder": str(self.folder),
            "records": len(self),
            "ignored": dict(self.ignored),
            "kernels": len(self._used),
            "refined": sum(self._used.values()),
        }

    def _key(self, space: TuningSpace) -> tuple[Lane, int] | None:
        """Where the records of the space's function are."""
        for number in self._by_hash.get(_hash(space.function), ()):
            key = (space.lane, number)
            same = tvm_ffi.structural_equal(self._workloads[number], space.function)
            if same and key in self._records:
                return key
        return None


def target_json(target: Target, lane: Lane) -> dict[str, Any]:
    """A lane's TVM target as records have it."""
    config = target.cpu_target() if lane == "cpu" else target.gpu_target()
    return json.loads(str(config))


def _hash(function: tvm.tirx.PrimFunc) -> int:
    return int(tvm_ffi.structural_hash(function))


def _function(folder: Path, data: Any) -> tvm.tirx.PrimFunc:
    # Imported where it is needed: most compiles have no records.
    from tvm.s_tir.meta_schedule.database import Workload

    try:
        return Workload.from_json(data).mod["main"]
    except Exception as error:  # TVM raises several types here
        raise InputError(
            f"{folder} has a workload that this TVM cannot read; tune again in a new folder"
        ) from error
