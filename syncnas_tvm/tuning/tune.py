"""``tune_kernels``: measures other tilings of kernels than the rules' and keeps records of them."""

from __future__ import annotations

import logging
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tvm.s_tir
import tvm_ffi
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.database import TuningRecord
from tvm.s_tir.meta_schedule.runner import RunnerInput

from syncnas_tvm.errors import DeviceError, InputError
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.schedule.packed import define
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning.host import HostBuilder, HostRunner, remove_artifact
from syncnas_tvm.tuning.record_files import RECORDS, WORKLOADS, locked
from syncnas_tvm.tuning.records import TuningRecords
from syncnas_tvm.tuning.strategy import RankedTilings
from syncnas_tvm.work import Kernel

TRIALS = 32
BATCH = 16
FINALISTS, FINAL_REPEATS = 3, 3
# Samples after which the cost model ranks candidates; it learns from all kernels of a session.
WARM_UP = 24


@dataclass(frozen=True)
class Tuned:
    """What is known of one function of a kernel: how many of its tilings were measured, the rule's.

    ``rule_us`` and ``best_us`` are of one call, from the same rounds; ``tiling`` is None where the
    rule's own stays.
    """

    kernel: Kernel
    candidates: int
    measured: int
    rule_us: float
    best_us: float
    tiling: Tiling | None


def tune_kernels(
    groups: Sequence[Group],
    target: Target,
    folder: Path,
    trials: int = TRIALS,
    *,
    builder: Any = None,
    runner: Any = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
) -> list[Tuned]:
    """Measure up to ``trials`` tilings of each distinct kernel; records go to ``folder``.

    Records that are there already count as trials and are not measured again, so that a tuning that
    was killed goes on where it was. The rule's own tiling is always measured, and the fastest few are
    measured once more together with it. ``builder`` and ``runner`` are MetaSchedule's; by default
    kernels are built and timed in this process, which only target ``host`` allows.

    Raises InputError where ``folder`` is damaged, or where another target has no runner;
    DeviceError where the rule's own kernel cannot be run.
    """
    if runner is None and not target.is_host:
        raise InputError(
            f"target '{target.name}' does not run on this machine; give a runner for its device"
        )
    tuner = _Tuner(target, folder, builder or HostBuilder(), runner or HostRunner(target), seed)
    results = []
    with locked(folder), _few_intrinsics(), _silent():
        spaces = _distinct(groups, target)
        for number, (kernel, space) in enumerate(spaces, 1):
            results.append(tuner.tune(kernel, space, trials))
            report(f"{number} of {len(spaces)} kernels tuned")
    return results


def _distinct(groups: Sequence[Group], target: Target) -> list[tuple[Kernel, TuningSpace]]:
    """The different functions of the groups that have something to choose."""
    schedules = PackedSchedules.of(target)
    found: dict[tuple[str, int], tuple[Kernel, TuningSpace]] = {}
    for group in groups:
        lane = group.kernel.lane
        definition = define(group, schedules.machine(lane))
        for space in schedules.spaces(definition, lane) if definition is not None else ():
            if len(space.tilings) > 1:
                key = (lane, int(tvm_ffi.structural_hash(space.function)))
                found.setdefault(key, (group.kernel, space))
    return list(found.values())


class _Tuner:
    def __init__(self, target: Target, folder: Path, builder: Any, runner: Any, seed: int) -> None:
        self._target = target
        self._folder = folder
        self._builder, self._runner, self._seed = builder, runner, seed
        self._model = ms.cost_model.XGBModel(num_warmup_samples=WARM_UP, num_tuning_cores=1)

    def tune(self, kernel: Kernel, space: TuningSpace, trials: int) -> Tuned:
        """Measure what is missing of one kernel."""
        own = space.tilings[0]
        measured = self._records().measured(space)
        known = {tiling for tiling, _ in measured}
        left = [tiling for tiling in space.tilings if tiling not in known]
        wanted = min(trials - len(known), len(left))
        if own not in known:
            wanted = max(wanted, 1)
        if wanted > 0:
            self._search(space, left, wanted)
        counts = [tiling for tiling, _ in measured].count(own)
        if wanted > 0 or counts < 2:
            self._final(space)
        records = self._records()
        times = dict(records.measured(space))
        if own not in times:
            raise DeviceError(
                f"the rule's own kernel for {kernel.op} {kernel.out_shape} was not measured; see "
                "whether the model compiles and runs on this device"
            )
        tiling = records.tiling(space)
        return Tuned(
            kernel,
            len(space.tilings),
            len(times),
            times[own] * 1e6,
            times[tiling or own] * 1e6,
            tiling,
        )

    def _search(self, space: TuningSpace, left: list[Tiling], trials: int) -> None:
        context = ms.TuneContext(
            space.workload,
            target=self._tvm_target(space),
            space_generator=ms.space_generator.ScheduleFn(
                space, sch_rules=[], postprocs=[], mutator_probs={}
            ),
            search_strategy=RankedTilings(space, left, self._seed),
            task_name=f"{space.lane}_{space.family}",
            rand_state=self._seed + 1,
            num_threads=1,
        )
        ms.tune_tasks(
            tasks=[context],
            task_weights=[1.0],
            work_dir=str(self._folder),
            max_trials_global=trials,
            num_trials_per_iter=BATCH,
            builder=self._builder,
            runner=self._runner,
            database=self._database(),
            cost_model=self._model,
        )

    def _final(self, space: TuningSpace) -> None:
        """Measure the fastest few with the rule's own, in turn; its record comes first."""
        seconds = dict(self._records().measured(space))
        own = space.tilings[0]
        seconds.pop(own, None)
        tilings = [own, *sorted(seconds, key=lambda tiling: seconds[tiling])[:FINALISTS]]
        schedules = [space.traced(tiling) for tiling in tilings]
        target, info = self._tvm_target(space), ArgInfo.from_prim_func(space.function)
        built = self._builder.build([BuilderInput(sch.mod, target) for sch in schedules])
        kind = str(target.kind.name)
        device = "cpu" if kind == "llvm" else kind
        good = [i for i, result in enumerate(built) if result.artifact_path is not None]
        inputs = [RunnerInput(built[i].artifact_path, device, info) for i in good]
        samples: dict[int, list[float]] = {i: [] for i in good}
        try:
            for _ in range(FINAL_REPEATS):
                for i, future in zip(good, self._runner.run(inputs), strict=True):
                    samples[i] += [float(s) for s in future.result().run_secs or ()]
        finally:
            for result in built:
                remove_artifact(result)
        database = self._database()
        workload = database.commit_workload(space.workload)
        for i in good:
            if samples[i]:
                middle = [median(samples[i])]
                trace = schedules[i].trace
                database.commit_tuning_record(TuningRecord(trace, workload, middle, target, info))

    def _records(self) -> TuningRecords:
        for name in (WORKLOADS, RECORDS):
            (self._folder / name).touch()
        return TuningRecords(self._folder, self._target)

    def _database(self) -> Any:
        return ms.database.JSONDatabase(work_dir=str(self._folder))

    def _tvm_target(self, space: TuningSpace) -> Any:
        return self._target.cpu_target() if space.lane == "cpu" else self._target.gpu_target()


@contextmanager
def _few_intrinsics() -> Iterator[None]:
    """An empty stand-in for ``tvm.s_tir.tensor_intrin``, which ``TuneContext`` imports.

    The real one takes 20 to 60 s, and no schedule of ours has an intrinsic in it.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    package = types.ModuleType(name)
    package.__path__ = [os.path.join(os.path.dirname(str(tvm.s_tir.__file__)), "tensor_intrin")]
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _silent() -> Iterator[None]:
    """MetaSchedule logs tables and every candidate."""
    logger = logging.getLogger("tvm.s_tir.meta_schedule")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
