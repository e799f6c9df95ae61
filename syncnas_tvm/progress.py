"""Shows on standard error how far a command is: a bar in a terminal, else a line per stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn


def bar_with(column: ProgressColumn) -> Progress:
    """A bar on standard error between a ``description`` and a ``detail``, ``column`` behind it."""
    # No thread that redraws: it would disturb measurements on this machine.
    return Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        column,
        TextColumn("{task.fields[detail]}"),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class StageProgress:
    """Called as a :data:`~syncnas_tvm.compiler.Report`: with a stage's name and with details.

    Without a terminal a stage is named when it has ended, so that a command that fails at once
    prints its error and nothing else; ``verbose`` prints the details too. ``check`` is called each
    time and may raise, to stop the command.
    """

    def __init__(
        self, stages: Sequence[str], check: Callable[[], None], verbose: bool = False
    ) -> None:
        self._stages, self._check, self._verbose = tuple(stages), check, verbose
        self._stage, self._since = "", 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            self._bar = bar_with(TimeElapsedColumn())
            self._task = self._bar.add_task("", total=len(self._stages), detail="")

    def __enter__(self) -> StageProgress:
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
        elif error is None:
            self._end_stage()

    def __call__(self, stage: str, detail: str) -> None:
        self._check()
        if self._bar is not None:
            done = self._stages.index(stage) if stage in self._stages else 0
            self._bar.update(self._task, completed=done, description=stage, detail=detail)
            self._bar.refresh()
            return
        if stage != self._stage:
            self._end_stage()
            self._stage, self._since = stage, time.monotonic()
        if detail and self._verbose:
            print(f"{stage}: {detail}", file=sys.stderr, flush=True)

    def _end_stage(self) -> None:
        if self._stage:
            seconds = time.monotonic() - self._since
            print(f"{self._stage:8}{seconds:6.1f} s", file=sys.stderr, flush=True)
        self._stage = ""
