"""The model as a graph of regions, each outlined into a Relax function of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import tvm
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.dataflow import Dataflow, is_constant, shape_of
from syncnas_tvm.graph.rebuild import copy_nodes, emit_call, emit_function, fresh_params
from syncnas_tvm.graph.regions import Segment, find_segments, segment_of
from syncnas_tvm.work import Shape, tensor_bytes


@dataclass(frozen=True)
class Region:
    """A single-entry, single-exit part of the model.

    ``name`` is also the name of its Relax function in :attr:`RegionGraph.mod`; ``nodes`` are the
    names of the model's nodes in it; shapes are in elements (NCHW), ``macs`` multiply-adds,
    ``weight_bytes``, ``in_bytes`` and ``out_bytes`` what a lane has to hold, read and write.
    """

    name: str
    nodes: tuple[str, ...]
    in_shapes: tuple[Shape, ...]
    out_shapes: tuple[Shape, ...]
    macs: int
    weight_bytes: int
    in_bytes: int
    out_bytes: int


class RegionGraph:
    """Regions of a normalised model, in topological order.

    ``mod`` has the model with each region outlined into a private function that ``main`` calls;
    split rules rewrite these functions one by one. ``step`` is the granularity of channel cuts in
    channels (the target's vector width). ``digraph`` has the regions as nodes (attribute
    ``region``) and the bytes that pass between them on its edges.
    """

    def __init__(self, mod: tvm.IRModule, step: int) -> None:
        self.step = step
        self._model = mod
        self._flow = Dataflow(mod["main"])
        self._segments = find_segments(self._flow)
        width = len(str(len(self._segments) - 1))
        names = [f"r{i:0{width}d}" for i in range(len(self._segments))]
        self.regions = tuple(
            _describe(name, segment) for name, segment in zip(names, self._segments, strict=True)
        )
        self._runs: dict[tuple[str, ...], Region] = {}
        self.mod = _outline(self._flow, self._segments, names, mod)
        self.digraph = nx.DiGraph()
        for region in self.regions:
            self.digraph.add_node(region.name, region=region)
        for before, after in zip(self.regions, self.regions[1:], strict=False):
            self.digraph.add_edge(before.name, after.name, bytes=before.out_bytes)

    @cached_property
    def _by_name(self) -> dict[str, Region]:
        return {region.name: region for region in self.regions}

    def run(self, names: Sequence[str]) -> Region:
        """Consecutive regions as one; a single region is itself.

        Raises PlanError where the regions are not in this model, or not in a row.
        """
        key = tuple(names)
        if key not in self._runs:
            first = self.names.index(self.region(key[0]).name)
            if key != self.names[first : first + len(key)]:
                raise PlanError(f"regions {', '.join(key)} do not follow one another in this model")
            single = len(key) == 1
            self._runs[key] = (
                self.regions[first]
                if single
                else _describe(f"{key[0]}_{key[-1]}", self._joined(key))
            )
        return self._runs[key]

    def grouped(self, runs: Sequence[Sequence[str]]) -> tvm.IRModule:
        """The model with each of ``runs`` outlined into one function, named as :meth:`run` names it.

        ``runs`` are the names of all regions, in order.
        """
        names = [self.run(run).name for run in runs]
        return _outline(self._flow, [self._joined(run) for run in runs], names, self._model)

    def module_of(self, names: Sequence[str]) -> tvm.IRModule:
        """The model with ``names``, consecutive regions, as one function and the others as in ``mod``."""
        if len(names) == 1:
            return self.mod
        others = [(name,) for name in self.names if name not in names]
        return self.grouped(sorted([*others, tuple(names)]))

    def _joined(self, names: Sequence[str]) -> Segment:
        segments = [self._segments[self.names.index(name)] for name in names]
        nodes = [node for segment in segments for node in segment.nodes]
        return segment_of(self._flow, nodes, segments[-1] is self._segments[-1])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions in order."""
        return tuple(region.name for region in self.regions)

    def region(self, name: str) -> Region:
        """The region of that name; raises PlanError where there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            known = f"{self.names[0]} to {self.names[-1]}"
            raise PlanError(f"no region '{name}' in this model; it has {known}") from None

    def function(self, name: str) -> relax.Function:
        """The region's Relax function as the model has it."""
        return self.mod[name]


def _describe(name: str, segment: Segment) -> Region:
    def bytes_of(values: tuple[relax.Var, ...]) -> int:
        return sum(tensor_bytes(shape_of(v), str(v.ty.dtype)) for v in values)

    weights = [o for node in segment.nodes for o in node.operands if is_constant(o)]
    return Region(
        name,
        tuple(node.name for node in segment.nodes),
        tuple(shape_of(v) for v in segment.inputs),
        tuple(shape_of(v) for v in segment.outputs),
        sum(node.macs for node in segment.nodes),
        sum(tensor_bytes(shape_of(w), str(w.ty.dtype)) for w in weights),
        bytes_of(segment.inputs),
        bytes_of(segment.outputs),
    )


def _outline(
    flow: Dataflow, segments: list[Segment], names: list[str], mod: tvm.IRModule
) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    callees = []
    for segment, name in zip(segments, names, strict=True):
        params = fresh_params(segment.inputs)
        env: dict[relax.Var, relax.Expr] = dict(zip(segment.inputs, params, strict=True))

        def body(segment: Segment = segment, env: dict[relax.Var, relax.Expr] = env) -> list:
            copy_nodes(builder, segment.nodes, env)
            return [env[output] for output in segment.outputs]

        callees.append(emit_function(builder, name, params, body, {"syncnas.region": name}))
    inputs = fresh_params(flow.params)
    values: dict[relax.Var, relax.Expr] = dict(zip(flow.params, inputs, strict=True))

    def main() -> list[relax.Expr]:
        for segment, callee in zip(segments, callees, strict=True):
            args = [values[v] for v in segment.inputs]
            results = emit_call(builder, callee, args, len(segment.outputs), callee.name_hint)
            values.update(zip(segment.outputs, results, strict=True))
        return [values[output] for output in flow.outputs]

    attrs = {"num_input": len(inputs)}
    emit_function(builder, "main", inputs, main, attrs, private=False)
    return builder.get().with_attrs(mod.attrs) if mod.attrs else builder.get()
