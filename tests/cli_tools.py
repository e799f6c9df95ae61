"""Runs the command lines as a user does, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import zoo

ROOT = Path(__file__).resolve().parent.parent
TINY = zoo.Net(8, (zoo.Row(4, 16, 2, 2), zoo.Row(4, 24, 2, 2)), 64)
SIZE = 32


def tiny_model(path: Path) -> Path:
    """A network of four MBConv blocks for 32x32 pictures: what takes time is the compiler."""
    model = zoo.Mobile(TINY, 1.0, 10)
    zoo.randomise(model, 0)
    zoo.save(model.eval(), SIZE, path, "torchscript", 17)
    return path


class Shell:
    """Starts commands in ``folder`` with a cache folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_model(folder / "tiny.onnx")
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
            "SYNCNAS_CACHE_DIR": str(folder / "cache"),
        }

    def start(self, command: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start ``python -m syncnas_tvm.COMMAND`` without waiting for it."""
        return subprocess.Popen(
            [sys.executable, "-m", f"syncnas_tvm.{command}", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, command: str, *arguments: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m syncnas_tvm.COMMAND`` to its end."""
        process = self.start(command, *arguments, **environment)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def fails(self, command: str, *arguments: object, code: int = 2) -> str:
        """Run a command that must fail; nothing on standard output; the one line that it says.

        Stages that ended before (a name and seconds) may stand above that line.
        """
        done = self(command, *arguments)
        assert done.returncode == code, done
        assert done.stdout == "", done.stdout
        *stages, line = done.stderr.splitlines()
        assert line.startswith("error: "), done.stderr
        for stage in stages:
            name, _, unit = stage.split()
            assert name in ("import", "regions", "measure", "plan", "build", "verify", "time")
            assert unit == "s"
        return line
