"""``Tuner``: measures tilings of one function after the other and keeps records of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.runner import RunnerInput

from syncnas_tvm.errors import DeviceError, InputError
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.schedule.packed import define
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning import best
from syncnas_tvm.tuning.device_runner import LOST
from syncnas_tvm.tuning.host import HostBuilder, HostRunner, remove_artifact
from syncnas_tvm.tuning.metaschedule import ResultsCallback, few_intrinsics, silent
from syncnas_tvm.tuning.record_files import locked
from syncnas_tvm.tuning.record_writer import FAILED, RecordWriter
from syncnas_tvm.tuning.strategy import RankedTilings
from syncnas_tvm.work import Kernel

BATCH = 16
SCRATCH = ".build"
"""Where candidates are while they are measured, in the records' folder."""
FINALISTS, FINAL_REPEATS = 3, 3
# Samples after which MetaSchedule's cost model ranks candidates; it learns from all kernels of a session.
WARM_UP = 24


@dataclass(frozen=True)
class Failure:
    """A candidate that could not be built or run, and why."""

    kernel: Kernel
    tiling: Tiling
    reason: str


class Tuner:
    """Measures on ``runner``, MetaSchedule's, what ``builder`` makes; made by :func:`opened_tuner`.

    ``failures`` are those of this tuner's life; the records have them too.
    """

    def __init__(self, records: RecordWriter, builder: Any, runner: Any, seed: int) -> None:
        self.records = records
        self.failures: list[Failure] = []
        self._target = records.target
        self._builder, self._runner, self._seed = builder, runner, seed
        self._model = ms.cost_model.XGBModel(num_warmup_samples=WARM_UP, num_tuning_cores=1)

    def search(self, kernel: Kernel, space: TuningSpace, trials: int) -> int:
        """Measure up to ``trials`` tilings that have no record yet; how many of them got one.

        The rule's own is the first. Raises DeviceError where there is no device to measure on.
        """
        tried = self.records.tried(space)
        left = [tiling for tiling in space.tilings if tiling not in tried]
        trials = min(trials, len(left))
        if trials <= 0:
            return 0
        keeper = _Keeper(self, kernel, space)
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
        with tempfile.TemporaryDirectory(dir=self.records.folder / SCRATCH) as scratch:
            ms.tune_tasks(
                tasks=[context],
                task_weights=[1.0],
                work_dir=scratch,
                max_trials_global=trials,
                num_trials_per_iter=BATCH,
                builder=self._builder,
                runner=self._runner,
                database=ms.database.MemoryDatabase(),
                cost_model=self._model,
                measure_callbacks=[
                    ResultsCallback(keeper.keep),
                    ms.measure_callback.RemoveBuildArtifact(),
                    ms.measure_callback.UpdateCostModel(),
                ],
            )
        if keeper.lost:
            raise DeviceError(keeper.lost)
        return keeper.kept

    def compare(self, space: TuningSpace) -> None:
        """Measure the fastest few with the rule's own, in turn; its record comes first.

        Nothing is done where that was done. Raises DeviceError where there is no device to measure on.
        """
        own, times = space.tilings[0], self.records.times(space)
        if len(space.tilings) < 2 or best.is_compared(times, astuple(own)):
            return
        seconds = dict(self.records.measured(space))
        if seconds.pop(own, None) is None:
            return
        tilings = [own, *sorted(seconds, key=lambda tiling: seconds[tiling])[:FINALISTS]]
        schedules = [space.traced(tiling) for tiling in tilings]
        samples = self._samples(space, schedules)
        found = [
            (schedule.trace, [median(seconds)])
            for schedule, seconds in zip(schedules, samples, strict=True)
            if seconds
        ]
        if samples[0]:
            self.records.add(space, *found)

    def _samples(self, space: TuningSpace, schedules: Sequence[Any]) -> list[list[float]]:
        target, info = self._tvm_target(space), ArgInfo.from_prim_func(space.function)
        built = self._builder.build([BuilderInput(sch.mod, target) for sch in schedules])
        kind = str(target.kind.name)
        device = "cpu" if kind == "llvm" else kind
        good = [i for i, result in enumerate(built) if result.artifact_path is not None]
        inputs = [RunnerInput(built[i].artifact_path, device, info) for i in good]
        samples: list[list[float]] = [[] for _ in schedules]
        try:
            for _ in range(FINAL_REPEATS):
                for i, future in zip(good, self._runner.run(inputs), strict=True):
                    result = future.result()
                    if is_lost(result):
                        raise DeviceError(_reason(result))
                    samples[i] += [float(s) for s in result.run_secs or ()]
        finally:
            for result in built:
                remove_artifact(result)
        return samples

    def _tvm_target(self, space: TuningSpace) -> Any:
        return self._target.cpu_target() if space.lane == "cpu" else self._target.gpu_target()


@contextmanager
def opened_tuner(
    target: Target, folder: Path, builder: Any = None, runner: Any = None, seed: int = 0
) -> Iterator[Tuner]:
    """A tuner that writes to ``folder``, which it makes and keeps others out of.

    ``builder`` and ``runner`` are MetaSchedule's; by default kernels are timed in this process. Raises
    InputError where another tuner has the folder, or where weights are textures: MetaSchedule, which makes
    the kernels' tensors, makes buffers.
    """
    if target.opencl.weights == "texture":
        raise InputError(
            f"target '{target.name}' has opencl.weights = 'texture': kernels are tuned with buffers only; "
            "tune with 'buffer' there"
        )
    with locked(folder), few_intrinsics(), silent():
        records = RecordWriter(folder, target)
        scratch = folder / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        scratch.mkdir()
        try:
            builder = builder or HostBuilder(target, scratch)
            yield Tuner(records, builder, runner or HostRunner(target), seed)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def spaces_of(group: Group, schedules: PackedSchedules) -> list[TuningSpace]:
    """The functions of a kernel, each with its tilings; none where TVM's own schedules are used."""
    lane = group.kernel.lane
    definition = define(group, schedules.machine(lane))
    return [] if definition is None else schedules.spaces(definition, lane)


def is_lost(result: Any) -> bool:
    """Whether a runner's result says that the candidate was not measured at all."""
    return result.error_msg is not None and str(result.error_msg).startswith(LOST)


def _reason(result: Any) -> str:
    return " ".join(str(result.error_msg or "no result").split()).removeprefix(LOST)


class _Keeper:
    """Writes a record for every candidate of a search that was measured, or that cannot be."""

    def __init__(self, tuner: Tuner, kernel: Kernel, space: TuningSpace) -> None:
        self._tuner, self._kernel, self._space = tuner, kernel, space
        self.lost = ""
        self.kept = 0

    def keep(self, candidates: Sequence[Any], built: Sequence[Any], ran: Sequence[Any]) -> None:
        for candidate, builder, runner in zip(candidates, built, ran, strict=True):
            trace = candidate.sch.trace
            if is_lost(runner):
                self.lost = _reason(runner)
                continue
            self.kept += 1
            if runner.run_secs is not None:
                seconds = [float(s) for s in runner.run_secs]
                self._tuner.records.add(self._space, (trace, seconds))
                continue
            self._tuner.records.add(self._space, (trace, FAILED))
            why = builder if builder.error_msg is not None else runner
            tiling = self._space.tiling_of(trace)
            self._tuner.failures.append(Failure(self._kernel, tiling, _reason(why)))
