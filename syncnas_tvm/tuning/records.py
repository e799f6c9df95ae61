"""``TuningRecords``: the best measured tiling of each kernel, out of a MetaSchedule database."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import astuple
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import PARAMETERS, TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning import best
from syncnas_tvm.tuning.record_files import Record, check_folder, read_records, read_workloads
from syncnas_tvm.work import LANES, Lane


class TuningRecords:
    """Records of one folder that are for ``target``, by kernel.

    ``ignored`` counts the others, by reason; lines that are damaged are among them, by file and number.
    A record is found by the kernel's function, its lane and its target; what it says is a tiling, and
    one that the rule does not offer (any more) is not taken.
    """

    def __init__(self, folder: Path, target: Target) -> None:
        """Read ``folder``; raises InputError where it is not a database."""
        check_folder(folder)
        self.folder = folder
        self.target = target
        problems: list[str] = []
        self._used: dict[tuple[Lane, int], bool] = {}
        self._workloads = _functions(read_workloads(folder, problems), folder, problems)
        self._by_hash: dict[int, list[int]] = defaultdict(list)
        for number, function in enumerate(self._workloads):
            if function is not None:
                self._by_hash[function_hash(function)].append(number)
        self._records: dict[tuple[Lane, int], list[Record]] = defaultdict(list)
        self._configs = {lane: target_json(target, lane) for lane in LANES}
        self.ignored: Counter[str] = Counter()
        for record in read_records(folder, problems):
            reason = self._take(record)
            if reason:
                self.ignored[reason] += 1
        self.problems = tuple(problems)
        self.ignored.update(problems)

    def __len__(self) -> int:
        """Records that are for the target."""
        return sum(map(len, self._records.values()))

    @property
    def digest(self) -> str:
        """Changes with the records that are for the target."""
        entries = [
            (
                lane,
                function_hash(self._workloads[number]),
                [(r.sampled, r.seconds) for r in records],
            )
            for (lane, number), records in sorted(self._records.items())
        ]
        return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:12]

    def times(self, space: TuningSpace) -> list[tuple[best.Sampled, float]]:
        """The space's measured tilings, as samples, and their seconds, in the order of the records."""
        known = set(map(astuple, space.tilings))
        return [(s, seconds) for s, seconds in best.measured(self._of(space)) if s in known]

    def measured(self, space: TuningSpace) -> list[tuple[Tiling, float]]:
        """The space's measured tilings and their seconds, in the order of the measurements."""
        return [(Tiling(*sampled), seconds) for sampled, seconds in self.times(space)]

    def tried(self, space: TuningSpace) -> set[Tiling]:
        """The space's tilings that were measured, or could not be built or run."""
        return {Tiling(*record.sampled) for record in self._of(space)} & set(space.tilings)

    def tiling(self, space: TuningSpace) -> Tiling | None:
        """The fastest measured tiling; None where the rule's own is, or where there is no record.

        See :func:`syncnas_tvm.tuning.best.comparison` for which measurements are compared.
        """
        key = self._key(space)
        own = space.tilings[0]
        seconds = best.comparison(self.times(space), astuple(own))
        if key is None or not seconds:
            return None
        found = Tiling(*best.best(seconds, astuple(own)))
        self._used[key] = found != own
        return found if found != own else None

    def to_json(self) -> dict[str, Any]:
        """What ``compile --json`` prints: ``kernels`` have records, ``refined`` others than the rule's."""
        return {
            "folder": str(self.folder),
            "records": len(self),
            "ignored": dict(self.ignored),
            "kernels": len(self._used),
            "refined": sum(self._used.values()),
        }

    def _take(self, record: Record) -> str:
        """Keep a record; why it is not kept, or nothing."""
        lane = next((lane for lane in LANES if self._configs[lane] == record.target), None)
        if lane is None:
            return "for another target"
        known = self._workloads[record.workload : record.workload + 1]
        if record.workload < 0 or not known or known[0] is None:
            return "of a workload that is not there"
        if len(record.sampled) != len(PARAMETERS):
            return "of another tuner"
        if record.seconds:
            self._records[lane, record.workload].append(record)
        return ""

    def _of(self, space: TuningSpace) -> list[Record]:
        key = self._key(space)
        return [] if key is None else self._records[key]

    def _key(self, space: TuningSpace) -> tuple[Lane, int] | None:
        """Where the records of the space's function are."""
        for number in self._numbers(space):
            if (space.lane, number) in self._records:
                return space.lane, number
        return None

    def _numbers(self, space: TuningSpace) -> list[int]:
        """The workloads that are the space's function."""
        numbers = self._by_hash.get(function_hash(space.function), ())
        return [n for n in numbers if tvm_ffi.structural_equal(self._workloads[n], space.function)]


def target_json(target: Target, lane: Lane) -> dict[str, Any]:
    """A lane's TVM target as records have it."""
    config = target.cpu_target() if lane == "cpu" else target.gpu_target()
    return json.loads(str(config))


def function_hash(function: tvm.tirx.PrimFunc) -> int:
    """Equal for equal functions."""
    return int(tvm_ffi.structural_hash(function))


def _functions(
    lines: list[Any], folder: Path, problems: list[str]
) -> list[tvm.tirx.PrimFunc | None]:
    """The workloads' functions; None for one that this TVM cannot read."""
    # Imported where it is needed: most compiles have no records.
    from tvm.s_tir.meta_schedule.database import Workload

    found: list[tvm.tirx.PrimFunc | None] = []
    for number, data in enumerate(lines):
        try:
            found.append(None if data is None else Workload.from_json(data).mod["main"])
        except Exception:  # TVM raises several types here
            found.append(None)
            problems.append(f"{folder}: workload {number} cannot be read by this TVM")
    return found
