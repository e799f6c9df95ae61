"""How a cut of one dimension travels through each operator: the table behind all split rules.

For every operator, three ways in which a dimension can be divided between two lanes:

- *link*: dimension ``in_dim`` of an operand and ``out_dim`` of the output run in step (channels
  through a depthwise convolution, any dimension through an activation);
- *produce*: the output's dimension is cut by cutting constants alone (a convolution's output
  channels);
- *contract*: the operand's dimension is summed over, so that a cut operand gives each lane a
  *partial sum* of the whole output (a convolution's input channels).

``linear`` operators let a partial sum through, because applying them on each lane and adding
afterwards is the same as adding first. An operator that is not in the table needs its operands
whole; :func:`register_cut` adds one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from syncnas_tvm.graph.dataflow import TUPLE_GET_ITEM, Node, is_constant, shape_of


@dataclass(frozen=True)
class Link:
    """``size`` positions of an operand, from ``in_start``, are the output's from ``out_start``."""

    operand: int
    in_dim: int
    out_dim: int
    size: int
    in_start: int = 0
    out_start: int = 0


@dataclass(frozen=True)
class WeightCut:
    """To cut dimension ``dim`` of the data, dimension ``weight_dim`` of the weight is cut."""

    dim: int
    weight_dim: int
    weight: int = 1


@dataclass(frozen=True)
class Cuts:
    """What an operator allows; see the module's docstring."""

    links: tuple[Link, ...] = ()
    produce: WeightCut | None = None
    contract: WeightCut | None = None
    linear: bool = False


_TABLE: dict[str, Callable[[Node], Cuts]] = {}


def register_cut(*ops: str) -> Callable[[Callable[[Node], Cuts]], Callable[[Node], Cuts]]:
    """Add operators (names without ``relax.``) to the table."""

    def register(rule: Callable[[Node], Cuts]) -> Callable[[Node], Cuts]:
        for op in ops:
            _TABLE[op] = rule
        return rule

    return register


def cuts_of(node: Node) -> Cuts:
    """The cuts that ``node`` allows; none for an operator that the table does not know."""
    rule = _TABLE.get(node.op)
    return rule(node) if rule else Cuts()


def _broadcast_links(node: Node) -> tuple[Link, ...]:
    rank = len(node.shape)
    links = []
    for position, operand in enumerate(node.operands):
        shape = shape_of(operand)
        for in_dim, extent in enumerate(shape):
            out_dim = in_dim + rank - len(shape)
            if extent == node.shape[out_dim]:
                links.append(Link(position, in_dim, out_dim, extent))
    return tuple(links)


@register_cut(
    *("nn.relu", "nn.relu6", "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.softplus"),
    *("nn.selu", "clip", "sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "abs", "negative"),
    *("square", "erf", "floor", "ceil", "round", "astype", "nn.dropout"),
    *("maximum", "minimum", "power", "where", "greater", "less", "equal"),
)
def _elementwise(node: Node) -> Cuts:
    return Cuts(links=_broadcast_links(node))


@register_cut("add", "subtract", "multiply", "divide")
def _arithmetic(node: Node) -> Cuts:
    return Cuts(links=_broadcast_links(node), linear=True)


@register_cut("nn.conv2d")
def _conv2d(node: Node) -> Cuts:
    attrs = node.attrs
    weight = shape_of(node.operands[1])
    plain = attrs.data_layout == "NCHW" and attrs.kernel_layout == "OIHW"  # type: ignore[attr-defined]
    if not plain or not is_constant(node.operands[1]):
        return Cuts()
    groups = int(attrs.groups)  # type: ignore[attr-defined]
    if groups == 1:
        return Cuts(produce=WeightCut(1, 0), contract=WeightCut(1, 1))
    if weight[1] == 1 and weight[0] == groups:
        return Cuts(links=(Link(0, 1, 1, groups), Link(1, 0, 1, groups)))
    return Cuts()


@register_cut("matmul")
def _dense(node: Node) -> Cuts:
    data, weight = (shape_of(operand) for operand in node.operands)
    if not is_constant(node.operands[1]) or len(weight) != 2:
        return Cuts()
    kept = tuple(Link(0, dim, dim, extent) for dim, extent in enumerate(data[:-1]))
    last = len(data) - 1
    return Cuts(links=kept, produce=WeightCut(last, 1), contract=WeightCut(last, 0))


@register_cut("mean", "sum", "max", "min")
def _reduction(node: Node) -> Cuts:
    shape = shape_of(node.operands[0])
    axis = node.attrs.axis  # type: ignore[attr-defined]
    reduced = {int(a) % len(shape) for a in (axis if axis is not None else range(len(shape)))}
    keepdims = bool(node.attrs.keepdims)  # type: ignore[attr-defined]
    links, out_dim = [], 0
    for in_dim, extent in enumerate(shape):
        if in_dim not in reduced:
            links.append(Link(0, in_dim, out_dim, extent))
        out_dim += in_dim not in reduced or keepdims
    return Cuts(links=tuple(links), linear=node.op in ("mean", "sum"))


@register_cut("nn.max_pool2d", "nn.avg_pool2d", "nn.adaptive_avg_pool2d", "nn.pad")
def _windowed(node: Node) -> Cuts:
    shape = shape_of(node.operands[0])
    same = tuple(Link(0, d, d, shape[d]) for d in (0, 1) if shape[d] == node.shape[d])
    return Cuts(links=same, linear="avg" in node.op)


@register_cut("nn.softmax", "nn.log_softmax")
def _along_axis(node: Node) -> Cuts:
    axis = int(node.attrs.axis) % len(node.shape)  # type: ignore[attr-defined]
    return Cuts(links=tuple(Link(0, d, d, n) for d, n in enumerate(node.shape) if d != axis))


@register_cut("reshape", "flatten", "squeeze", "expand_dims", "nn.batch_flatten")
def _reshape(node: Node) -> Cuts:
    """A dimension survives where the elements before it and its own extent stay the same."""
    shape = shape_of(node.operands[0])
    outs = {(prod(node.shape[:d]), n): d for d, n in enumerate(node.shape) if n > 1}
    links = tuple(
        Link(0, d, outs[prod(shape[:d]), n], n)
        for d, n in enumerate(shape)
        if (prod(shape[:d]), n) in outs
    )
    return Cuts(links=links, linear=True)


@register_cut("permute_dims")
def _permute(node: Node) -> Cuts:
    rank = len(node.shape)
    axes = node.attrs.axes  # type: ignore[attr-defined]
    order = [int(a) % rank for a in axes] if axes is not None else list(range(rank))[::-1]
    links = tuple(Link(0, d_in, d_out, node.shape[d_out]) for d_out, d_in in enumerate(order))
    return Cuts(links=links, linear=True)


@register_cut("concat")
def _concat(node: Node) -> Cuts:
    axis = int(node.attrs.axis) % len(node.shape)  # type: ignore[attr-defined]
    links, start = [], 0
    for position, operand in enumerate(node.operands):
        for dim, extent in enumerate(shape_of(operand)):
            links.append(Link(position, dim, dim, extent, 0, start if dim == axis else 0))
        start += shape_of(operand)[axis]
    return Cuts(links=tuple(links), linear=True)


@register_cut("split")
def _split(node: Node) -> Cuts:
    return Cuts(links=tuple(Link(0, d, d, n) for d, n in enumerate(node.shape)), linear=True)


@register_cut(TUPLE_GET_ITEM)
def _tuple_get_item(node: Node) -> Cuts:
    axis, start = node.piece
    links = tuple(Link(0, d, d, n, start if d == axis else 0, 0) for d, n in enumerate(node.shape))
    return Cuts(links=links, linear=True)


@register_cut("strided_slice")
def _strided_slice(node: Node) -> Cuts:
    shape = shape_of(node.operands[0])
    begins = slice_begins(node)
    if begins is None:
        return Cuts()
    links = tuple(Link(0, d, d, node.shape[d], begins.get(d, 0), 0) for d in range(len(shape)))
    return Cuts(links=links, linear=True)


def slice_begins(node: Node) -> dict[int, int] | None:
    """First position per sliced axis, or None where a stride is not 1."""
    args = node.expr.args
    axes, begins = ([int(v) for v in fields.fields] for fields in (args[1], args[2]))
    if len(args) > 4 and any(int(v) != 1 for v in args[4].fields):
        return None
    shape = shape_of(node.operands[0])
    rank = len(shape)
    return {
        axis % rank: max(0, begin + shape[axis] if begin < 0 else begin)
        for axis, begin in zip(axes, begins, strict=True)
    }
