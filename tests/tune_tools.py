"""What tests of tuning on devices share: our server built for this machine, and a target for it."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
from cli_tools import ROOT

from syncnas_tvm.backend import plugin_path
from syncnas_tvm.device.emulate_command import free_port
from syncnas_tvm.device.processes import running, tracker
from syncnas_tvm.targets import host
from syncnas_tvm.tuning.record_files import RECORDS

KEPT = Path(os.environ.get("SYNCNAS_TEST_CACHE", ROOT / "build")) / "native-server"
KEY = "twin"
# What the loader would take for this machine, as a device that is reached over RPC.
TARGET = """
inherits = "host"
vector_lanes = {lanes}
channel_step = 16
cpus = []
[cpu]
num-cores = 1
[link]
mode = "cross"
commands = ["g++", "gcc"]
"""


def twin_target(path: Path) -> Path:
    """A target file: a device like this machine."""
    path.write_text(TARGET.format(lanes=host.vector_lanes()))
    return path


def native_server() -> Path:
    """``syncnas-server`` for this machine, built once."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        flags = [
            "-DCMAKE_BUILD_TYPE=Release",
            "-DSYNCNAS_DEVICE_TOOLS=ON",
            "-DCMAKE_UNITY_BUILD=ON",
        ]
        flags.append(f"-DPython_EXECUTABLE={sys.executable}")
        for command in (
            ["cmake", "-S", str(ROOT), "-B", str(KEPT), *flags],
            ["cmake", "--build", str(KEPT), "--target", "syncnas-server"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=300)
    return KEPT / "syncnas-server"


class Farm:
    """A tracker and servers of one key on the loopback, logs in ``folder``."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server, self._folder = server, folder
        self.port = free_port()
        self._stack = ExitStack()
        self._count = 0

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def flags(self) -> list[str]:
        """Of commands that run something here."""
        return ["--rpc-tracker", f"127.0.0.1:{self.port}", "--rpc-key", KEY]

    def start(self) -> psutil.Process:
        """One more server; it ends with the farm."""
        name = f"server{self._count}"
        self._count += 1
        work = self._folder / name
        work.mkdir()
        folders = [
            Path(find_spec(package).submodule_search_locations[0]) / "lib"
            for package in ("tvm", "tvm_ffi")
        ]
        command = [
            str(self._server), f"--load={folders[0] / 'libtvm_runtime_extra.so'}",
            f"--load={plugin_path()}", f"--work-dir={work}", f"--tracker=127.0.0.1:{self.port}",
            f"--key={KEY}", f"--port={free_port()}",
        ]  # fmt: skip
        environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, folders))}
        process = self._stack.enter_context(
            running(command, self.log(name), "registered", environment)
        )
        return psutil.Process(process.pid)

    def log(self, name: str) -> Path:
        """What a server said."""
        return self._folder / f"{name}.log"

    @contextmanager
    def open(self, servers: int) -> Iterator[list[psutil.Process]]:
        """The farm with so many servers."""
        with self._stack, tracker(self.port, self._folder / "tracker.log"):
            yield [self.start() for _ in range(servers)]
            self._stack.close()


def lines(folder: Path) -> int:
    """Whole records in a folder."""
    path = folder / RECORDS
    return path.read_bytes().count(b"\n") if path.is_file() else 0
