"""Convolutions are written with the type that TVM would infer."""

import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm import relax

from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.rebuild import conv2d_like, tensor_type, with_operands

small = st.integers(1, 4)


def convolution(shape: tuple[int, ...], weight: tuple[int, ...], **attrs: object) -> relax.Function:
    """A function of one convolution, its type inferred by TVM."""
    builder = relax.BlockBuilder()
    data, filters = (
        relax.Var(name, tensor_type(s, "float32")) for name, s in (("x", shape), ("w", weight))
    )
    with builder.function("main", [data, filters]):
        with builder.dataflow():
            call = relax.op.nn.conv2d(data, filters, **attrs)
            result = builder.emit_output(builder.emit(call))
        builder.emit_func_output(result)
    return builder.get()["main"]


@given(
    sizes=st.tuples(*[st.integers(1, 19)] * 2),
    window=st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2),
    strides=st.tuples(small, small),
    dilation=st.tuples(*[st.integers(1, 2)] * 2),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    channels=st.tuples(small, small, small),
)
@settings(deadline=None)
def test_its_type_is_the_inferred_one(
    sizes: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    channels: tuple[int, int, int],
) -> None:
    groups, share, out = channels
    pads = (padding[0] + padding[2], padding[1] + padding[3])
    reach = [d * (w - 1) + 1 for d, w in zip(dilation, window, strict=True)]
    assume(all(s + p >= r for s, p, r in zip(sizes, pads, reach, strict=True)))
    function = convolution(
        (2, groups * share, *sizes),
        (groups * out, share, *window),
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    (node,) = Dataflow(function).nodes
    for call in (conv2d_like(node, node.operands), with_operands(node.expr, node.operands)):
        tvm.ir.assert_structural_equal(call.ty, node.var.ty)


def test_tvm_refuses_operands_that_do_not_fit() -> None:
    function = convolution((1, 8, 5, 5), (4, 8, 3, 3))
    (node,) = Dataflow(function).nodes
    wrong = relax.Var("x", tensor_type((1, 6, 5, 5), "float32"))
    builder = relax.BlockBuilder()
    with pytest.raises(Exception, match="channel"):
        builder.normalize(with_operands(node.expr, [wrong, node.operands[1]]))
