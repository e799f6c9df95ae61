"""The two files of a MetaSchedule database, read line by line.

TVM's own reader gives up on the half of a line that a kill leaves, and forgets the order in which
records were written, which says which measurements belong together.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncnas_tvm.errors import InputError

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"


@dataclass(frozen=True)
class Record:
    """One measurement: which workload (its line), for which target, what was sampled, seconds."""

    workload: int
    target: dict[str, Any]
    sampled: tuple[int, ...]
    seconds: tuple[float, ...]


def read_workloads(folder: Path) -> list[Any]:
    """The workloads' JSON, as ``Workload.from_json`` takes it; raises InputError."""
    return [data for _, data in _lines(folder / WORKLOADS)]


def read_records(folder: Path) -> list[Record]:
    """All records in the order in which they were written; raises InputError."""
    path, found = folder / RECORDS, []
    for number, data in _lines(path):
        try:
            workload, ((instructions, decisions), seconds, target, _) = data
            sampled = [
                int(instructions[at][2][0][int(choice)])
                for at, choice in decisions
                if instructions[at][0] == "SampleCategorical"
            ]
            times = tuple(float(s) for s in seconds)
            found.append(Record(int(workload), dict(target), tuple(sampled), times))
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(f"{path}:{number} is not a tuning record; tune again") from error
    return found


def check_folder(folder: Path) -> None:
    """Raise InputError where ``folder`` is none, or has no database in it."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; give the folder that tuning wrote")
    for name in (WORKLOADS, RECORDS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}; give the folder that tuning wrote")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make ``folder``, keep other tuners out of it, and remove a line that a kill cut in half."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in (WORKLOADS, RECORDS):
            _cut(folder / name)
        yield


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the lines; a last line that was cut off is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give another folder"
        ) from error
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number} is damaged; tune again in a new folder") from error


def _cut(path: Path) -> None:
    if not path.is_file():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
