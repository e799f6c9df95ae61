"""Names that lead from a binding back to the ONNX node."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import tvm

from syncnas_tvm.passes._dataflow import main_block


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, in place: some exporters write none."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        name = node.name or (node.output[0] if node.output else "")
        if not name or name in taken:
            name = f"{name or node.op_type}_{index}"
        taken.add(name)
        node.name = name


def trace_names(mod: tvm.IRModule, converted: Mapping[str, str]) -> dict[str, str]:
    """The ONNX node behind each binding of ``main``.

    Passes derive names by adding to the end: the longest known beginning tells the node.
    """
    found = {}
    for binding in main_block(mod).bindings:
        name = binding.var.name
        parts = name.split("_")
        for end in range(len(parts), 0, -1):
            node = converted.get("_".join(parts[:end]))
            if node is not None:
                found[name] = node
                break
    return found
