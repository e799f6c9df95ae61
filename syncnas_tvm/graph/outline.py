"""Some nodes of a function as a function of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax

from syncnas_tvm.graph.dataflow import Dataflow, Node
from syncnas_tvm.graph.rebuild import copy_nodes, emit_function, fresh_params


def reads(nodes: Sequence[Node]) -> list[relax.Var]:
    """The values from outside that ``nodes`` read, each once, in order."""
    inside = {node.var for node in nodes}
    operands = (o for node in nodes for o in node.operands)
    return list(dict.fromkeys(o for o in operands if isinstance(o, relax.Var) and o not in inside))


def leaving(flow: Dataflow, nodes: Sequence[Node]) -> list[Node]:
    """Those of ``nodes`` whose values others read, or the function returns."""
    inside = {node.var for node in nodes}
    outputs = set(flow.outputs)
    return [
        node
        for node in nodes
        if node.var in outputs
        or any(reader.var not in inside for reader, _ in flow.readers.get(node.var, ()))
    ]


def outline(
    builder: relax.BlockBuilder,
    flow: Dataflow,
    nodes: Sequence[Node],
    name: str,
    attrs: Mapping[str, object],
) -> tvm.ir.GlobalVar:
    """Add a private function of :func:`reads` that returns :func:`leaving`."""
    wanted = reads(nodes)
    params = fresh_params(wanted)

    def body() -> list[relax.Expr]:
        env: dict[relax.Var, relax.Expr] = dict(zip(wanted, params, strict=True))
        copy_nodes(builder, nodes, env)
        return [env[node.var] for node in leaving(flow, nodes)]

    return emit_function(builder, name, params, body, attrs)
