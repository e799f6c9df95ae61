"""What the command lines share: flags, one-line errors, Ctrl-C, and a clean standard output."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from syncnas_tvm.errors import InputError, SyncNASError

OK, FAILED, USER_ERROR = 0, 1, 2
"""Exit codes; a command that a signal ended has 128 plus its number, as in shells."""


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line, with the flags that every command has."""

    def __init__(self, command: str, description: str, details: str = "what it did") -> None:
        super().__init__(
            prog=f"python -m syncnas_tvm.{command}", description=description, allow_abbrev=False
        )
        self.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
        self.add_argument("--verbose", action="store_true", help=f"print {details} in detail")
        self.add_argument("--debug", action="store_true", help="show tracebacks and warnings")

    def error(self, message: str) -> NoReturn:
        """Print ``message`` in one line and exit with code 2."""
        self.exit(USER_ERROR, f"error: {one_line(message)}; {self.prog} --help lists the flags\n")

    def add_model_arguments(self) -> None:
        """The model, the target and the input shapes, named as in tvmc."""
        self.add_argument("model", type=Path, help="the ONNX model")
        self.add_argument(
            "--target",
            default="host",
            help="a device by name, or the path of its .toml file (default: host, this machine)",
        )
        self.add_argument(
            "--input-shapes",
            metavar='"NAME:[1,3,224,224]"',
            help="shapes of inputs that the model leaves open; several separated by spaces",
        )


class Interrupts:
    """Turns SIGINT (Ctrl-C) and SIGTERM into KeyboardInterrupt, and remembers that one came.

    An interrupt can get lost: the planner takes it for "enough searched", and one that falls into
    a callback from C++ comes out as an error. :meth:`check` raises it again.
    """

    def __init__(self) -> None:
        self.number = 0

    def check(self) -> None:
        """Raise KeyboardInterrupt where a signal came earlier."""
        if self.number:
            raise KeyboardInterrupt

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Receive the signals in this context."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> NoReturn:
        self.number = number
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Command:
    """A running command: its flags, the real standard output, and whether it was interrupted."""

    options: argparse.Namespace
    out: TextIO
    interrupts: Interrupts

    def print(self, text: str) -> None:
        """Print lines on standard output."""
        print(text, file=self.out, flush=True)

    def print_json(self, data: dict[str, Any]) -> None:
        """Print the JSON object, in one line; infinities and NaN, which JSON lacks, become null."""
        self.print(json.dumps(_finite(data), allow_nan=False))


def run_command(
    parser: Parser, work: Callable[[Command], None], argv: Sequence[str] | None = None
) -> int:
    """Parse the flags, do the work, and turn whatever goes wrong into one line and an exit code."""
    options = parser.parse_args(argv)
    interrupts = Interrupts()
    with interrupts.handled(), ExitStack() as stack:
        try:
            with ExitStack() as inner:
                if not options.debug:
                    inner.enter_context(_quiet())
                work(Command(options, inner.enter_context(_own_stdout()), interrupts))
            return OK
        except BaseException as error:
            if interrupts.number:
                signal.signal(interrupts.number, signal.SIG_IGN)
            if options.debug:
                traceback.print_exc()
            else:
                stack.enter_context(_silent_stderr())
            code, line = _outcome(error, interrupts)
        gc.collect()  # C++ objects in the exception's frames complain when they are destroyed
    if line:
        print(line, file=sys.stderr, flush=True)
    return code


def end(code: int) -> NoReturn:
    """End the process with an exit code, at once where a signal interrupted the command.

    Python ends itself with the signal, not the code, where the signal fell into an ``exec`` (as in
    the making of a dataclass), and destructors print below the last line.
    """
    if code > 128:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _outcome(error: BaseException, interrupts: Interrupts) -> tuple[int, str]:
    """The exit code, and one line that says what happened."""
    if interrupts.number or isinstance(error, KeyboardInterrupt):
        return 128 + (interrupts.number or signal.SIGINT), "interrupted"
    if isinstance(error, SyncNASError):
        return USER_ERROR, f"error: {one_line(str(error))}"
    if isinstance(error, BrokenPipeError):  # the reader of standard output has gone: `| head`
        return FAILED, ""
    if isinstance(error, OSError) and error.filename is not None:
        return FAILED, f"error: {error.filename}: {error.strerror}"
    if not isinstance(error, Exception):
        raise error
    what = one_line(f"{type(error).__name__}: {error}").rstrip(": .")
    return FAILED, f"error: unexpected {what}; --debug shows the traceback"


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing reaches standard error, not even from C++."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """Standard output for the command alone: what else is written there goes to standard error.

    That includes what C++ libraries and child processes write to file descriptor 1.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        encoding = sys.stdout.encoding or "utf-8"
        with os.fdopen(
            kept, "w", encoding=encoding, errors="backslashreplace", closefd=False
        ) as out:
            yield out
    finally:
        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)  # what C code still holds back
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of libraries, no complaints about exceptions in destructors."""
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = before


def one_line(text: str) -> str:
    """``text`` with its line breaks replaced by spaces."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def positive_int(text: str) -> int:
    """For argparse: a whole number from 1 up."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 up")
    return int(text)


def add_type_flags(parser: argparse._ActionsContainer) -> None:
    """``--gpu-dtype`` and ``--cpu-dtype``."""
    for lane in ("gpu", "cpu"):
        parser.add_argument(
            f"--{lane}-dtype",
            choices=("float32", "float16"),
            default="float32",
            help=f"type of tensors and weights on the {lane.upper()} lane (default: float32)",
        )


def natural(text: str) -> int:
    """For argparse: a whole number from 0 up."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 up")
    return int(text)


def positive_float(text: str) -> float:
    """For argparse: a finite number above 0."""
    number = _finite_float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number


def not_negative(text: str) -> float:
    """For argparse: a finite number from 0 up."""
    number = _finite_float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 up")
    return number


def _finite_float(text: str) -> float:
    """NaN where ``text`` is no finite number."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def check_writable(flag: str, path: Path) -> None:
    """Raise InputError, before any work, where nothing can be written at ``path``."""
    ancestor = path.absolute().parent
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise InputError(f"{flag} {path}: {ancestor} is not a folder; name another place")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {path}: no permission to write in {ancestor}; name another place")


def check_file(flag: str, path: Path) -> None:
    """Raise InputError, before any work, where no file can be written at ``path``."""
    check_writable(flag, path)
    if path.is_dir():
        raise InputError(f"{flag} {path}: is a folder; name a file")


@contextmanager
def file_written_aside(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end, if nothing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
