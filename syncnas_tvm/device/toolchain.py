"""Which compiler builds the device's C++, and how CMake is told."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from syncnas_tvm.errors import BuildError

GLIBC = "2.27"  # what TVM's own libraries need: nothing older can run them
_GCC = "aarch64-linux-gnu-g++"
_NDK_VARIABLES = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")
_ANDROID_API = (
    26  # Android 8: the first with the dlopen namespaces that vendor drivers are found by
)


@dataclass(frozen=True)
class Toolchain:
    """``name`` for people; ``flags`` configure CMake."""

    name: str
    flags: tuple[str, ...]


def linux_toolchain(build: Path) -> Toolchain:
    """Zig, which builds for old C libraries too, or Debian's cross compiler.

    Zig is wrapped in a script in ``build``, since CMake wants one program. Raises BuildError where
    neither is installed.
    """
    if importlib.util.find_spec("ziglang") is not None:
        compiler, name = _zig_script(build), f"Zig, for glibc {GLIBC} and later"
    elif found := shutil.which(_GCC):
        compiler, name = (
            Path(found),
            f"{_GCC}: the device needs a C library as new as this machine's",
        )
    else:
        raise BuildError(
            "no compiler for aarch64 Linux; pip install ziglang, or on Debian and Ubuntu: apt-get "
            "install g++-aarch64-linux-gnu"
        )
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    return Toolchain(name, (*system, f"-DCMAKE_CXX_COMPILER={compiler}"))


def android_toolchain(environment: Mapping[str, str] = os.environ) -> Toolchain:
    """The NDK that ``ANDROID_NDK_HOME`` names; raises BuildError where there is none."""
    for variable in _NDK_VARIABLES:
        if root := environment.get(variable):
            file = Path(root) / "build" / "cmake" / "android.toolchain.cmake"
            if not file.is_file():
                raise BuildError(f"{variable}={root} is no Android NDK: it has no {file}")
            flags = (
                f"-DCMAKE_TOOLCHAIN_FILE={file}",
                "-DANDROID_ABI=arm64-v8a",
                f"-DANDROID_PLATFORM=android-{_ANDROID_API}",
                "-DANDROID_STL=c++_static",
            )
            return Toolchain("Android NDK", flags)
    raise BuildError(
        "the server for Android needs the Android NDK: only a program built with it can load a phone's "
        "OpenCL driver. Install the NDK and set ANDROID_NDK_HOME. Models compile without it: python -m "
        "syncnas_tvm.compile --target android"
    )


def _zig_script(build: Path) -> Path:
    build.mkdir(parents=True, exist_ok=True)
    script = build / "zig-c++"
    python = shlex.quote(sys.executable)
    script.write_text(
        f'#!/bin/sh\nexec {python} -m ziglang c++ -target aarch64-linux-gnu.{GLIBC} "$@"\n'
    )
    script.chmod(0o755)
    return script
