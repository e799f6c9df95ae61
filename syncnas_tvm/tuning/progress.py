"""Shows on standard error how far a tuning is: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.progress import MofNCompleteColumn, Progress, TaskID

from syncnas_tvm.progress import bar_with
from syncnas_tvm.tuning.session import State

EVERY_S = 10.0
"""How often there is a line where standard error is no terminal."""


class TuneProgress:
    """Called with each :class:`State`. ``check`` is called each time and may raise, to stop the command."""

    def __init__(self, check: Callable[[], None], trials: int) -> None:
        self._check = check
        self._told = float("-inf")
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            self._bar = bar_with(MofNCompleteColumn())
            self._task = self._bar.add_task("tune", total=trials, detail="")

    def __enter__(self) -> TuneProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, state: State) -> None:
        self._check()
        detail = describe(state)
        if self._bar is not None:
            self._bar.update(
                self._task,
                total=state.trials,
                completed=state.done,
                description=state.stage,
                detail=detail,
            )
            self._bar.refresh()
        elif time.monotonic() - self._told >= EVERY_S or state.stage == "done":
            self._told = time.monotonic()
            text = f"{state.stage:8}{state.done} of {state.trials} trials, {detail}"
            print(text, file=sys.stderr, flush=True)


def describe(state: State) -> str:
    """Best latency so far, kernels, failures, time left."""
    parts = [f"best {state.best_us / 1e3:.3g} ms"] if state.best_us else []
    parts += [f"{state.kernels} kernels", f"{state.failed} failed"]
    if state.left_s is not None and state.stage == "tune":
        minutes, seconds = divmod(round(state.left_s), 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return ", ".join(parts)
