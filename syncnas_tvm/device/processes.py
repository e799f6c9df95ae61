"""A tracker and a server on the loopback, as processes that end with their context."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from syncnas_tvm.device.board import Board
from syncnas_tvm.device.cross_build import LIBRARY
from syncnas_tvm.errors import DeviceError

_START_S = 60.0
_END_S = 10.0
HOST = "127.0.0.1"


@contextmanager
def running(
    command: Sequence[str], log: Path, ready: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of ``command`` once ``ready`` stands in its ``log``; terminated at the end.

    Raises DeviceError with the log's last line where it ends before.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        )
    try:
        _await(process, log, ready)
        yield process
    finally:
        end_tree(process)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started: TVM's tracker is a child that would live on."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=_END_S)


@contextmanager
def tracker(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """TVM's tracker on ``port`` of the loopback."""
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", HOST]
    command += ["--port", str(port), "--port-end", str(port + 1)]
    with running(command, log, f"bind to {HOST}:{port}") as process:
        yield process


@contextmanager
def board_server(
    board: Board,
    bundle: Path,
    work: Path,
    flags: Sequence[str],
    log: Path,
    ready: str = "registered",
) -> Iterator[subprocess.Popen[bytes]]:
    """The server of ``bundle`` on the emulated board."""
    work.mkdir(parents=True, exist_ok=True)
    bundle = bundle.resolve()
    command = board.command(
        bundle / "bin" / "syncnas-server",
        f"--load={bundle / 'lib' / LIBRARY}",
        f"--work-dir={work}",
        *flags,
    )
    with running(command, log, ready, board.environment([bundle / "lib"])) as process:
        yield process


def _await(process: subprocess.Popen[bytes], log: Path, ready: str) -> None:
    end = time.monotonic() + _START_S
    while ready not in (text := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > end:
            lines = [line for line in text.splitlines() if line.strip()] or ["no output"]
            raise DeviceError(f"{Path(process.args[0]).name} did not start: {lines[-1]}")  # type: ignore[index,arg-type]
        time.sleep(0.05)
