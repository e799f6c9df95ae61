"""Starts a search's worker processes, watches the study, and says how far it is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import TrialState

from syncnas_tvm.errors import SyncNASError
from syncnas_tvm.nas.results import Result, best_of, failures, results

RESTARTS = 5
"""A worker that was killed is started again so often."""


@dataclass
class _Process:
    arguments: list[str]
    log: Path
    running: subprocess.Popen[bytes]
    restarts: int = 0

    @property
    def last(self) -> str:
        """What its end was: the signal, or the last line that it wrote."""
        code = self.running.returncode
        if code < 0:
            return f"killed by signal {-code} again and again; is there enough memory?"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "no message"


@dataclass
class Crew:
    """Worker processes of this machine; others may work on the same study.

    ``say`` gets a line for every evaluation that finishes or fails; ``keep`` gets all results whenever
    there are new ones. Workers that end by a signal are started again; one that ends with an error ends
    the search with the last line that it wrote, unless others go on.
    """

    study: optuna.Study
    trials: int
    say: Callable[[str], None]
    keep: Callable[[list[Result]], object]
    poll_s: float = 0.5
    processes: list[_Process] = field(default_factory=list)

    def start(self, arguments: Sequence[str], log: Path) -> None:
        """Start ``python -m syncnas_tvm.search`` with ``arguments``; it writes into ``log``."""
        command = [sys.executable, "-m", "syncnas_tvm.search", *arguments]
        self.processes.append(_Process(command, log, _spawn(command, log)))

    def watch(self) -> list[Result]:
        """Wait for the end; returns all results. Workers that still run when this ends are stopped."""
        seen, known = {r.trial for r in results(self.study)}, set(failures(self.study))
        first, started = len(seen), time.monotonic()
        try:
            while True:
                alive = self._alive()
                found, failed = results(self.study), failures(self.study)
                for number in sorted(failed.keys() - known):
                    known.add(number)
                    self.say(failed[number])
                fresh = sorted((r for r in found if r.trial not in seen), key=lambda r: r.trial)
                for result in fresh:
                    seen.add(result.trial)
                    self.say(self._line(result, found, len(seen), first, started))
                if fresh:
                    self.keep(found)
                if not alive:
                    self._check_end(len(found))
                    return found
                time.sleep(self.poll_s)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the processes that this crew started."""
        for process in self.processes:
            if process.running.poll() is None:
                process.running.terminate()
        for process in self.processes:
            try:
                process.running.wait(10)
            except subprocess.TimeoutExpired:
                process.running.kill()
                process.running.wait()

    def _alive(self) -> bool:
        alive = False
        for process in self.processes:
            code = process.running.poll()
            if code is not None and code < 0 and process.restarts < RESTARTS:
                process.restarts += 1
                self.say(f"a worker was killed by signal {-code}; it is started again")
                process.running = _spawn(process.arguments, process.log)
                code = None
            alive |= code is None
        return alive

    def _check_end(self, done: int) -> None:
        failed = [p for p in self.processes if p.running.returncode != 0]
        if failed and done < self.trials:
            raise SyncNASError(f"a worker ended: {failed[0].last} (more in {failed[0].log})")

    def _line(
        self, result: Result, found: list[Result], done: int, first: int, started: float
    ) -> str:
        best = best_of(found)
        pace = (time.monotonic() - started) / max(1, done - first)
        left_s = pace * max(0, self.trials - done)
        running = len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
        what = f"accuracy {result.accuracy:.4f}" if result.feasible else "does not fit the budget"
        leader = "nothing fits yet"
        if best is not None:
            leader = f"best {best.strategy} {best.accuracy:.4f}, {latency(best)}"
        return (
            f"{done}/{self.trials} {result.strategy}: {what}, {latency(result)};"
            f" {leader}; {running} running, {left_s / 60:.0f} min left"
        )


def latency(result: Result) -> str:
    """Predicted and, where there is one, measured latency."""
    text = f"{result.facts.get('latency_us', float('nan')) / 1e3:.2f} ms predicted"
    measured = result.facts.get("measured_us")
    return text if measured is None else f"{text}, {measured / 1e3:.2f} ms measured"


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        # A session of its own: a Ctrl-C reaches the workers through the crew, once.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
