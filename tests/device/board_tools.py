"""What the tests on the emulated board share: where it is, a small model for it, its processes."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import zoo
from cli_tools import Shell

from syncnas_tvm.device.board import Board
from syncnas_tvm.device.emulate_command import free_port
from syncnas_tvm.device.processes import board_server, tracker

ROOT = Path(__file__).resolve().parents[2]
# Downloads, the board and compiled C++ are kept: with them, setting up takes seconds.
KEPT = Path(os.environ.get("SYNCNAS_TEST_CACHE", ROOT / "build")) / "emulated-board"
KEY = "board"
SIZE = 32


def small_model(path: Path) -> Path:
    """One MBConv block between a stem and a head: each kernel is compiled under emulation."""
    network = zoo.Mobile(zoo.Net(8, (zoo.Row(4, 16, 2, 1),), 32), 1.0, 10)
    zoo.randomise(network, 0)
    zoo.save(network.eval(), SIZE, path, "torchscript", 17)
    return path


class Lab:
    """The board with a bundle on it; starts servers for the tracker on ``port``, logs in ``folder``."""

    def __init__(self, board: Board, bundle: Path, folder: Path, port: int) -> None:
        self.board = board
        self.bundle = bundle
        self.folder = folder
        self.work = folder / "work"
        self.port = port
        self.address = ("127.0.0.1", port)

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "server.log").read_text()

    def tracker(self):
        """A tracker on this lab's port, where no other is."""
        return tracker(self.port, self.folder / "tracker.log")

    def server(self, *flags: str, ready: str = "registered"):
        """The server, registered as KEY."""
        flags = (
            f"--tracker=127.0.0.1:{self.port}",
            f"--key={KEY}",
            f"--port={free_port()}",
            *flags,
        )
        return board_server(
            self.board, self.bundle, self.work, flags, self.folder / "server.log", ready
        )

    @contextmanager
    def running(self, *flags: str) -> Iterator[psutil.Process]:
        """The server; gives its process. Nothing of it may be left at the end."""
        with self.server(*flags) as process:
            server = psutil.Process(process.pid)
            yield server
            children = server.children(recursive=True) if server.is_running() else []
        assert not psutil.wait_procs(children, timeout=10)[1], "an orphan process is left"


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Fails where ``condition`` does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def session_folders(work: Path) -> list[Path]:
    """The folders of sessions that have not ended."""
    return list(work.glob("syncnas-server-*/*"))


def start_long_run(lab: Lab, folder: Path, where: Path, server: psutil.Process) -> subprocess.Popen:
    """A client that runs for a minute, once its session has begun."""
    process = Shell(where).start(
        "run", folder, "--rpc-tracker", f"127.0.0.1:{lab.port}", "--rpc-key", KEY, "--sustained", 60,
        "--rpc-timeout", 20,
    )  # fmt: skip
    wait_until(lambda: server.children() and session_folders(lab.work), 60)
    wait_until(lambda: list(lab.work.glob("syncnas-server-*/*/model.so")), 30)
    time.sleep(1)
    return process
