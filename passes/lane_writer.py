"""Writing the lane functions of a split region, phase by phase: what channel and row splits share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from tvm import relax

from syncnas_tvm.graph.dataflow import Dataflow, Node
from syncnas_tvm.graph.ranges import Ranges, take
from syncnas_tvm.graph.rebuild import emit_call, emit_function, fresh_params
from syncnas_tvm.passes.lanes import join_attrs, lane_attrs
from syncnas_tvm.work import Lane, SyncKind


class LaneWriter(ABC):
    """Emits a lane function per lane and phase, and joins, into the body of a region's function."""

    def __init__(
        self, builder: relax.BlockBuilder, region: str, flow: Dataflow, params: list[relax.Var]
    ) -> None:
        self._builder = builder
        self._region = region
        self._flow = flow
        # Values in the region's own scope: parameters and joins for both lanes, the rest by lane.
        self._shared: dict[relax.Var, relax.Expr] = dict(zip(flow.params, params, strict=True))
        self._local: dict[Lane, dict[relax.Var, relax.Expr]] = {"cpu": {}, "gpu": {}}

    @abstractmethod
    def _phase_of(self, node: Node) -> int:
        """The phase that computes ``node``."""

    @abstractmethod
    def _leaves(self, node: Node, lane: Lane, phase: int) -> bool:
        """Whether the node's value is read after its phase on this lane, or joined."""

    @abstractmethod
    def _emit(self, node: Node, lane: Lane, env: dict[relax.Var, relax.Expr]) -> relax.Expr:
        """Write the lane's part of ``node``; ``env`` has the values of the lane function."""

    def _operands(self, node: Node, lane: Lane) -> list[relax.Expr]:
        """What ``lane`` reads to run ``node``."""
        return list(node.operands)

    def _phase_nodes(self, phase: int) -> list[Node]:
        return [node for node in self._flow.nodes if self._phase_of(node) == phase]

    def _value(self, var: relax.Var, lane: Lane) -> relax.Expr:
        return self._shared[var] if var in self._shared else self._local[lane][var]

    def _phase(self, phase: int) -> None:
        """Both lanes' functions, the GPU's first: its kernels are enqueued and run while the CPU
        lane computes."""
        for lane in ("gpu", "cpu"):
            self._lane_function(lane, phase)  # type: ignore[arg-type]

    def _lane_function(self, lane: Lane, phase: int) -> None:
        nodes = self._live_nodes(lane, phase)
        results = [n for n in nodes if self._leaves(n, lane, phase)]
        if results:
            self._function_of(lane, phase, nodes, results)

    def _function_of(
        self, lane: Lane, phase: int, nodes: list[Node], results: list[Node], suffix: str = ""
    ) -> None:
        """A lane function that computes ``nodes`` and returns ``results``, and its call."""
        inside = {node.var for node in nodes}
        inputs: dict[relax.Var, relax.Expr] = {}
        for node in nodes:
            for operand in self._operands(node, lane):
                if isinstance(operand, relax.Var) and operand not in inside:
                    inputs[operand] = self._value(operand, lane)
        params = fresh_params(list(inputs.values()))
        env: dict[relax.Var, relax.Expr] = dict(zip(inputs, params, strict=True))

        def body() -> list[relax.Expr]:
            for node in nodes:
                env[node.var] = self._emit(node, lane, env)
            return [env[node.var] for node in results]

        name = f"{self._region}_p{phase}_{lane}{suffix}"
        attrs = lane_attrs(self._region, lane, phase)
        callee = emit_function(self._builder, name, params, body, attrs)
        values = emit_call(self._builder, callee, list(inputs.values()), len(results), name)
        self._local[lane].update(zip((node.var for node in results), values, strict=True))

    def _live_nodes(self, lane: Lane, phase: int) -> list[Node]:
        """Nodes of ``phase`` that the lane has to run, without what only the other lane reads."""
        live: list[Node] = []
        wanted: set[relax.Var] = set()
        for node in reversed(self._phase_nodes(phase)):
            if node.var in wanted or self._leaves(node, lane, phase):
                live.append(node)
                wanted |= {o for o in self._operands(node, lane) if isinstance(o, relax.Var)}
        return live[::-1]

    def _join_function(
        self,
        kind: SyncKind,
        phase: int,
        args: list[relax.Expr],
        body: Callable[[list[relax.Var]], relax.Expr],
    ) -> relax.Expr:
        """A join of ``args`` that ends ``phase``; its value."""
        params = fresh_params(args)
        attrs = join_attrs(self._region, kind, phase)
        name = f"{self._region}_join{phase}"
        callee = emit_function(self._builder, name, params, lambda: [body(params)], attrs)
        return self._builder.emit(relax.Call(callee, args))


def take_constant(constant: relax.Expr, ranges: Ranges, axis: int) -> relax.Expr:
    """The positions of ``constant`` along ``axis`` that are in ``ranges``."""
    array = constant.value.numpy()  # type: ignore[attr-defined]
    return relax.const(take(array, ranges, axis), str(array.dtype))
