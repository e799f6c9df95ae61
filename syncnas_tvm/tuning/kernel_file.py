"""The file beside a MetaSchedule database that says which kernel a workload is.

Workloads are functions on packed tensors: what they compute of a network, and in which of its layouts,
cannot be read from them any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncnas_tvm.cost_models.kernel_json import kernel_from_json, kernel_to_json
from syncnas_tvm.tuning.record_files import KERNELS, append_lines, json_lines
from syncnas_tvm.work import Kernel


@dataclass(frozen=True)
class KernelEntry:
    """A kernel, and the workloads (line numbers from 0) that it consists of: one, as a rule."""

    kernel: Kernel
    workloads: tuple[int, ...]


def read_kernels(folder: Path, problems: list[str]) -> list[KernelEntry]:
    """What the folder's file says; nothing where there is none.

    ``problems`` gets file and line of what is no entry.
    """
    path = folder / KERNELS
    if not path.is_file():
        return []
    found: dict[KernelEntry, None] = {}
    for number, data in json_lines(path, problems):
        if data is None:
            continue
        try:
            found[_entry(data)] = None
        except (ValueError, TypeError, KeyError, AttributeError):
            problems.append(f"{path}:{number} describes no kernel")
    return list(found)


def append_kernel(folder: Path, entry: KernelEntry) -> None:
    """Add an entry, at once or not at all."""
    data = {"workloads": list(entry.workloads), "kernel": kernel_to_json(entry.kernel)}
    append_lines(folder / KERNELS, data)


def _entry(data: Any) -> KernelEntry:
    workloads = tuple(int(number) for number in data["workloads"])
    if not workloads or min(workloads) < 0:
        raise ValueError(f"workloads {workloads}")
    return KernelEntry(kernel_from_json(data["kernel"]), workloads)
