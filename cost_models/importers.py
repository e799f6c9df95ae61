"""Reads what others measured: AutoTVM's logs (TopHub) and MetaSchedule's databases."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from syncnas_tvm.cost_models.dataset import Dataset, Sample
from syncnas_tvm.cost_models.features import ALGORITHM
from syncnas_tvm.cost_models.fit_roofline import kernel_of
from syncnas_tvm.errors import InputError
from syncnas_tvm.work import Kernel, Lane

if TYPE_CHECKING:
    from syncnas_tvm.tuning.record_files import Record

_KINDS = {"cpu": "llvm", "gpu": "opencl"}
Tensors = tuple[tuple[int, ...], ...]


def import_tophub(paths: Iterable[Path]) -> Dataset:
    """The rows of AutoTVM logs, each as measured; ``clean`` makes training data of them.

    Dropped, and counted by reason: rows that failed, CUDA's templates (on another GPU they only show
    that nobody wrote a better one), transposed convolutions, integer types. The device is the name
    after ``-model=``, else after ``-device=``. Raises InputError for a file that is no log.
    """
    samples: list[Sample] = []
    dropped: Counter[str] = Counter()
    for path in paths:
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip() and not line.startswith("#"):
                    found = _tophub_row(json.loads(line), path.name)
                    if isinstance(found, str):
                        dropped[found] += 1
                    else:
                        samples.append(found)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{path}: not a TopHub log ({error})") from error
    return Dataset(tuple(samples), dropped)


def import_metaschedule(
    folder: Path, device: str, lane: Lane, tvm_target: Mapping[str, Any] | None = None
) -> Dataset:
    """The kernels of a MetaSchedule database that ``lane`` runs.

    Workloads are TVM functions. Those that ``tune`` wrote have a description beside them, and one sample
    a kernel: what a compile with these records runs. Of others, those that read and write a convolution's
    or matrix product's tensors in their plain layouts become samples, every measurement one. The rest is
    counted as dropped, as are failed measurements, damaged lines, and records of the other lane, or of
    another ``tvm_target`` where one is given. Raises InputError where ``folder`` is no database.
    """
    # TVM takes a second to import, and only this function needs it.
    from syncnas_tvm.tuning.kernel_file import read_kernels
    from syncnas_tvm.tuning.record_files import check_folder, read_records, read_workloads

    check_folder(folder)
    problems: list[str] = []
    entries = [e for e in read_kernels(folder, problems) if e.kernel.lane == lane]
    described = {number for entry in entries for number in entry.workloads}
    workloads = read_workloads(folder, problems)
    kernels = [
        None if number in described or data is None else _function_kernel(data, lane)
        for number, data in enumerate(workloads)
    ]
    samples: list[Sample] = []
    dropped: Counter[str] = Counter()
    ours: dict[int, list[Record]] = {number: [] for number in described}
    for record in read_records(folder, problems):
        if record.target.get("kind") != _KINDS[lane]:
            dropped["of another lane"] += 1
        elif tvm_target is not None and record.target != tvm_target:
            dropped["for another target"] += 1
        elif record.workload in described:
            ours[record.workload].append(record)
        elif record.workload >= len(kernels) or kernels[record.workload] is None:
            dropped["workload that is no plain convolution or matrix product"] += 1
        elif record.failed:
            dropped["failed"] += 1
        else:
            us = [1e6 * seconds for seconds in record.seconds]
            kernel = cast(Kernel, kernels[record.workload])
            samples.append(Sample(kernel, device, median(us), pstdev(us), folder.name))
    for entry in entries:
        records = [ours[number] for number in entry.workloads]
        if any(records):
            sample = described_sample(entry.kernel, records, device, folder.name)
            if sample is None:
                dropped["failed"] += 1
            else:
                samples.append(sample)
    return Dataset(tuple(samples), dropped + Counter(problems))


def described_sample(
    kernel: Kernel, records: Sequence[Sequence[Record]], device: str, source: str
) -> Sample | None:
    """A kernel of our own: what its functions take together; None where one has not run."""
    from syncnas_tvm.tuning.best import compiled_seconds

    parts = [compiled_seconds(some) for some in records]
    if any(part is None for part in parts):
        return None
    seconds, spread = np.array(parts, float).T
    return Sample(kernel, device, 1e6 * seconds.sum(), 1e6 * spread.sum(), source)


def _tophub_row(row: dict[str, Any], source: str) -> Sample | str:
    """A row's sample, or why it has none."""
    target, template, args = row["input"][:3]
    seconds, failed, _, stamp = row["result"]
    dtype = str(args[0][-1])
    name, _, flavour = template.partition(".")
    if failed:
        return "failed"
    if flavour == "cuda":
        return "CUDA template"
    if "transpose" in name:
        return "transposed convolution"
    if dtype not in ("float32", "float16"):
        return f"type {dtype}"
    lane: Lane = "gpu" if target.startswith("opencl") else "cpu"
    winograd = "winograd" in name
    kernel = kernel_of("conv2d" if winograd else name, args, lane, dtype)
    if kernel is None:
        return f"template {template}"
    if kernel.op == "nn.conv2d":
        kernel = replace(kernel, attrs=_attributes(kernel, args, winograd))
    us = [1e6 * float(second) for second in seconds]
    date = datetime.fromtimestamp(stamp, UTC).date().isoformat()
    noise_us = pstdev(us) if len(us) > 1 else 0.0
    return Sample(kernel, _device(target), fmean(us), noise_us, source, date)


def _attributes(kernel: Kernel, args: list[Any], winograd: bool) -> tuple[tuple[str, object], ...]:
    strides, pad, dilation = (tuple(map(int, value)) for value in args[2:5])
    groups = kernel.shapes[0][1] // kernel.shapes[1][1]
    return (
        ("strides", strides),
        ("padding", pad if len(pad) == 4 else pad * 2),
        ("dilation", dilation),
        ("groups", groups),
        (ALGORITHM, "winograd" if winograd else "direct"),
    )


def _device(target: str) -> str:
    options = dict(word[1:].split("=", 1) for word in target.split() if "=" in word)
    return options.get("model", options.get("device", "unknown"))


def _function_kernel(data: Any, lane: Lane) -> Kernel | None:
    """The kernel that a workload of a database computes; None where its layouts are its own."""
    from tvm.s_tir.meta_schedule.database import Workload

    function = Workload.from_json(data).mod["main"]
    # Parameters are buffers; scalars, which have no shape, are in no kernel of a database.
    buffers = [p for p in function.params if hasattr(p, "shape")]
    shapes = tuple(tuple(int(dim) for dim in buffer.shape) for buffer in buffers)
    types = {str(buffer.ty.dtype) for buffer in buffers}
    if len(types) != 1 or len(shapes) != 3:
        return None
    op = "nn.conv2d" if is_convolution(shapes) else "matmul" if _is_product(shapes) else ""
    return Kernel(op, shapes, types.pop(), lane) if op else None


def is_convolution(shapes: Tensors) -> bool:
    """Whether tensors of these shapes are NCHW, OIHW and NCHW of one convolution."""
    data, weight, out = shapes
    if not len(data) == len(weight) == len(out) == 4 or weight[0] != out[1]:
        return False
    return data[0] == out[0] and weight[1] > 0 and data[1] % weight[1] == 0


def _is_product(shapes: Tensors) -> bool:
    data, weight, out = shapes
    if len(weight) != 2 or not data or not out:
        return False
    return data[-1] == weight[0] and out[-1] == weight[1] and prod(data[:-1]) == prod(out[:-1])
