"""Times built candidates on one device over RPC, in a process of its own that can be killed.

Candidates of a job are called in turn in one session, as ``HostRunner`` does it here, with their weights
out of the CPU's caches. Times are of the device's own clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import rpc

from syncnas_tvm.errors import DeviceError, error_line
from syncnas_tvm.runtime.deadline import deadline
from syncnas_tvm.runtime.tracker import request_device

ROUNDS, REPEATS = 5, 2
ROUND_S = 0.4
"""What a candidate's rounds may take together, about; one round there always is."""
TRIES = 2
"""How often a candidate may break a session before it is given up."""
BREAKS = 4
"""So many sessions in a row that broke, with nothing measured, are the device's fault."""
_POLL_S = 0.5


@dataclass(frozen=True)
class Artifact:
    """A linked candidate: where it is, TVM's kind of its device, types and shapes of its tensors."""

    path: str
    kind: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Job:
    """Candidates for one device. ``timeout_s`` is for waiting for it, and for each call to it."""

    address: tuple[str, int]
    key: str
    timeout_s: float
    threads: int
    artifacts: tuple[Artifact, ...]


@dataclass
class Report:
    """Seconds of each candidate, or what is wrong with it. ``lost`` says why the device is not to be
    had (any more): candidates with neither have not been measured then."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    lost: str = ""


def measure(job: Job) -> Report:
    """Measure the job's candidates.

    A session that breaks (the device has gone, hangs, or crashed) is opened anew, and the candidate
    that it broke with is measured last, by itself; what breaks it again is given up.
    """
    report = Report()
    left, breaks = list(range(len(job.artifacts))), 0
    suspects: dict[int, int] = {}
    while left:
        now = [i for i in left if i not in suspects] or left[:1]
        attempt = _Attempt(job, report)
        try:
            attempt.run(now)
        except _Lost as lost:
            report.lost = str(lost)
            return report
        except _Broken as broken:
            done = len(report.seconds) + len(report.errors)
            breaks = breaks + 1 if done + len(left) == len(job.artifacts) else 1
            at = attempt.current
            suspects[at] = suspects.get(at, 0) + 1
            if suspects[at] >= TRIES:
                report.errors[at] = f"it broke {TRIES} sessions: {broken}"
            elif breaks >= BREAKS:
                report.lost = f"sessions on '{job.key}' break again and again: {broken}"
                return report
        left = [i for i in left if i not in report.seconds and i not in report.errors]
        left.sort(key=lambda i: suspects.get(i, 0))
    return report


class _Lost(Exception):
    """The device is not to be had."""


class _Broken(Exception):
    """The session is over."""


@dataclass
class _Candidate:
    number: int
    evaluate: Callable[..., Any]
    tensors: list[Any]


class _Attempt:
    """One session; ``current`` is the candidate that it was busy with."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job, self._report = job, report
        self.current = 0
        self._session: rpc.RPCSession | None = None

    def run(self, numbers: list[int]) -> None:
        """Measure these candidates."""
        self.current = numbers[0]
        session = self._session = _open(self._job)
        with self._guarded("setting the threads"):
            session.get_function("runtime.config_threadpool")(1, self._job.threads)
        ready = []
        for number in numbers:
            self.current = number
            try:
                ready.append(self._prepare(session, number))
            except _Refused as refused:
                self._report.errors[number] = str(refused)
        self._time(ready)

    def _prepare(self, session: rpc.RPCSession, number: int) -> _Candidate:
        """A candidate that has run once."""
        artifact, name = self._job.artifacts[number], f"candidate{number}.so"
        data = Path(artifact.path).read_bytes()
        with self._guarded("uploading"):
            session.upload(bytearray(data), name)
            _check_arrived(session, name, len(data))
        with self._guarded("running it"):
            device = session.device(artifact.kind, 0)
            module = session.load_module(name)
            tensors = _tensors(session, device, artifact)
            cold = "cache_flush_cpu_non_first_arg" if artifact.kind == "cpu" else ""
            evaluate = module.time_evaluator(
                "main", device, number=1, repeat=REPEATS, f_preproc=cold
            )
            evaluate(*tensors)
        return _Candidate(number, evaluate, tensors)

    def _time(self, ready: list[_Candidate]) -> None:
        """Rounds begin with another candidate each."""
        samples: dict[int, list[float]] = {candidate.number: [] for candidate in ready}
        start = time.monotonic()
        for turn in range(ROUNDS if ready else 0):
            for i in range(len(ready)):
                candidate = ready[(i + turn) % len(ready)]
                self.current = candidate.number
                if candidate.number not in samples:
                    continue
                try:
                    with self._guarded("timing it"):
                        found = candidate.evaluate(*candidate.tensors).results
                    samples[candidate.number] += [float(seconds) for seconds in found]
                except _Refused as refused:
                    del samples[candidate.number]
                    self._report.errors[candidate.number] = str(refused)
            if time.monotonic() - start > ROUND_S * len(ready):
                break
        self._report.seconds.update(samples)

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Errors in the block as _Refused where the session goes on, else as _Broken."""
        try:
            with deadline(self._job.timeout_s, what):
                yield
        except _Lost:
            raise
        except DeviceError as error:
            raise _Broken(str(error)) from error
        except Exception as error:  # TVM raises several types, also for a lost connection
            line = error_line(error)
            if not self._alive():
                raise _Broken(f"{what} failed: {line}") from error
            raise _Refused(line) from error

    def _alive(self) -> bool:
        """Whether the session still answers."""
        try:
            with deadline(self._job.timeout_s, "asking the device"):
                assert self._session is not None
                self._session.get_function("runtime.config_threadpool")
        except Exception:
            return False
        return True


class _Refused(Exception):
    """The device cannot do it."""


def _open(job: Job) -> rpc.RPCSession:
    """A session, within the time-out: a device that has gone may come back."""
    end = time.monotonic() + job.timeout_s
    while True:
        left_s = max(1.0, end - time.monotonic())
        try:
            return request_device(job.address, job.key, left_s, 3 * job.timeout_s)
        except DeviceError as error:
            if time.monotonic() > end:
                raise _Lost(str(error)) from error
        time.sleep(_POLL_S)


def _tensors(session: rpc.RPCSession, device: Any, artifact: Artifact) -> list[Any]:
    """Random values; made on the device where its runtime can, or else sent there."""
    try:
        fill = session.get_function("tvm.contrib.random.random_fill_for_measure")
    except Exception:  # a device without libtvm_runtime_extra
        rng = np.random.default_rng(0)
        return [
            tvm.runtime.tensor(rng.random(shape, "float32").astype(dtype), device)
            for dtype, shape in artifact.tensors
        ]
    tensors = [tvm.runtime.empty(shape, dtype, device) for dtype, shape in artifact.tensors]
    for tensor in tensors:
        fill(tensor)
    return tensors


def _check_arrived(session: rpc.RPCSession, name: str, size: int) -> None:
    """TVM does not notice a disk that is full: our server says what arrived."""
    try:
        status = session.get_function("syncnas.runner.file_status")
    except Exception:  # TVM's own server
        return
    found = json.loads(status(name))
    if found["bytes"] != size:
        raise _Lost(
            f"{max(found['bytes'], 0)} of {size} bytes of a kernel arrived on the device, "
            f"{found['free_bytes']} bytes are free in its work folder; make room there"
        )
