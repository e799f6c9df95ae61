"""Which nodes of a lane function end up in one kernel, and the kernels that result.

Follows what TVM's FuseOps does with these graphs: a convolution, dense layer or other operator takes
in the element-wise operators behind it up to the last point where all their paths meet again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm import relax

from syncnas_tvm.graph.dataflow import Dataflow, Node, is_constant, shape_of
from syncnas_tvm.graph.rebuild import copy_nodes, emit_function, fresh_params
from syncnas_tvm.graph.views import RowView, is_row_view, row_view
from syncnas_tvm.schedule.zeros import share
from syncnas_tvm.work import NONZERO, Epilogue, Kernel, Lane

ELEMENTWISE = frozenset(
    (
        "add",
        "subtract",
        "multiply",
        "divide",
        "maximum",
        "minimum",
        "power",
        "clip",
        "sigmoid",
        "nn.relu",
        "nn.relu6",
        "nn.silu",
        "nn.gelu",
        "nn.gelu_tanh",
        "nn.leakyrelu",
        "tanh",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "negative",
        "abs",
        "square",
        "erf",
        "where",
        "astype",
        "nn.softplus",
        "floor",
        "ceil",
        "round",
        "greater",
        "less",
        "equal",
        "nn.selu",
    )
)
# Reductions keep their results to themselves: FuseOps lets nothing follow in the same kernel.
CLOSED = frozenset(("mean", "sum", "max", "min", "nn.softmax", "nn.log_softmax", "nn.layer_norm"))
# No kernel at all: a reshape is a view, and the items of a split are its outputs.
FREE = frozenset(
    ("reshape", "flatten", "squeeze", "expand_dims", "nn.batch_flatten", "tuple_get_item")
)

_NUMBERS = {
    "nn.conv2d": ("strides", "padding", "dilation", "groups"),
    "nn.max_pool2d": ("pool_size", "strides", "padding", "dilation", "ceil_mode"),
    "nn.avg_pool2d": ("pool_size", "strides", "padding", "dilation", "ceil_mode"),
    "mean": ("axis", "keepdims"),
    "sum": ("axis", "keepdims"),
    "concat": ("axis",),
    "split": ("axis",),
}


@dataclass(frozen=True, eq=False)
class Group:
    """The nodes of one kernel, main operator first; ``views`` are operands that are row views."""

    kernel: Kernel
    nodes: tuple[Node, ...]
    views: Mapping[relax.Expr, RowView] = field(default_factory=dict)

    def function(self) -> relax.Function:
        """The group alone as a Relax function of its inputs: what is measured."""
        inside = {node.var for node in self.nodes}
        inputs: dict[relax.Expr, None] = {}
        for node in self.nodes:
            for operand in node.operands:
                if isinstance(operand, relax.Var) and operand not in inside:
                    inputs[operand] = None
        params = fresh_params(list(inputs))
        env: dict[relax.Var, relax.Expr] = dict(zip(inputs, params, strict=True))
        builder = relax.BlockBuilder()

        def body() -> list[relax.Expr]:
            copy_nodes(builder, self.nodes, env)
            return [env[self.nodes[-1].var]]

        emit_function(builder, "main", params, body, {}, private=False)
        return builder.get()["main"]


def groups_of(function: relax.Function, lane: Lane) -> list[Group]:
    """The kernels of a lane function, in the order in which they run."""
    flow = Dataflow(function)
    taken: set[Node] = set()
    groups = []
    for node in flow.nodes:
        if node in taken or node.op in FREE or is_row_view(node):
            continue
        members = [node] if node.op in CLOSED else _absorb(flow, node, taken)
        taken.update(members)
        operands = {o for member in members for o in member.operands if isinstance(o, relax.Var)}
        views = {o: view for o in operands if (view := row_view(flow, o))}
        groups.append(Group(_kernel(members, lane), tuple(members), views))
    # A group runs when its last input is there.
    return sorted(groups, key=lambda g: g.nodes[0].index)


def _absorb(flow: Dataflow, head: Node, taken: set[Node]) -> list[Node]:
    """``head`` and the element-wise nodes up to the furthest point where all paths have met."""
    members, settled = [head], 1
    open_values = {head.var}
    for node in flow.nodes[head.index + 1 :]:
        if not open_values.intersection(o for o in node.operands if isinstance(o, relax.Var)):
            continue
        if node.op not in ELEMENTWISE or node in taken or node.shape != head.shape:
            break
        members.append(node)
        inside = set(members)
        open_values = {
            m.var
            for m in members
            if m.var in flow.outputs or any(r not in inside for r, _ in flow.readers.get(m.var, ()))
        }
        if node.var in flow.outputs:
            if open_values == {node.var}:
                settled = len(members)
            break
        if open_values == {node.var}:
            settled = len(members)
    return members[:settled]


def _kernel(nodes: list[Node], lane: Lane) -> Kernel:
    head = nodes[0]
    inside = {head.var}
    epilogue = []
    for node in nodes[1:]:
        others = tuple(shape_of(o) for o in node.operands if o not in inside)
        inside.add(node.var)
        epilogue.append(Epilogue(node.op, others, _attrs(node)))
    shapes = (*(shape_of(o) for o in head.operands), head.shape)
    attrs = (*_attrs(head), *_zeros(head))
    return Kernel(head.op, shapes, head.dtype, lane, attrs, tuple(epilogue), name=head.name)


def _zeros(node: Node) -> tuple[tuple[str, object], ...]:
    """The share of the multiply-adds that is left where the weight has structural zeros."""
    if node.op != "nn.conv2d" or not is_constant(node.operands[1]):
        return ()
    left = share(node.operands[1].value.numpy())  # type: ignore[attr-defined]
    return () if left == 1.0 else ((NONZERO, round(left, 6)),)


def _attrs(node: Node) -> tuple[tuple[str, object], ...]:
    if node.op == "clip":
        low, high = (float(v.value) for v in node.expr.args[1:])
        return (("min", low), ("max", high))
    names = _NUMBERS.get(node.op)
    if names is None:
        return () if node.attrs is None else (("attrs", str(node.attrs)),)
    return tuple((name, _plain(getattr(node.attrs, name))) for name in names)


def _plain(value: object) -> object:
    if hasattr(value, "__len__"):
        return tuple(int(v) for v in value)  # type: ignore[attr-defined]
    return value if isinstance(value, bool) or value is None else int(value)  # type: ignore[call-overload]
