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
    from syncnas_tvm.graph.dataflow import Dataflow, is_constant, shape_of
    from syncnas_tvm.graph.rebuild import copy_nodes, emit_function, fresh_params
    from syncnas_tvm.graph.region_graph import Region, RegionGraph
    from syncnas_tvm.partition_passes import RelaxPass
    from syncnas_tvm.passes.lanes import join_attrs, lane_attrs, replace_region
    from syncnas_tvm.passes.rule import SplitRule, register_rule
    from syncnas_tvm.plan import Decision, Plan
    from syncnas_tvm.planner import Budget
    from syncnas_tvm.runtime.executable import Executable, load
    from syncnas_tvm.work import Work

__all__ = [
    "Budget",
    "CompileResult",
    "Dataflow",
    "Decision",
    "Executable",
    "Plan",
    "Region",
    "RegionGraph",
    "RelaxPass",
    "SplitRule",
    "Work",
    "__version__",
    "compile_onnx",
    "copy_nodes",
    "emit_function",
    "fresh_params",
    "is_constant",
    "join_attrs",
    "lane_attrs",
    "load",
    "register_rule",
    "replace_region",
    "shape_of",
]

_HOME = {
    "Budget": "planner",
    "CompileResult": "compile_result",
    "Dataflow": "graph.dataflow",
    "Decision": "plan",
    "Executable": "runtime.executable",
    "Plan": "plan",
    "Region": "graph.region_graph",
    "RegionGraph": "graph.region_graph",
    "RelaxPass": "partition_passes",
    "SplitRule": "passes.rule",
    "Work": "work",
    "compile_onnx": "compiler",
    "copy_nodes": "graph.rebuild",
    "emit_function": "graph.rebuild",
    "fresh_params": "graph.rebuild",
    "is_constant": "graph.dataflow",
    "join_attrs": "passes.lanes",
    "lane_attrs": "passes.lanes",
    "load": "runtime.executable",
    "register_rule": "passes.rule",
    "replace_region": "passes.lanes",
    "shape_of": "graph.dataflow",
}


def __getattr__(name: str) -> object:
    """Import the API on first use: TVM loads this package's device in the middle of its own import."""
    if name not in _HOME:
        raise AttributeError(f"module 'syncnas_tvm' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"syncnas_tvm.{_HOME[name]}"), name)
