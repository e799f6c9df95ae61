"""How one lane runs the nodes of a region that is split by channels, and how that is written."""

from __future__ import annotations

import numpy as np
from tvm import relax

from syncnas_tvm.graph.channels import Owner
from syncnas_tvm.graph.dataflow import Node, is_constant, shape_of
from syncnas_tvm.graph.ranges import Ranges, clip, extent, lane_ranges, shift
from syncnas_tvm.graph.rebuild import conv2d_like, with_operands
from syncnas_tvm.graph.states import SplitStates
from syncnas_tvm.passes.lane_writer import LaneWriter, take_constant
from syncnas_tvm.work import LANES, Lane, Shape


class LaneCut:
    """Which channels ``lane`` has of each cut value, for a given share of the GPU lane."""

    def __init__(self, states: SplitStates, gpu_share: float, lane: Lane) -> None:
        self.states = states
        self._share = gpu_share
        self.lane = lane

    def of(self, owner: Owner) -> tuple[int, Ranges] | None:
        """Dimension and ranges of a value that a class cuts."""
        cut = self.states.classes.cut(owner)
        return (cut[0], self.ranges(cut[1])) if cut else None

    def ranges(self, atoms: tuple[int, ...]) -> Ranges:
        """This lane's part of a dimension made of ``atoms``."""
        return lane_ranges(atoms, self._share, self.states.step, self.lane)

    def all_ranges(self) -> list[Ranges]:
        """This lane's part of everything that the region divides, in the nodes' order."""
        found = []
        for node in self.states.flow.nodes:
            cut = self.of(node.var) if self.states.of[node.var].state == "cut" else None
            if cut:
                found.append(cut[1])
            elif self.states.of[node.var].contracted:
                found.append(self.contracted(node)[1])
        return found

    def contracted(self, node: Node) -> tuple[int, Ranges]:
        """Dimension and ranges of the input that ``node`` sums over on this lane."""
        dim = self.states.classes.cuts(node).contract.dim  # type: ignore[union-attr]
        cut = self.of(self.states.classes.use(node, 0))
        return cut if cut else (dim, self.ranges((shape_of(node.operands[0])[dim],)))

    def shape(self, node: Node) -> Shape:
        """Shape of the node's value on this lane."""
        cut = self.of(node.var) if self.states.of[node.var].state == "cut" else None
        if not cut:
            return node.shape
        return tuple(extent(cut[1]) if d == cut[0] else n for d, n in enumerate(node.shape))


class SplitWriter(LaneWriter):
    """Writes the body of a split region: lane functions phase by phase, joins between them."""

    def __init__(
        self,
        builder: relax.BlockBuilder,
        region: str,
        states: SplitStates,
        gpu_share: float,
        params: list[relax.Var],
    ) -> None:
        super().__init__(builder, region, states.flow, params)
        self._states = states
        self._cuts = {lane: LaneCut(states, gpu_share, lane) for lane in LANES}

    def write(self) -> list[relax.Expr]:
        """Emit everything; the region's one result."""
        last = self._states.phases - 1
        tail_is_join = last > 0 and all(
            self._states.of[node.var].state == "whole" for node in self._phase_nodes(last)
        )
        for phase in range(last + 1):
            if tail_is_join and phase == last:
                return [self._tail(phase)]
            self._sum_for(phase)
            self._phase(phase)
        (output,) = self._flow.outputs
        if self._states.state(output) == "partial":
            return [self._join(last, [output], [])]
        if self._states.state(output) == "cut":
            return [self._together(output, last)]
        return [self._value(output, "cpu")]

    def _phase_of(self, node: Node) -> int:
        return self._states.of[node.var].phase

    def _sum_for(self, phase: int) -> None:
        """Sum the partial values that nodes of ``phase`` read whole."""
        for var in self._summed(phase):
            if var not in self._shared:
                self._shared[var] = self._join(phase - 1, [var], [])

    def _summed(self, phase: int) -> list[relax.Var]:
        found: dict[relax.Var, None] = {}
        for node in self._phase_nodes(phase):
            for position in self._states.of[node.var].summed:
                found[node.operands[position]] = None
        return list(found)

    def _tail(self, phase: int) -> relax.Expr:
        """The region ends with operators on the whole value (an activation): part of the join."""
        return self._join(phase - 1, self._summed(phase), self._phase_nodes(phase))

    def _join(self, phase: int, sums: list[relax.Var], nodes: list[Node]) -> relax.Expr:
        pairs = [self._local[lane][var] for var in sums for lane in LANES]
        inside = {node.var for node in nodes}
        extra = {
            o: self._value(o, "cpu")
            for n in nodes
            for o in n.operands
            if isinstance(o, relax.Var) and o not in inside and o not in sums
        }

        def body(params: list[relax.Var]) -> relax.Expr:
            env: dict[relax.Var, relax.Expr] = dict(zip(extra, params[len(pairs) :], strict=True))
            for i, var in enumerate(sums):
                both = relax.op.add(params[2 * i], params[2 * i + 1])
                env[var] = self._builder.emit(both, name_hint=f"{var.name}_sum")
            for node in nodes:
                operands = [env.get(o, o) if isinstance(o, relax.Var) else o for o in node.operands]
                env[node.var] = self._builder.emit(with_operands(node.expr, operands))
            return env[nodes[-1].var if nodes else sums[0]]

        return self._join_function("sum", phase, [*pairs, *extra.values()], body)

    def _together(self, output: relax.Var, phase: int) -> relax.Expr:
        """The lanes' channels of the result side by side, in the model's order."""
        cuts = {lane: self._cuts[lane].of(output) for lane in LANES}
        axis = cuts["cpu"][0]  # type: ignore[index]
        pieces = sorted(
            (begin, end, lane)
            for lane in LANES
            for begin, end in cuts[lane][1]  # type: ignore[index]
        )

        def body(params: list[relax.Var]) -> relax.Expr:
            of = dict(zip(LANES, params, strict=True))
            read = dict.fromkeys(LANES, 0)
            parts: list[relax.Expr] = []
            for begin, end, lane in pieces:
                first, read[lane] = read[lane], read[lane] + end - begin
                whole = shape_of(of[lane])[axis] == end - begin
                ranges = ((first, read[lane]),)
                parts.append(of[lane] if whole else self._slice(of[lane], ranges, axis))
            return self._builder.emit(relax.op.concat(parts, axis))

        args = [self._value(output, lane) for lane in LANES]
        return self._join_function("concat", phase, args, body)

    def _operands(self, node: Node, lane: Lane) -> list[relax.Expr]:
        """What the lane reads to run ``node``: all operands, or just the partial sum passed on."""
        state = self._states.of[node.var]
        if state.mode == "once" and lane == "gpu":
            return [
                o
                for i, o in enumerate(node.operands)
                if self._states.state(o) == "partial" and i not in state.summed
            ]
        return super()._operands(node, lane)

    def _leaves(self, node: Node, lane: Lane, phase: int) -> bool:
        if node.var in self._flow.outputs:
            return self._states.of[node.var].state != "whole" or lane == "cpu"
        for reader, position in self._flow.readers.get(node.var, ()):
            state = self._states.of[reader.var]
            later = state.phase > phase and node.var in self._operands(reader, lane)
            if later or position in state.summed:
                return True
        return False

    def _emit(self, node: Node, lane: Lane, env: dict[relax.Var, relax.Expr]) -> relax.Expr:
        state = self._states.of[node.var]
        if state.mode == "once" and lane == "gpu":
            (passed,) = self._operands(node, lane)
            return env[passed]  # type: ignore[index]
        cut = self._cuts[lane]
        operands = [env[o] if isinstance(o, relax.Var) else o for o in node.operands]
        if state.contracted:
            dim, ranges = cut.contracted(node)
            weight = self._states.classes.cuts(node).contract.weight_dim  # type: ignore[union-attr]
            if self._states.state(node.operands[0]) != "cut":
                operands[0] = self._slice(operands[0], ranges, dim)
            operands[1] = take_constant(operands[1], ranges, weight)
        elif state.state == "cut":
            self._cut_operands(node, lane, operands)
        value = self._rewritten(node, lane, operands)
        if isinstance(value, relax.Var):
            return value
        return self._builder.emit(value, name_hint=node.name)

    def _cut_operands(self, node: Node, lane: Lane, operands: list[relax.Expr]) -> None:
        """Cut the weights and slice the whole values that the node reads, in place."""
        cuts = self._states.classes.cuts(node)
        dim, ranges = self._cuts[lane].of(node.var)  # type: ignore[misc]
        if cuts.produce and cuts.produce.dim == dim:
            operands[1] = take_constant(operands[1], ranges, cuts.produce.weight_dim)
            return
        for link in cuts.links:
            operand = node.operands[link.operand]
            if link.out_dim != dim or self._states.state(operand) == "cut":
                continue
            part = shift(clip(ranges, link.out_start, link.out_start + link.size), link.in_start)
            if is_constant(operand):
                operands[link.operand] = take_constant(operands[link.operand], part, link.in_dim)
            else:
                operands[link.operand] = self._slice(operands[link.operand], part, link.in_dim)

    def _slice(self, value: relax.Expr, ranges: Ranges, axis: int) -> relax.Expr:
        parts = [
            self._builder.emit(relax.op.strided_slice(value, [axis], [begin], [end]))
            for begin, end in ranges
        ]
        return parts[0] if len(parts) == 1 else self._builder.emit(relax.op.concat(parts, axis))

    def _rewritten(self, node: Node, lane: Lane, operands: list[relax.Expr]) -> relax.Expr:
        """The node's operator with the attributes that depend on shapes set for this lane."""
        cut = self._cuts[lane]
        if self._states.of[node.var].state != "cut":
            return with_operands(node.expr, operands)
        shape = cut.shape(node)
        if node.op == "nn.conv2d":
            depthwise = int(node.attrs.groups) > 1  # type: ignore[attr-defined]
            return conv2d_like(node, operands, groups=shape[1] if depthwise else 1)
        if node.op in ("reshape", "flatten", "squeeze", "expand_dims", "nn.batch_flatten"):
            return relax.op.reshape(operands[0], shape)
        if node.op == "split":
            return self._split(node, lane, operands[0])
        if node.op == "strided_slice":
            return self._strided_slice(node, lane, operands[0])
        return with_operands(node.expr, operands)

    def _split(self, node: Node, lane: Lane, data: relax.Expr) -> relax.Expr:
        axis = int(node.attrs.axis) % len(node.shape)  # type: ignore[attr-defined]
        dim, ranges = self._cuts[lane].of(node.var)  # type: ignore[misc]
        if axis != dim:
            return with_operands(node.expr, [data])
        sizes = [int(field.shape[axis]) for field in node.var.ty.fields]
        starts = np.cumsum([0, *sizes])
        pieces = [
            extent(clip(ranges, int(a), int(a) + n)) for a, n in zip(starts, sizes, strict=False)
        ]
        return relax.op.split(data, [int(n) for n in np.cumsum(pieces)[:-1]], axis)

    def _strided_slice(self, node: Node, lane: Lane, data: relax.Expr) -> relax.Expr:
        """A slice along the cut dimension, in the lane's own positions."""
        dim, ranges = self._cuts[lane].of(self._states.classes.use(node, 0))  # type: ignore[misc]
        link = next(k for k in self._states.classes.cuts(node).links if k.out_dim == dim)
        axes = [int(a) % len(node.shape) for a in node.expr.args[1].fields]
        begins = [int(v) for v in node.expr.args[2].fields]
        ends = [int(v) for v in node.expr.args[3].fields]
        if dim in axes:
            i = axes.index(dim)
            if self._states.state(node.operands[0]) == "cut":
                begins[i] = extent(clip(ranges, 0, link.in_start))
                ends[i] = begins[i] + self._cuts[lane].shape(node)[dim]
            else:  # a whole value: the lane's part of the slice has been taken from it already
                del axes[i], begins[i], ends[i]
        return relax.op.strided_slice(data, axes, begins, ends) if axes else data
