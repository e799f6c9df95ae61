"""Kernel times out of AutoTVM's public TopHub logs, for the cost mode ``study`` above all.

A log has whole kernels, without epilogue. What a cut of one takes (fewer channels, a band of rows)
follows from its relatives: kernels of the same window, input width and output width that differ in
channels or rows.

Each relative says ``its time * (ratio of sizes) ** P`` per dimension, for half the channels takes a
little more than half the time: ``P`` is 0.97 on the CPU lane, and on the GPU lane 0.88 in float32
and 0.76 in float16, the medians of pairs in the logs. Relatives further away count less: the estimate
is the geometric mean of the lowest and the highest that they say if ``P`` is given a margin that lets
them say more and less. It is then kept between the slowest relative that is smaller in every
dimension and the fastest that is larger. Each of these steps grows with the kernel, so a cut never
takes longer than the whole.

Of RK3399's kernels, each predicted from the others: mean error 3 % on its CPU, 10 % on its Mali.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from math import inf, prod, sqrt
from pathlib import Path

from syncnas_tvm.cost_models.bands import POWERS
from syncnas_tvm.cost_models.base import Microseconds
from syncnas_tvm.cost_models.fit_roofline import read_log
from syncnas_tvm.cost_models.in_network import InNetwork
from syncnas_tvm.cost_models.measured import BETWEEN_STD, MeasuredTable, Measurement
from syncnas_tvm.cost_models.roofline import Roofline
from syncnas_tvm.errors import InputError
from syncnas_tvm.targets import Target
from syncnas_tvm.work import LANES, Kernel, Lane

MARGIN = 0.4
DTYPES = ("float32", "float16")

Dims = tuple[int, ...]
Kin = tuple[object, ...]


class TopHubTable(MeasuredTable):
    """Measured kernels without epilogues, and their cuts; :func:`read_tophub` fills one.

    Kernels are looked up without their epilogues and attributes. One without relatives in the log
    gets the target's roofline, corrected as in :class:`MeasuredTable`.
    """

    def __init__(self, target: Target, powers: dict[Lane, float]) -> None:
        super().__init__(Roofline(target))
        self._powers = powers

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        return super().predict([plain(kernel) for kernel in kernels])

    def describe(self, kernels: Sequence[Kernel]) -> str:
        """See :meth:`CostModel.describe`."""
        count = sum(plain(kernel) in self for kernel in kernels)
        return (
            f"TopHub's times of AutoTVM's kernels, unfused, stand for this compiler's own: {count} of"
            f" {len(kernels)} kernels are in the logs, the others follow from these or from the roofline"
        )

    @cached_property
    def _kin(self) -> dict[Kin, dict[Dims, float]]:
        found: dict[Kin, dict[Dims, float]] = defaultdict(dict)
        for kernel, measured in self.entries.items():
            found[kin(kernel)][dims(kernel)] = measured.latency_us
        return found

    def _between(self, kernel: Kernel) -> Measurement | None:
        """A latency from the kernel's relatives."""
        known = self._kin.get(kin(kernel))
        if not known:
            return None
        us = between(dims(kernel), known, self._powers[kernel.lane])
        return Measurement(us, BETWEEN_STD * us)


def read_tophub(
    files: Sequence[Path],
    target: Target,
    gpu_dtype: str = "float32",
    devices: Sequence[str] = (),
) -> InNetwork:
    """The kernels of ``target``'s lanes in TopHub's logs, the GPU lane's of type ``gpu_dtype``.

    The logs are of kernels alone (a :class:`TopHubTable`); in a network, the target's
    ``network_bias`` comes on top.
    ``devices`` are names as the logs' target strings have them (``-model=`` or ``-device=``); where
    none is given, the target's own. A row of LLVM is the CPU lane's, one of OpenCL the GPU lane's. A
    lane that is in no log keeps its roofline. Raises InputError for what is no log, an unknown type,
    and where no row fits.
    """
    if gpu_dtype not in DTYPES:
        raise InputError(f"the logs have no type '{gpu_dtype}'; take one of {', '.join(DTYPES)}")
    dtypes: dict[Lane, str] = {"cpu": "float32", "gpu": gpu_dtype}
    table = TopHubTable(target, {lane: POWERS[lane, dtypes[lane]] for lane in LANES})
    wanted = tuple(devices) or (target.name,)
    seen: set[tuple[Lane, str]] = set()
    rows: dict[Kernel, float] = {}
    for path in files:
        try:
            here = _devices(path)
            for lane, name in sorted(here):
                if name in wanted:
                    read = read_log(path, f"={name}", lane, dtypes[lane])
                    for kernel, us in read.items():
                        rows[plain(kernel)] = min(us, rows.get(plain(kernel), inf))
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(f"--measurements {path}: not a TopHub log ({error})") from error
        seen |= here
    for kernel, us in _monotone(rows).items():
        table.add(kernel, us)
    if not len(table):
        names = ", ".join(sorted({name for _, name in seen})) or "none"
        raise InputError(
            f"--measurements: no {gpu_dtype} kernels of {', '.join(wanted)} in the logs; name the"
            f" device with --measured-device (there are {names})"
        )
    return InNetwork(table, target)


def plain(kernel: Kernel) -> Kernel:
    """The kernel as the table has it: operator, shapes and lane alone."""
    return Kernel(kernel.op, kernel.shapes, "float32", kernel.lane)


def kin(kernel: Kernel) -> Kin:
    """What a kernel shares with its cuts: operator, lane, window and widths."""
    data, weight, out = kernel.shapes[0], kernel.shapes[1], kernel.out_shape
    if kernel.op != "nn.conv2d":
        return kernel.op, kernel.lane
    groups = 0 if kernel.is_depthwise else data[1] // weight[1]
    return kernel.op, kernel.lane, groups, weight[2:], data[3], out[3]


def dims(kernel: Kernel) -> Dims:
    """What can be cut: channels in and out, and rows of the output; of depthwise one of the two."""
    data, out = kernel.shapes[0], kernel.out_shape
    if kernel.op != "nn.conv2d":
        return data[-1], out[-1], prod(out[:-1])
    return 1 if kernel.is_depthwise else data[1], out[1], out[2]


def between(of: Dims, known: dict[Dims, float], power: float) -> float:
    """Microseconds of a kernel of size ``of`` from those of its relatives, which are monotone."""
    low = roof = inf
    high = floor = 0.0
    for size, us in known.items():
        ratios = [a / b for a, b in zip(of, size, strict=True)]
        larger = prod(ratio for ratio in ratios if ratio > 1)
        smaller = prod(ratio for ratio in ratios if ratio < 1)
        low = min(low, us * larger ** (power + MARGIN) * smaller ** (power - MARGIN))
        high = max(high, us * larger ** (power - MARGIN) * smaller ** (power + MARGIN))
        if larger == 1:
            roof = min(roof, us)
        if smaller == 1:
            floor = max(floor, us)
    return min(max(sqrt(low * high), floor), roof)


def _monotone(rows: dict[Kernel, float]) -> dict[Kernel, float]:
    """``rows`` with a kernel that was measured slower than one that is larger in every dimension as
    fast as that: tuning found the larger one a better schedule, which the smaller could use."""
    kins: dict[Kin, list[tuple[Dims, float]]] = defaultdict(list)
    for kernel, us in rows.items():
        kins[kin(kernel)].append((dims(kernel), us))
    return {
        kernel: min(
            us
            for size, us in kins[kin(kernel)]
            if all(a <= b for a, b in zip(dims(kernel), size, strict=True))
        )
        for kernel in rows
    }


def _devices(path: Path) -> set[tuple[Lane, str]]:
    """Lane and device names of the log's rows."""
    found: set[tuple[Lane, str]] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        words = str(json.loads(line)["input"][0]).split()
        if words[0] not in ("llvm", "opencl"):
            raise ValueError(f"target '{words[0]}'")
        lane: Lane = "gpu" if words[0] == "opencl" else "cpu"
        for word in words[1:]:
            option, _, name = word.partition("=")
            if option in ("-model", "-device"):
                found.add((lane, name))
    return found
