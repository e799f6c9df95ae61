"""MetaSchedule's runner for devices behind a TVM tracker.

TVM's own ``RPCRunner`` opens a session for every candidate and has no time limit of its own: a device
that hangs keeps it for good, and a device that has gone is taken for a slow kernel. Here every device
measures a share of the candidates in one session, in turns; its process is given up when it hangs.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.runner import PyRunner, RunnerFuture, RunnerInput, RunnerResult
from tvm.support.popen_pool import PopenPoolExecutor

from syncnas_tvm.errors import DeviceError, error_line
from syncnas_tvm.runtime.tracker import count_devices
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning.device_worker import Artifact, Job, Report, measure

LOST = "device lost: "
"""How errors begin that are not the candidate's fault: it was not measured."""
MOST_DEVICES = 16
FEWEST_EACH = 4
"""A device's share of candidates: those that are compared with one another run on one device."""


@derived_object
class DeviceRunner(PyRunner):
    """Times candidates on all devices that are registered as ``key`` with the tracker at ``address``.

    ``timeout_s`` is how long a device may be away or busy, or take for one call. Candidates that no
    device could be had for get an error that begins with ``LOST``.
    """

    def __init__(
        self, target: Target, address: tuple[str, int], key: str, timeout_s: float = 60.0
    ) -> None:
        super().__init__()
        self._target, self._address, self._key = target, address, key
        self._timeout_s = timeout_s
        # A worker ends itself in time; where even that hangs, the pool kills it.
        most_s = timeout_s * (2 * MOST_DEVICES + 4)
        self._pool = PopenPoolExecutor(MOST_DEVICES, timeout=most_s, stdout=-3, stderr=-3)

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """All candidates are measured when this returns."""
        results: list[RunnerResult | None] = [None] * len(runner_inputs)
        shares = _shares(len(runner_inputs), self.devices())
        jobs = [(share, self._submit([runner_inputs[i] for i in share])) for share in shares]
        for share, future in jobs:
            report = _report(future)
            for at, number in enumerate(share):
                results[number] = _result(report, at)
        return [_done(result) for result in results]

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown(wait=False)

    def devices(self) -> int:
        """How many there are now, at least 1."""
        try:
            return max(1, count_devices(self._address, self._key))
        except DeviceError:
            return 1  # the worker waits for the tracker to come back, and says what is wrong

    def _submit(self, inputs: list[RunnerInput]) -> Future[Report]:
        artifacts = tuple(_artifact(wanted) for wanted in inputs)
        job = Job(self._address, self._key, self._timeout_s, self._target.cpu_threads, artifacts)
        return self._pool.submit(measure, job)


def _shares(count: int, devices: int) -> list[list[int]]:
    """Numbers of the candidates of each device."""
    devices = max(1, min(devices, count // FEWEST_EACH, MOST_DEVICES))
    return [list(range(first, count, devices)) for first in range(devices) if first < count]


def _artifact(wanted: RunnerInput) -> Artifact:
    tensors = tuple(
        (str(info.dtype), tuple(int(n) for n in info.shape)) for info in wanted.args_info
    )
    return Artifact(str(wanted.artifact_path), str(wanted.device_type), tensors)


def _report(future: Future[Report]) -> Report:
    try:
        return future.result()
    except Exception as error:  # the worker was killed, or hung
        return Report(lost=error_line(error))


def _result(report: Report, at: int) -> RunnerResult:
    if at in report.seconds:
        return RunnerResult(report.seconds[at], None)
    return RunnerResult(None, report.errors.get(at, f"{LOST}{report.lost}"))


def _done(result: Any) -> RunnerFuture:
    return RunnerFuture(lambda: True, lambda: result)
