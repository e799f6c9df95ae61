"""Training data in one form: measured kernels, as JSON lines."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.columns import ALGORITHM
from syncnas_tvm.cost_models.kernel_json import kernel_from_json, kernel_to_json
from syncnas_tvm.errors import InputError
from syncnas_tvm.work import Kernel

FORMAT = {"format": "syncnas kernels", "version": 1}
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Sample:
    """One measured kernel. Its lane and type say which part of ``device`` ran it; ``noise_us`` is the
    standard deviation of the repeats (0 where there was one), ``source`` a file's name, ``date`` the
    day of the measurement (ISO 8601, empty where it is not known)."""

    kernel: Kernel
    device: str
    latency_us: float
    noise_us: float = 0.0
    source: str = ""
    date: str = ""


@dataclass(frozen=True)
class Dataset:
    """Samples in order, and how many were ``dropped`` on the way here, by reason."""

    samples: tuple[Sample, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter, compare=False)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __add__(self, other: Dataset) -> Dataset:
        return Dataset(self.samples + other.samples, self.dropped + other.dropped)

    @property
    def kernels(self) -> list[Kernel]:
        """The samples' kernels."""
        return [sample.kernel for sample in self.samples]

    @property
    def latency_us(self) -> NDArray[np.float64]:
        """The samples' latencies."""
        return np.array([sample.latency_us for sample in self.samples], np.float64)

    def where(self, condition: Callable[[Sample], bool]) -> Dataset:
        """The samples that ``condition`` accepts."""
        return Dataset(tuple(sample for sample in self.samples if condition(sample)))

    def take(self, indices: Iterable[int]) -> Dataset:
        """The samples at ``indices``."""
        return Dataset(tuple(self.samples[int(index)] for index in indices))

    def of(self, device: str, lane: str, dtype: str) -> Dataset:
        """What one lane of a device took for kernels of one type."""
        return self.where(
            lambda s: (s.device, s.kernel.lane, s.kernel.dtype) == (device, lane, dtype)
        )

    def folds(self, count: int, seed: int) -> list[Indices]:
        """Indices of ``count`` parts, the samples of a workload always in the same one."""
        groups: dict[object, list[int]] = {}
        for index, sample in enumerate(self.samples):
            groups.setdefault(workload(sample.kernel), []).append(index)
        members = list(groups.values())
        order = np.random.default_rng(seed).permutation(len(members))
        parts = [[i for g in order[part::count] for i in members[g]] for part in range(count)]
        return [np.array(sorted(part), np.intp) for part in parts]

    def write(self, path: Path) -> None:
        """Write JSON lines, at once or not at all."""
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        lines = [json.dumps(FORMAT), *(json.dumps(_to_json(sample)) for sample in self.samples)]
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(aside, path)

    @staticmethod
    def read(path: Path) -> Dataset:
        """Read JSON lines. Lines that are no samples are dropped, each with its number as the reason;
        raises InputError where ``path`` is not such a file."""
        try:
            header, *lines = path.read_text(encoding="utf-8").splitlines()
            known = json.loads(header) == FORMAT
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no file of measured kernels ({error})") from error
        if not known:
            raise InputError(f"{path} is no file of measured kernels of this version; import again")
        samples, dropped = [], Counter[str]()
        for number, line in enumerate(lines, 2):
            try:
                samples.append(_from_json(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                dropped[f"{path}:{number} is no measurement ({error})"] += 1
        return Dataset(tuple(samples), dropped)


def workload(kernel: Kernel) -> tuple[object, ...]:
    """What a kernel computes: its operator, shapes and attributes, however and wherever it does so."""
    attrs = tuple(a for a in kernel.attrs if a[0] != ALGORITHM)
    return kernel.op, kernel.shapes, attrs, kernel.epilogue


def _to_json(sample: Sample) -> dict[str, Any]:
    return {**vars(sample), "kernel": kernel_to_json(sample.kernel)}


def _from_json(data: dict[str, Any]) -> Sample:
    return Sample(
        kernel_from_json(data["kernel"]),
        str(data["device"]),
        float(data["latency_us"]),
        float(data["noise_us"]),
        str(data["source"]),
        str(data["date"]),
    )
