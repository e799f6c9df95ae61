"""What each value of a region is while the region is split by channels: whole, cut, or partial.

An abstract interpretation over the region's nodes. It does not depend on where the cut is made,
so one analysis serves all ratios.

- ``whole``: every lane that computes it has all of it.
- ``cut``: each lane has its own channels.
- ``partial``: each lane has a partial sum of all of it.

A partial value that a non-linear operator reads is summed first; that is a sync, and what follows
it belongs to the next *phase*. From then on it is whole for all of its readers: a residual that adds
it adds the sum, once. Squeeze-and-excite gets its inner sync that way: its first dense layer contracts
over cut channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tvm import relax

from syncnas_tvm.graph.channels import ChannelClasses
from syncnas_tvm.graph.dataflow import Dataflow, Node, is_constant, shape_of

State = Literal["whole", "cut", "partial"]
# How the lanes run a node: "each" lane its share; "once": only the CPU lane, the other lane's
# partial sum passes through (a bias or a residual counts once).
Mode = Literal["each", "once"]

# A convolution that no class cuts is still divided by its input channels if it is at least this
# share of the region's work; below, running it on both lanes costs less than one more sync.
MIN_SHARE_TO_CONTRACT = 0.02


@dataclass(frozen=True)
class NodeState:
    """State of a node's value, the phase that computes it, and what it needs of its operands."""

    state: State
    phase: int
    mode: Mode = "each"
    summed: tuple[int, ...] = ()
    contracted: bool = False


class SplitStates:
    """The states of all nodes of a region's dataflow, in one pass over it."""

    def __init__(self, flow: Dataflow, step: int) -> None:
        self.flow = flow
        self.step = step
        self.classes = ChannelClasses(flow, open_result=True)
        self._total_macs = sum(node.macs for node in flow.nodes)
        self.of: dict[relax.Var, NodeState] = {}
        self._summed_from: dict[relax.Var, int] = {}  # the first phase that reads the value's sum
        for node in flow.nodes:
            self.of[node.var] = self._interpret(node)

    @property
    def splits(self) -> bool:
        """Whether any multiply-adds are divided between the lanes."""
        return not self._contradicts and any(
            s.state != "whole" and self.flow.definer[v].macs for v, s in self.of.items()
        )

    @property
    def phases(self) -> int:
        """Number of phases; neighbouring phases are a sync apart."""
        return 1 + max(state.phase for state in self.of.values())

    def state(self, expr: relax.Expr) -> State:
        """State of a node's value; parameters and constants are whole."""
        found = self.of.get(expr) if isinstance(expr, relax.Var) else None
        return found.state if found else "whole"

    def phase(self, expr: relax.Expr) -> int:
        """Phase in which a value is there; parameters and constants always are."""
        found = self.of.get(expr) if isinstance(expr, relax.Var) else None
        return found.phase if found else 0

    @property
    def _contradicts(self) -> bool:
        """Whether a node takes for partial what a node behind it in the list has summed before."""
        return any(
            self.state(operand) == "partial"
            and position not in self.of[node.var].summed
            and self._is_summed(operand, self.of[node.var].phase)
            for node in self.flow.nodes
            for position, operand in enumerate(node.operands)
        )

    def _is_summed(self, expr: relax.Expr, phase: int) -> bool:
        return isinstance(expr, relax.Var) and self._summed_from.get(expr, phase + 1) <= phase

    def _interpret(self, node: Node) -> NodeState:
        if self.classes.cuts(node).contract:
            return self._contraction(node)
        first = max((self.phase(operand) for operand in node.operands), default=0)
        all_partial = tuple(i for i, e in enumerate(node.operands) if self.state(e) == "partial")
        summed = tuple(i for i in all_partial if self._is_summed(node.operands[i], first))
        partial = tuple(i for i in all_partial if i not in summed)
        cut = self.classes.cut(node.var)
        if cut and any(link.out_dim == cut[0] for link in self.classes.cuts(node).links):
            return self._make(node, "cut", summed=all_partial)
        if not partial:
            return self._make(node, "whole", summed=summed)
        mode = self._linear_mode(node, partial)
        if mode:
            return self._make(node, "partial", mode, summed)
        return self._make(node, "whole", summed=all_partial)

    def _contraction(self, node: Node) -> NodeState:
        data = node.operands[0]
        if self.state(data) == "cut":
            return self._make(node, "partial", contracted=True)
        summed = (0,) if self.state(data) == "partial" else ()
        if self.classes.cut(node.var):
            return self._make(node, "cut", summed=summed)
        dim = self.classes.cuts(node).contract.dim  # type: ignore[union-attr]
        in_class = self.classes.cut(self.classes.use(node, 0)) is not None
        heavy = node.macs >= MIN_SHARE_TO_CONTRACT * self._total_macs
        if in_class or (heavy and shape_of(data)[dim] > self.step):
            return self._make(node, "partial", summed=summed, contracted=True)
        return self._make(node, "whole", summed=summed)

    def _linear_mode(self, node: Node, partial: tuple[int, ...]) -> Mode | None:
        """How a partial sum passes through ``node``, or None where it has to be summed first."""
        if not self.classes.cuts(node).linear:
            return None
        everything = len(partial) == len(node.operands)
        if node.op in ("add", "subtract"):
            if everything:
                return "each"
            first = partial == (0,) or node.op == "add"
            same_shape = shape_of(node.operands[partial[0]]) == node.shape
            return "once" if first and same_shape else None
        if node.op in ("multiply", "divide"):
            return (
                "each" if partial == (0,) or (partial == (1,) and node.op == "multiply") else None
            )
        return "each" if everything else None

    def _make(
        self,
        node: Node,
        state: State,
        mode: Mode = "each",
        summed: tuple[int, ...] = (),
        contracted: bool = False,
    ) -> NodeState:
        phases = [
            self.phase(operand) + (position in summed)
            for position, operand in enumerate(node.operands)
            if not is_constant(operand)
        ]
        phase = max(phases, default=0)
        for position in summed:
            var = node.operands[position]
            self._summed_from[var] = min(phase, self._summed_from.get(var, phase))  # type: ignore[index,arg-type]
        return NodeState(state, phase, mode, summed, contracted)
