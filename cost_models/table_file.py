"""Measured tables on disk: one JSON-lines file per machine, TVM version and lane layout."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from syncnas_tvm.cost_models.base import CostModel
from syncnas_tvm.cost_models.kernel_json import kernel_from_json, kernel_to_json
from syncnas_tvm.cost_models.measured import MeasuredTable, Measurement
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Kernel

FORMAT = 1
Key = Mapping[str, str]


def machine_key(target: Target, **more: str) -> dict[str, str]:
    """What measurements depend on: processor, threads of the lanes, TVM's version.

    ``more`` are further things that the caller knows, the OpenCL device's name say.
    """
    try:
        tvm = version("apache-tvm")
    except PackageNotFoundError:
        tvm = "unknown"
    return {
        "target": target.name,
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "cpu_threads": str(target.cpu_threads),
        "vector_lanes": str(target.vector_lanes),
        "opencl_lanes": str(target.opencl.max_vector_lanes),
        "gpu_weights": target.opencl.weights,
        "tvm": tvm,
        **more,
    }


def _processor(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name, or its architecture where the system does not say."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class TableFile:
    """A file of measurements that several processes may append to.

    The first line holds the format and the key; a file with another key is not read, and is
    replaced at the next write. Every other line is one kernel; of several lines for a kernel the
    last one counts. Appending is one write of whole lines; anything else is written aside and
    renamed, so a kill at any moment leaves at worst one broken last line, which reading skips.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self.path, self.key = path, dict(key)

    @staticmethod
    def in_folder(folder: Path, key: Key) -> TableFile:
        """The file for ``key`` in ``folder``, which keeps those of other machines apart."""
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:12]
        return TableFile(folder / f"kernels-{digest}.jsonl", key)

    def load(self, fallback: CostModel) -> tuple[MeasuredTable, list[str]]:
        """The table, empty where there is no file for this key, and one line per problem."""
        table, problems = MeasuredTable(fallback), list[str]()
        if not self.path.is_file():
            return table, problems
        with self.path.open(encoding="utf-8", errors="replace") as file:
            if not self._ours(file.readline()):
                return table, [f"{self.path}: of another machine or TVM version; not used"]
            for number, line in enumerate(file, 2):
                try:
                    data = json.loads(line)
                    kernel = kernel_from_json(data["kernel"])
                    table.add(kernel, float(data["latency_us"]), float(data["noise_us"]))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    problems.append(f"{self.path}:{number}: skipped, not a measurement ({error})")
        return table, problems

    def append(self, entries: Mapping[Kernel, Measurement]) -> None:
        """Add ``entries`` to the file; makes it, and its folder, where it is not there."""
        if not entries:
            return
        with self._locked():
            if not self._is_ours():
                self._write(entries)
                return
            with self.path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
                file.seek(0, os.SEEK_END)
                text = "".join(_line(kernel, entries[kernel]) for kernel in entries)
                file.write((("\n" if torn else "") + text).encode())

    def save(self, table: MeasuredTable) -> None:
        """Write the whole of ``table``, in place of what was in the file."""
        with self._locked():
            self._write(table.entries)

    def _write(self, entries: Mapping[Kernel, Measurement]) -> None:
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        header = json.dumps({"format": FORMAT, "key": self.key}) + "\n"
        aside.write_text(header + "".join(_line(k, m) for k, m in entries.items()), "utf-8")
        os.replace(aside, self.path)

    def _is_ours(self) -> bool:
        if not self.path.is_file():
            return False
        with self.path.open(encoding="utf-8", errors="replace") as file:
            return self._ours(file.readline())

    def _ours(self, header: str) -> bool:
        try:
            data = json.loads(header)
        except ValueError:
            return False
        return isinstance(data, dict) and (data.get("format"), data.get("key")) == (
            FORMAT,
            self.key,
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _line(kernel: Kernel, measured: Measurement) -> str:
    entry: dict[str, Any] = {
        "latency_us": measured.latency_us,
        "noise_us": measured.noise_us,
        "kernel": kernel_to_json(kernel),
    }
    return json.dumps(entry) + "\n"
