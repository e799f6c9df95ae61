"""An aarch64 board on this machine: qemu-user runs its programs, arm64 PoCL is its OpenCL GPU.

Everything is in one folder. No multiarch, no binfmt, no root: programs are started through
``qemu-aarch64`` by name, and look for their libraries in the folder first.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from syncnas_tvm.device.private_apt import unpack_packages
from syncnas_tvm.errors import DeviceError

CPU = "cortex-a72"  # of the RK3399
_PACKAGES = ("pocl-opencl-icd", "ocl-icd-libopencl1", "libstdc++6")
_LIBRARY_FOLDERS = ("usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu")
_DONE = "board-1"  # changes with what is set up


@dataclass(frozen=True)
class Board:
    """The board in ``folder``; :func:`set_up_board` makes it."""

    folder: Path

    @property
    def root(self) -> Path:
        """Where the packages of the board are unpacked."""
        return self.folder / "root"

    @property
    def qemu(self) -> Path:
        """The emulator."""
        return self.folder / "qemu" / "usr" / "bin" / "qemu-aarch64-static"

    def command(self, program: Path | str, *arguments: str) -> list[str]:
        """The command line that runs ``program`` of the board."""
        return [str(self.qemu), "-L", str(self.root), str(program), *arguments]

    def environment(
        self, libraries: Sequence[Path] = (), base: Mapping[str, str] = os.environ
    ) -> dict[str, str]:
        """The environment for :meth:`command`; the program finds libraries in ``libraries`` first."""
        folders = [*map(str, libraries), *(str(self.root / name) for name in _LIBRARY_FOLDERS)]
        return {
            **base,
            "QEMU_CPU": CPU,
            "QEMU_LD_PREFIX": str(self.root),
            # For the board's programs only: this machine's would fail with its libraries.
            "QEMU_SET_ENV": f"LD_LIBRARY_PATH={':'.join(folders)}",
            "OCL_ICD_VENDORS": str(self.folder / "vendors"),
            "POCL_CACHE_DIR": str(self.folder / "pocl-cache"),
            "POCL_MAX_PTHREAD_COUNT": "1",
            # PoCL links kernels with the `ld` that it finds first.
            "PATH": f"{self.folder / 'bin'}:{base.get('PATH', '')}",
        }


def set_up_board(folder: Path) -> Board:
    """Make the board in ``folder``, or take it as it is there (downloads about 100 MB once).

    Raises BuildError where packages cannot be had, DeviceError where PoCL is not among them.
    """
    board = Board(folder.resolve())
    stamp = board.folder / _DONE
    if stamp.is_file():
        return board
    unpack_packages(
        ("qemu-user-static",), _own_architecture(), board.folder / "apt-own",
        board.folder / "qemu", dependencies=False,
    )  # fmt: skip
    unpack_packages(_PACKAGES, "arm64", board.folder / "apt-arm64", board.root)
    _write_icd(board)
    _write_linker(board)
    stamp.touch()
    return board


def _own_architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _write_icd(board: Board) -> None:
    libraries = sorted((board.root / _LIBRARY_FOLDERS[0]).glob("libpocl.so.2.*"))
    if not libraries:
        raise DeviceError(
            f"no PoCL was unpacked below {board.root}; remove {board.folder} and retry"
        )
    vendors = board.folder / "vendors"
    vendors.mkdir(exist_ok=True)
    (vendors / "pocl.icd").write_text(f"{libraries[0]}\n")


def _write_linker(board: Board) -> None:
    """An ``ld`` of this machine's that is the board's own linker, emulated."""
    search = [f"-L{board.root / name}" for name in _LIBRARY_FOLDERS]
    search += [f"-L{path}" for path in sorted(board.root.glob("usr/lib/gcc/aarch64-linux-gnu/*"))]
    linker = board.root / "usr" / "bin" / "aarch64-linux-gnu-ld.bfd"
    script = board.folder / "bin" / "ld"
    script.parent.mkdir(exist_ok=True)
    words = " ".join(map(shlex.quote, [*board.command(linker), *search]))
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
