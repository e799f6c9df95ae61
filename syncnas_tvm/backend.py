"""Loads the OpenCL device into TVM; `import tvm` calls `load` through the ``tvm.backends`` group.

This module is imported in the middle of `import tvm`, so it imports nothing of TVM itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import syncnas_tvm

_PLUGIN = "libsyncnas_opencl.so"
_loaded: ctypes.CDLL | None = None

cores_at_start: tuple[int, ...] = ()
"""Cores that this process may use, as it was before TVM bound the calling thread to one of them."""


def setup_record() -> Path:
    """The file in which `syncnas_tvm.opencl_setup` leaves what it set up in this environment."""
    return Path(sys.prefix) / "etc" / "syncnas-opencl.json"


def plugin_path() -> Path:
    """Where the plugin is: in the package, or beside an editable install's files."""
    folders = [Path(folder) for folder in syncnas_tvm.__path__]
    with suppress(PackageNotFoundError):
        folders.append(Path(str(distribution("syncnas-tvm").locate_file("syncnas_tvm"))))
    for folder in folders:
        if (folder / _PLUGIN).is_file():
            return folder / _PLUGIN
    raise FileNotFoundError(
        f"{_PLUGIN} is in none of {', '.join(map(str, folders))}; install the project with "
        "'pip install .' or 'pip install -e .' to build it"
    )


def apply_setup() -> None:
    """Make a PoCL that `opencl_setup` put into this environment known to the OpenCL loader.

    What the user has set in the environment wins. libOpenCL is opened at the first use of the
    device, so setting the variables now is early enough.
    """
    try:
        record = json.loads(setup_record().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for name, value in record.get("environment", {}).items():
        os.environ.setdefault(name, value)


def load() -> None:
    """Register TVM's ``opencl`` device, once."""
    global _loaded, cores_at_start
    if _loaded is not None:
        return
    if hasattr(os, "sched_getaffinity"):
        cores_at_start = tuple(sorted(os.sched_getaffinity(0)))
    apply_setup()
    # RTLD_LOCAL: TVM's own libraries, already loaded, satisfy the plugin's dependencies by name.
    _loaded = ctypes.CDLL(str(plugin_path()), mode=os.RTLD_LOCAL | os.RTLD_NOW)
