"""The two files of a MetaSchedule database, read and written line by line.

TVM's own reader gives up on a line that is damaged or that a kill has cut off, and forgets the order
in which records were written, which says which measurements belong together. Its writer makes several
writes of a line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncnas_tvm.errors import InputError

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
KERNELS = "kernels.jsonl"
FAILED_S = 1e9
"""MetaSchedule writes 1e10 seconds for a candidate that cannot be built or run."""


@dataclass(frozen=True)
class Record:
    """One measurement: which workload (its line), for which target, what was sampled, seconds."""

    workload: int
    target: dict[str, Any]
    sampled: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def failed(self) -> bool:
        """Whether the candidate could not be built, or not be run."""
        return not self.seconds or max(self.seconds) >= FAILED_S


def read_workloads(folder: Path, problems: list[str]) -> list[Any]:
    """The workloads' JSON, as ``Workload.from_json`` takes it; None for a line that is damaged.

    ``problems`` gets file and line of each. Raises InputError where there is no such file.
    """
    return [data for _, data in json_lines(folder / WORKLOADS, problems)]


def read_records(folder: Path, problems: list[str]) -> list[Record]:
    """All records in the order in which they were written, without lines that are none.

    ``problems`` gets file and line of each of those. Raises InputError where there is no such file.
    """
    path, found = folder / RECORDS, []
    for number, data in json_lines(path, problems):
        if data is None:
            continue
        try:
            found.append(record_of(data))
        except (ValueError, TypeError, LookupError):
            problems.append(f"{path}:{number} is not a tuning record")
    return found


def record_of(data: Any) -> Record:
    """The record in a line's JSON; raises ValueError, TypeError or LookupError where it is none."""
    workload, ((instructions, decisions), seconds, target, _) = data
    sampled = [
        int(instructions[at][2][0][int(choice)])
        for at, choice in decisions
        if instructions[at][0] == "SampleCategorical"
    ]
    times = tuple(float(s) for s in seconds)
    return Record(int(workload), dict(target), tuple(sampled), times)


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
    """Make ``folder`` and its files, keep other tuners out, and remove lines that a kill cut in half.

    Raises InputError where another tuner writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another tuning writes to {folder}; wait for it or name another folder"
            ) from None
        for name in (WORKLOADS, RECORDS, KERNELS):
            (folder / name).touch()
            _cut(folder / name)
        yield


def append_lines(path: Path, *data: Any) -> None:
    """Add lines of JSON in one write that is on the disk when this returns.

    A kill leaves all of them or none; where the disk is full, half a line that :func:`locked` removes.
    """
    line = b"".join(json.dumps(item).encode() + b"\n" for item in data)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        written = os.write(descriptor, line)
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_lines(path: Path, problems: list[str]) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the lines, None for one that is damaged, which ``problems`` then names.

    A last line that was cut off is left out. Raises InputError where the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give another folder"
        ) from error
    for number, line in enumerate(lines[:-1], 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if value is None:
            problems.append(f"{path}:{number} is damaged")
        yield number, value


def _cut(path: Path) -> None:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
