"""Builds the device's C++ with CMake: our library, the server, the example."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import syncnas_tvm
from syncnas_tvm.device.toolchain import Toolchain
from syncnas_tvm.errors import BuildError

PROGRAMS = ("syncnas-server", "syncnas-run")
LIBRARY = "libsyncnas_opencl.so"


def source_folder() -> Path:
    """Where CMakeLists.txt is; raises BuildError for an installed wheel, which has no C++ sources."""
    # An editable install has the package in two folders, the built plugin's and the sources'.
    for package in syncnas_tvm.__path__:
        root = Path(package).resolve().parent
        if (root / "CMakeLists.txt").is_file() and (root / "runtime" / "server").is_dir():
            return root
    raise BuildError(
        "the C++ sources are not in an installed wheel; run this in a source tree of the project "
        "(pip install -e .)"
    )


def configure(build: Path, toolchain: Toolchain, libraries: Path) -> None:
    """Configure in ``build`` against TVM's ``libraries`` for the device.

    Raises BuildError with the first error that CMake reports.
    """
    include = [f"{_package_folder(name)}/include" for name in ("tvm", "tvm_ffi")]
    options = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DSYNCNAS_DEVICE_TOOLS=ON",
        f"-DSYNCNAS_TVM_INCLUDE_DIRS={';'.join(include)}",
        f"-DSYNCNAS_TVM_LIBRARY_DIRS={libraries.resolve()}",
        f"-DSYNCNAS_TVM_VERSION={version('apache-tvm')}",
        f"-DSYNCNAS_TVM_FFI_VERSION={version('apache-tvm-ffi')}",
        # TVM's headers are most of the work: few large compilations instead of many small ones.
        "-DCMAKE_UNITY_BUILD=ON",
        # Without symbols the programs are a fifth of their size.
        "-DCMAKE_SHARED_LINKER_FLAGS=-s",
        "-DCMAKE_EXE_LINKER_FLAGS=-s",
        *toolchain.flags,
    ]
    build.mkdir(parents=True, exist_ok=True)
    # Another compiler than the last one would be ignored.
    (build / "CMakeCache.txt").unlink(missing_ok=True)
    _run([*_cmake(), "-S", str(source_folder()), "-B", str(build), *options], toolchain)


def compile_all(build: Path, toolchain: Toolchain) -> None:
    """Build what was configured; raises BuildError with the compiler's first error."""
    _run([*_cmake(), "--build", str(build), "--parallel", str(os.cpu_count() or 1)], toolchain)


def _cmake() -> list[str]:
    if found := shutil.which("cmake"):
        return [found]
    if find_spec("cmake") is not None:  # the package from PyPI
        return [sys.executable, "-m", "cmake"]
    raise BuildError(
        "CMake is not installed; pip install cmake, or on Debian: apt-get install cmake"
    )


def _package_folder(name: str) -> str:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise BuildError(f"the package {name} is not installed")
    return spec.submodule_search_locations[0]


def _run(command: Sequence[str], toolchain: Toolchain) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(
            f"building the device's C++ ({toolchain.name}) failed: "
            f"{_first_error(done.stderr + done.stdout)}"
        )


def _first_error(text: str) -> str:
    """The first line that says "error"; CMake's say only where, so what follows belongs to them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
    for i, line in enumerate(lines):
        if "error" in line.lower():
            return " ".join(lines[i : i + 3]) if line.startswith("CMake Error") else line
    return lines[-1]
