"""``TuningSession``: tunes the kernels that a model's plans may have, the most promising ones first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.cost_models.tuned import TunedModel, tuned_model
from syncnas_tvm.errors import DeviceError
from syncnas_tvm.planner import Space
from syncnas_tvm.planner.cost_mode import kernels_of
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.tuning import best
from syncnas_tvm.tuning.kernel_source import KernelSource
from syncnas_tvm.tuning.priorities import Progress, expected_shares, priorities
from syncnas_tvm.tuning.tuner import Failure, Tuner
from syncnas_tvm.work import LANES, Kernel, Lane

TRIALS_A_VISIT = 8
PLANNING = 4.0
"""Plans are made anew when so many times as long was measured as making them took."""
FRUITLESS = 3
"""So many kernels in a row that could not be run at all are the device's fault, or the model's."""


@dataclass(frozen=True)
class State:
    """How far a session is: ``done`` of ``trials``, ``failed`` among them, ``kernels`` with a record;
    the predicted latency of the best plan with what was measured so far, and the time that is left."""

    stage: str
    done: int
    trials: int
    failed: int
    kernels: int
    best_us: float
    left_s: float | None


@dataclass(frozen=True)
class Summary:
    """What a session did. ``refined`` kernels have a better tiling than the rule's."""

    kernels: int
    measured: int
    refined: int
    trials: int
    failures: tuple[Failure, ...]
    before_us: float
    best_us: float
    samples: Dataset


class TuningSession:
    """Spends ``trials`` on the kernels of ``source``, ``visit`` on one before the next is chosen; trials
    that ``tuner``'s records have count.

    Raises DeviceError where no device is to be had any more: what was measured till then is kept, and
    another session goes on from there.
    """

    def __init__(
        self,
        space: Space,
        source: KernelSource,
        tuner: Tuner,
        costs: TargetCosts,
        trials: int,
        lanes: Sequence[Lane] = LANES,
        seed: int = 0,
        report: Callable[[State], None] = lambda state: None,
        visit: int = TRIALS_A_VISIT,
    ) -> None:
        self._space, self._source, self._tuner = space, source, tuner
        self._costs, self._trials, self._lanes = costs, trials, tuple(lanes)
        self._seed, self._report, self._batch = seed, report, visit
        self._all = list(dict.fromkeys([*source.kernels, *kernels_of(space.all())]))
        self._progress: dict[Kernel, Progress] = {}
        self._closed: set[Kernel] = set()
        self._spaces: dict[Kernel, list[TuningSpace]] = {}
        self._shares: dict[Kernel, float] = {}
        self._best_us = self._plan_again_s = 0.0
        self._start, self._start_done = time.monotonic(), 0

    def run(self) -> Summary:
        """Measure, compare the best with the rule's own, and say what came of it."""
        try:
            return self._run()
        except DeviceError as error:
            failed = len(self._tuner.failures)
            raise DeviceError(
                f"{error}; {self._done} trials are kept ({failed} failed), the same command goes on "
                "from there"
            ) from error

    def _run(self) -> Summary:
        self._read_records()
        self._start_done = self._done
        before_us, fruitless = 0.0, 0
        while self._done < self._trials:
            kernel = self._next()
            before_us = before_us or self._best_us
            if kernel is None:
                break
            self._tell("tune")
            found = self._visit(kernel)
            fruitless = fruitless + 1 if found is False else 0 if found else fruitless
            if fruitless >= FRUITLESS:
                last = self._tuner.failures[-1].reason if self._tuner.failures else "no result"
                raise DeviceError(
                    f"{FRUITLESS} kernels in a row could not be run; see whether the model compiles and "
                    f"runs on this device ({last})"
                )
        self._compare()
        model = self._model()
        self._plan(model)
        self._tell("done")
        return Summary(
            len(self._source.kernels),
            len(self._progress),
            self._refined(),
            self._done,
            tuple(self._tuner.failures),
            before_us or self._best_us,
            self._best_us,
            model.samples,
        )

    @property
    def _done(self) -> int:
        return sum(progress.measured for progress in self._progress.values())

    def _read_records(self) -> None:
        """What earlier sessions measured."""
        wanted = set(self._source.kernels)
        for entry in self._tuner.records.entries:
            if entry.kernel in wanted:
                self._note(entry.kernel)

    def _model(self) -> TunedModel:
        return tuned_model(self._tuner.records.target, self._tuner.records.samples())

    def _plan(self, model: CostModel) -> dict[Kernel, float]:
        """Every kernel's expected share of the latency, and the best plan's latency."""
        start = time.monotonic()
        self._shares, self._best_us = expected_shares(
            self._space, self._costs, model, self._all, self._lanes, self._seed + self._done
        )
        end = time.monotonic()
        self._plan_again_s = end + PLANNING * (end - start)
        return self._shares

    def _next(self) -> Kernel | None:
        """The kernel with the highest priority; None where all are measured through."""
        model = self._model()
        shares = self._plan(model) if time.monotonic() >= self._plan_again_s else self._shares
        kernels = [kernel for kernel in self._source.kernels if kernel not in self._closed]
        found = priorities(shares, model, self._progress, kernels, self._batch)
        kernel = max(found, key=found.__getitem__, default=None)
        return kernel if kernel is not None and found[kernel] > 0 else None

    def _visit(self, kernel: Kernel) -> bool | None:
        """Measure some more of a kernel; whether it runs at all, None where it has no schedule of ours."""
        spaces = self._open(kernel)
        if not spaces:
            self._closed.add(kernel)
            return None
        self._tuner.records.describe(kernel, spaces)
        left = min(self._batch, self._trials - self._done)
        measured = 0
        try:
            for number, space in enumerate(spaces):
                share = -(-left // (len(spaces) - number))
                count = self._tuner.search(kernel, space, max(share, 1))
                measured, left = measured + count, max(0, left - count)
        finally:
            self._note(kernel, spaces)
        if not measured:
            self._closed.add(kernel)
        return all(self._tuner.records.measured(space) for space in spaces)

    def _open(self, kernel: Kernel) -> list[TuningSpace]:
        if kernel not in self._spaces:
            self._spaces[kernel] = self._source.spaces(kernel)
        return self._spaces[kernel]

    def _note(self, kernel: Kernel, spaces: Sequence[TuningSpace] | None = None) -> None:
        """Bring the kernel's progress up to date."""
        records = self._tuner.records
        of_kernel = records.of_kernel(kernel)
        tried = sum(len({r.sampled for r in some}) for some in of_kernel)
        seconds = dict(best.measured(of_kernel[0])) if of_kernel else {}
        candidates = sum(len(space.tilings) for space in spaces) if spaces is not None else 0
        if tried:
            self._progress[kernel] = Progress.of(list(seconds.values()), tried, candidates)

    def _compare(self) -> None:
        """Compare what was measured with the rules' own, also what a killed session left."""
        left = [kernel for kernel in self._progress if not self._compared(kernel)]
        for kernel in left:
            self._tell("compare")
            for space in self._open(kernel):
                self._tuner.compare(space)

    def _compared(self, kernel: Kernel) -> bool:
        for records in self._tuner.records.of_kernel(kernel):
            times = best.measured(records)
            several = len({sampled for sampled, _ in times}) > 1
            if several and not best.is_compared(times, records[0].sampled):
                return False
        return True

    def _refined(self) -> int:
        records = self._tuner.records
        return sum(
            any(best.is_refined(some) for some in records.of_kernel(kernel))
            for kernel in self._progress
        )

    def _tell(self, stage: str) -> None:
        done, spent_s = self._done, time.monotonic() - self._start
        fresh = done - self._start_done
        left_s = spent_s / fresh * max(0, self._trials - done) if fresh > 0 else None
        failed = len(self._tuner.failures)
        kernels = len(self._progress)
        self._report(State(stage, done, self._trials, failed, kernels, self._best_us, left_s))


def lane_names(lanes: str) -> tuple[Lane, ...]:
    """The lanes that ``--lanes`` names."""
    return LANES if lanes == "both" else (lanes,)  # type: ignore[return-value]
