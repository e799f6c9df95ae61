"""Processes of their own for what is chosen when the OpenCL device is opened, and what it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from ctypes.util import find_library
from pathlib import Path

import pytest
import tvm_ffi

needs_opencl_library = pytest.mark.skipif(
    not find_library("OpenCL"), reason="no OpenCL library to put a driver before"
)

_DRIVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

int clGetDeviceInfo(void* device, unsigned what, size_t size, void* value, size_t* used) {
  if (what == %(what)d && size == sizeof(%(type)s)) {
    *(%(type)s*)value = %(answer)d;
    return 0;
  }
  int (*driver)(void*, unsigned, size_t, void*, size_t*) = dlsym(RTLD_NEXT, "clGetDeviceInfo");
  return driver(device, what, size, value, used);
}
"""


def driver_that_answers(folder: Path, what: int, c_type: str, answer: int) -> Path:
    """A library for ``SYNCNAS_OPENCL_LIBRARY``: the system's, but for one answer of clGetDeviceInfo."""
    source, driver = folder / "driver.c", folder / "driver.so"
    source.write_text(_DRIVER % {"what": what, "type": c_type, "answer": answer})
    link = ["-Wl,--no-as-needed", f"-l:{find_library('OpenCL')}"]
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", driver, source, *link], check=True)
    return driver


def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own: memory is chosen when the device is opened."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def pool_stats() -> dict[str, int]:
    """Bytes and buffers of the device's memory pool."""
    stats: dict[str, int] = json.loads(tvm_ffi.get_global_func("syncnas.opencl.pool_stats")(0))
    return stats
