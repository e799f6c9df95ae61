"""SyncNAS-TVM: runs a mobile CNN on the CPU and the GPU of one chip at the same time.

import syncnas_tvm

result = syncnas_tvm.compile_onnx("model.onnx", target="host", output="out")
model = syncnas_tvm.load("out")
outputs = model(image)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncnas_tvm._version import __version__

if TYPE_CHECKING:
    from syncnas_tvm.compile_result import CompileResult
    from syncnas_tvm.compiler import compile_onnx
    from syncnas_tvm.partition_passes import RelaxPass
    from syncnas_tvm.plan import Decision, Plan
    from syncnas_tvm.runtime.executable import Executable, load

__all__ = [
    "CompileResult",
    "Decision",
    "Executable",
    "Plan",
    "RelaxPass",
    "__version__",
    "compile_onnx",
    "load",
]

_HOME = {
    "CompileResult": "compile_result",
    "compile_onnx": "compiler",
    "Decision": "plan",
    "Plan": "plan",
    "RelaxPass": "partition_passes",
    "Executable": "runtime.executable",
    "load": "runtime.executable",
}


def __getattr__(name: str) -> object:
    """Import the API on first use: TVM loads this package's device in the middle of its own import."""
    if name not in _HOME:
        raise AttributeError(f"module 'syncnas_tvm' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"syncnas_tvm.{_HOME[name]}"), name)
