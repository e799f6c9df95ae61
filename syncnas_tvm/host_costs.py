"""What the planner knows of this machine: measured kernels and transfers, kept between compiles."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tvm

from syncnas_tvm.cost_models import Measurement, Roofline, TableFile, machine_key
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.region_work import groups_in
from syncnas_tvm.kernel_timer import LEAST_US, time_kernels
from syncnas_tvm.lane_timer import measured_lane_costs
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.passes.insert_transfers import DEVICE_TYPE, TRANSFER
from syncnas_tvm.passes.rule_contract import rewritten
from syncnas_tvm.planner import Candidate, Space
from syncnas_tvm.planner.cost_mode import kernels_of
from syncnas_tvm.runtime.lanes import GPU_DEVICE, gpu_device, gpu_name, on_cpu_lane
from syncnas_tvm.targets import Target, TargetCosts, Transfer
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.work import LANES, Lane

# The lane's share of a cut that is measured: a half and a quarter; the whole comes from Place.
MEASURED_SHARES = (0.5, 0.25)
MEASURE_SECONDS = 25.0
CACHE_VARIABLE = "SYNCNAS_CACHE_DIR"


def cache_folder() -> Path:
    """Where measurements are kept: SYNCNAS_CACHE_DIR, or the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "syncnas-tvm"


class HostKernels:
    """Latencies of a model's kernels on this machine, in ``table``.

    Earlier results are read from the user's cache folder, new ones added; those of kernels that were
    built with tuning ``records`` are kept apart. Each measuring takes about ``seconds`` at most.
    """

    def __init__(
        self,
        graph: RegionGraph,
        target: Target,
        lanes: tuple[Lane, ...] = LANES,
        report: Callable[[str], None] = lambda text: None,
        seconds: float = MEASURE_SECONDS,
        types: LaneTypes = FLOAT32,
        records: TuningRecords | None = None,
    ) -> None:
        self._graph, self._target, self._lanes = graph, target, lanes
        self._report, self._seconds = report, seconds
        self._types, self._records = types, records
        key = machine_key(
            target, schedules=_schedule_digest(), gpu=gpu_name() if "gpu" in lanes else ""
        )
        if records is not None:
            key["tuning"] = records.digest
        self._file = TableFile.in_folder(cache_folder(), key)
        self.table, problems = self._file.load(Roofline(target))
        for problem in problems:
            report(problem)

    def measure_space(self, space: Space) -> bool:
        """Measure the whole, half and quarter in channels of each distinct kernel.

        The heaviest first; what lies between is interpolated, bands of rows are taken in proportion.
        """
        return self._measure(_wanted(self._graph, space, self._lanes))

    def measure_plan(self, candidates: Sequence[Candidate]) -> bool:
        """Measure the kernels of a plan, whatever rules it uses; False where all of them are known."""
        found: dict[object, Group] = {}
        for candidate in candidates:
            # Writing a decision to find its kernels takes long: only where some are unknown.
            ours = (k for k in kernels_of([candidate]) if k.lane in self._lanes)
            if any(kernel not in self.table for kernel in ours):
                collect_groups(self._graph, candidate, self._lanes, found)
        return self._measure(list(found.values()))

    def _measure(self, groups: Sequence[Group]) -> bool:
        unknown = [g for g in groups if self._types.kernel(g.kernel) not in self.table]
        if not unknown:
            return False
        times = time_kernels(
            sorted(unknown, key=lambda g: -g.kernel.flops),
            self._target,
            time.monotonic() + self._seconds,
            lambda done: self._report(f"{done} of {len(unknown)} kernels measured"),
            self._types,
            self._records,
            sum(region.weight_bytes for region in self._graph.regions),
        )
        for t in times:
            self.table.add(t.kernel, t.latency_us, t.noise_us)
        self._file.append({t.kernel: Measurement(t.latency_us, t.noise_us) for t in times})
        return bool(times)


def _schedule_digest() -> str:
    """Changes with the schedule rules, which make kernels what they are, and with how they are timed."""
    hashed = hashlib.sha256()
    here = Path(__file__).parent
    for path in [*sorted((here / "schedule").glob("*.py")), here / "kernel_timer.py"]:
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:12]


def _wanted(graph: RegionGraph, space: Space, lanes: tuple[Lane, ...]) -> list[Group]:
    """The distinct kernels of the decisions that are measured."""
    found: dict[object, Group] = {}
    for here in space.candidates:
        singles = [c for c in here if c.span == 1]
        for candidate in singles:
            if candidate.decision.rule == "Place":
                collect_groups(graph, candidate, lanes, found)
        splits = [c for c in singles if c.decision.rule == "ChannelSplit"]
        for share in MEASURED_SHARES:
            for lane in lanes if len(lanes) > 1 else ():
                gpu_share = share if lane == "gpu" else 1 - share
                if splits:
                    nearest = min(
                        splits, key=lambda c: abs(float(c.decision.param("gpu_share")) - gpu_share)
                    )
                    collect_groups(graph, nearest, (lane,), found)
    return list(found.values())


def collect_groups(
    graph: RegionGraph, candidate: Candidate, lanes: tuple[Lane, ...], found: dict[object, Group]
) -> None:
    """Write a decision and add the kernels that it has on ``lanes`` to ``found``."""
    decision = candidate.decision
    region = graph.run(decision.regions)
    written = rewritten(graph.module_of(decision.regions), graph, decision)
    for group in groups_in(written, region.name):
        if group.kernel.lane in lanes:
            found.setdefault(group.kernel, group)


def measured_costs(target: Target) -> TargetCosts:
    """The target's costs as measured here: transfers (latency and bandwidth per direction), what
    the host thread pays per enqueued kernel, and how much the lanes slow each other down."""
    shared = tvm.get_global_func("syncnas.opencl.memory")(GPU_DEVICE) == "shared"
    with on_cpu_lane(target.cpus):
        to_cpu = _shared_read() if shared else _transfer(gpu_device(), "cpu")
        to_gpu = replace(to_cpu, latency_us=LEAST_US) if shared else _transfer(tvm.cpu(0), "gpu")
    return replace(target.costs, to_gpu=to_gpu, to_cpu=to_cpu, **vars(measured_lane_costs(target)))


def _shared_read() -> Transfer:
    """What it costs a lane to read what the other one has written, where memory is shared.

    Nothing is moved, but the first to read pays for getting the bytes out of the other core's
    caches. That is taken for the same in both directions.
    """
    gpu, size = gpu_device(), 1 << 18
    source, written, tiny = (
        tvm.runtime.tensor(np.ones(n // 4, "float32"), gpu) for n in (size, size, 64)
    )
    waits_us, reads_us = [], []
    for _ in range(40):
        source.copyto(written)  # a command of the GPU's queue
        gpu.sync()
        waits_us.append(_move_us(tiny, "cpu"))
        reads_us.append(_move_us(written, "cpu") - _move_us(written, "cpu"))
    per_byte = max(float(np.median(reads_us)) / size, 1e-6)
    return Transfer(max(LEAST_US, float(np.median(waits_us))), 1e-3 / per_byte)


def _move_us(tensor: tvm.runtime.Tensor, lane: Lane) -> float:
    start = time.perf_counter()
    tvm.get_global_func(TRANSFER)(tensor, DEVICE_TYPE[lane], 0)
    return (time.perf_counter() - start) * 1e6


def _transfer(source: tvm.runtime.Device, lane: Lane) -> Transfer:
    """A line through the times of a small and a large transfer, as the executable makes them."""
    sizes = (4096, 1 << 20)
    times_us = []
    for size in sizes:
        tensor = tvm.runtime.tensor(np.zeros(size // 4, "float32"), source)
        samples = [_move_us(tensor, lane) for _ in range(20)]
        gpu_device().sync()
        times_us.append(float(np.median(samples)))
    per_byte = max((times_us[1] - times_us[0]) / (sizes[1] - sizes[0]), 1e-6)
    return Transfer(max(LEAST_US, times_us[0] - sizes[0] * per_byte), 1e-3 / per_byte)
