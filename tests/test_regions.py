"""The region finder: how many regions there are, where they begin and end, and what they say."""

from __future__ import annotations

from itertools import pairwise

import graph_nets
import numpy as np
import onnx
import pytest
import tvm
import zoo
from graph_nets import Net, graph_of
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from syncnas_tvm.errors import ModelError, PlanError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.rebuild import emit_function
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.regions import find_segments, gates
from syncnas_tvm.passes.rule import rule

op = relax.op


def starts(graph: RegionGraph) -> list[str]:
    """The first node of each region."""
    return [region.nodes[0] for region in graph.regions]


def splits(graph: RegionGraph) -> list[bool]:
    return [rule("ChannelSplit").applies(graph, region) for region in graph.regions]


# Boundaries.


def test_a_region_per_block() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        x = n.mbconv(n.relu6(n.conv(x, 16, 3, 2, "stem")), 0, 8)
        for _ in range(3):
            x = n.mbconv(x, 24, 8)
        return n.head(x, 32, 10)

    graph = graph_of(body)
    # The stem produces the channels of the first block, which has no expansion of its own.
    assert starts(graph) == ["stem", "expand", "expand1", "expand2", "head"]
    assert splits(graph) == [True] * 5


@pytest.mark.parametrize("se", ["", "before", "after"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_one_region_whatever_is_in_it(se: str, stride: int) -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        x = n.mbconv(n.relu6(n.conv(x, 8, name="stem")), 24, 8, 5, stride, se)
        return n.mbconv(x, 24, 12, 3, 1, se)

    assert starts(graph_of(body)) == ["stem", "expand", "expand1"]


def test_unknown_channelwise_operators_are_in_the_block() -> None:
    """No pattern is matched: what is between expand and project does not matter."""

    def body(n: Net, x: relax.Var) -> relax.Expr:
        y = n.emit(op.tanh(n.conv(x, 24, name="expand")))
        y = n.emit(op.multiply(y, relax.const(2.0)))
        y = n.depthwise(n.depthwise(y, 7), 3, 2)
        y = n.emit(op.nn.max_pool2d(y, (3, 3), (1, 1), (1, 1, 1, 1)))
        return n.relu(n.conv(y, 8, name="project"))

    graph = graph_of(body, channels=8)
    assert starts(graph) == ["expand"]
    assert splits(graph) == [True]


def test_a_channel_shuffle_ends_what_can_be_cut() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        y = n.relu(n.conv(x, 16, name="first"))
        y = n.emit(op.reshape(y, (1, 2, 8, 16, 16)))
        y = n.emit(op.permute_dims(y, [0, 2, 1, 3, 4]), "swapped")
        y = n.emit(op.reshape(y, (1, 16, 16, 16)), "shuffled")
        return n.conv(y, 8, name="second")

    graph = graph_of(body, channels=8)
    assert "swapped" in graph.regions[0].nodes
    cut = rule("ChannelSplit")._states(graph, graph.regions[0]).classes
    assert all(cut.cut(node.var) is None for node in cut.flow.nodes[:5])


def test_what_has_no_convolution_goes_with_what_it_follows() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        x = n.emit(op.multiply(x, relax.const(0.5)), "scaled")
        x = n.mbconv(x, 24, 12)
        return n.relu(n.emit(op.tanh(x)))

    graph = graph_of(body, channels=8)
    assert starts(graph) == ["scaled"]


def test_fork_and_join_are_one_region() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        x = n.relu(n.conv(x, 12, name="stem"))
        a, b = n.conv(x, 8, 3, name="left"), n.conv(n.relu(n.conv(x, 16)), 8, name="right")
        return n.conv(n.relu(n.emit(op.concat([a, b], 1))), 8, name="last")

    graph = graph_of(body)
    for region in graph.regions:
        assert len(region.in_shapes) == 1
        assert len(region.out_shapes) == 1
    inside = next(r for r in graph.regions if "left" in r.nodes)
    assert "right" in inside.nodes


def test_gates_are_where_all_paths_meet() -> None:
    net = Net(8)
    mod = net.build(lambda x: net.relu(net.mbconv(net.relu(net.conv(x, 8)), 24, 8)))
    flow = Dataflow(mod["main"])
    names = [node.name for node in gates(flow)]
    # Inside of the block the residual runs beside everything else.
    assert names == ["conv", "conv_bias", "relu", "residual"]


def test_segments_cover_every_node_once_in_order() -> None:
    net = Net()
    mod = net.build(lambda x: net.head(net.basic(net.basic(x, 16), 24, 2), 32, 10))
    flow = Dataflow(mod["main"])
    nodes = [node for segment in find_segments(flow) for node in segment.nodes]
    assert nodes == flow.nodes


# The graph.


def test_outlining() -> None:
    """Each region becomes a private function; ``main`` calls them in order."""
    net = Net(8, 4)
    mod = net.build(lambda x: net.mbconv(net.relu(net.conv(x, 8)), 24, 12, residual=False))
    graph = RegionGraph(mod, 8)

    builder = relax.BlockBuilder()
    constants = [
        binding.value.args[1]
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and len(binding.value.args) == 2
    ]
    conv, bias, expand, expand_bias, depthwise, depthwise_bias, project, project_bias = constants
    type_ = relax.TensorType((1, 8, 4, 4), "float32")

    def add_region(name: str, body) -> tvm.ir.GlobalVar:
        x = relax.Var("x", type_)
        return emit_function(builder, name, [x], lambda: [body(x)], {"syncnas.region": name})

    def first(x: relax.Expr) -> relax.Expr:
        return builder.emit(
            op.nn.relu(builder.emit(op.add(builder.emit(op.nn.conv2d(x, conv)), bias)))
        )

    def second(x: relax.Expr) -> relax.Expr:
        y = builder.emit(op.add(builder.emit(op.nn.conv2d(x, expand)), expand_bias))
        y = builder.emit(op.clip(y, 0, 6))
        y = builder.emit(op.nn.conv2d(y, depthwise, padding=(1, 1), groups=24))
        y = builder.emit(op.clip(builder.emit(op.add(y, depthwise_bias)), 0, 6))
        return builder.emit(op.add(builder.emit(op.nn.conv2d(y, project)), project_bias))

    r0, r1 = add_region("r0", first), add_region("r1", second)
    x = relax.Var("x", type_)

    def main() -> list[relax.Expr]:
        return [builder.emit(relax.Call(r1, [builder.emit(relax.Call(r0, [x]))]))]

    emit_function(builder, "main", [x], main, {"num_input": 1}, private=False)
    tvm.ir.assert_structural_equal(graph.mod, builder.get())


def test_what_a_region_says_of_itself() -> None:
    graph = graph_of(lambda n, x: n.mbconv(x, 24, 12, stride=2), channels=8, size=6)
    (region,) = graph.regions
    assert region.in_shapes == ((1, 8, 6, 6),)
    assert region.out_shapes == ((1, 12, 3, 3),)
    assert region.macs == 24 * 8 * 36 + 24 * 9 * 9 + 12 * 24 * 9
    weights = 24 * 8 + 24 + 24 * 9 + 24 + 12 * 24 + 12
    assert (region.weight_bytes, region.in_bytes, region.out_bytes) == (
        4 * weights,
        4 * 8 * 36,
        4 * 12 * 9,
    )


def test_digraph() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        return n.mbconv(n.mbconv(x, 24, 12, stride=2), 24, 12)

    graph = graph_of(body, channels=8, size=6)
    assert list(graph.digraph.edges(data="bytes")) == [("r0", "r1", 4 * 12 * 9)]
    assert graph.digraph.nodes["r1"]["region"] is graph.region("r1")


def test_names_have_the_same_width() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        for _ in range(11):
            x = n.mbconv(x, 16, 8)
        return x

    assert graph_of(body, channels=8, size=4).names[:2] == ("r00", "r01")


def test_an_unknown_region() -> None:
    graph = graph_of(lambda n, x: n.mbconv(n.mbconv(x, 16, 8), 16, 8), channels=8)
    with pytest.raises(PlanError, match="no region 'r9' in this model; it has r0 to r1"):
        graph.region("r9")


def test_several_outputs_leave_from_the_last_region() -> None:
    def body(n: Net, x: relax.Var) -> list[relax.Expr]:
        y = n.mbconv(x, 24, 8)
        return [n.mbconv(n.mbconv(y, 24, 8), 24, 12), y]

    graph = graph_of(body, channels=8)
    assert graph.regions[-1].out_shapes == ((1, 12, 16, 16), (1, 8, 16, 16))
    # It is needed to the end, so there is no boundary between the blocks behind it.
    assert [len(region.in_shapes) for region in graph.regions] == [1, 1]


def test_dynamic_shapes_are_refused() -> None:
    builder = relax.BlockBuilder()
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 8), "float32"))
    body = lambda: [builder.emit(op.nn.relu(x), name_hint="first")]  # noqa: E731
    emit_function(builder, "main", [x], body, {}, private=False)
    with pytest.raises(ModelError, match=r"'first' \(nn.relu\): its shape is not static"):
        RegionGraph(builder.get(), 8)


def test_a_model_without_any_convolution(tmp_path) -> None:
    info = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones((4, 4), "float32"), "w")
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["y", "w"], ["z"])],
        "g",
        [info("x", TensorProto.FLOAT, [4, 4])],
        [info("z", TensorProto.FLOAT, [4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    regions = RegionGraph(import_onnx(tmp_path / "m.onnx").mod, 8)
    assert regions.names == ("r0",)
    assert splits(regions) == [False]


# The zoo: how many regions, and phases of each when it is split by channels, which all can be
# (squeeze-and-excite has two; a stem alone is cut by its output channels).
ZOO = {
    "mobilenet_v2": (18, [1] * 18),
    "mnasnet_b1": (18, [1] * 18),
    "fbnet_c": (23, [1] * 23),
    "single_path_nas": (22, [1] * 22),
    "mobilenet_v3_large": (18, [1] * 4 + [2] * 3 + [1] * 4 + [2] * 5 + [1] * 2),
    "efficientnet_b0": (17, [2] * 16 + [1]),
    "mixnet_m": (21, [1] * 4 + [2] * 16 + [1]),
    "rexnet_1_0": (17, [1] * 3 + [2] * 13 + [1]),
    # The last stage's trunk is cut: two blocks and the classifier are one region.
    "resnet18": (8, [1] * 7 + [3]),
    "efficientnet_lite0": (17, [1] * 17),
}


@pytest.mark.parametrize("name", ZOO)
def test_regions_of_the_zoo(name: str) -> None:
    size = 224 if name in zoo.TRAINED_MODELS else 64
    graph = RegionGraph(import_onnx(zoo.export(name, size=size)).mod, 16)
    count, phases = ZOO[name]
    assert len(graph.regions) == count
    found = rule("ChannelSplit")
    assert all(found.applies(graph, region) for region in graph.regions)
    works = [
        found.work(graph, region, found.variants(graph, region)[0]) for region in graph.regions
    ]
    assert [len(work.phases) for work in works] == phases
    for before, after in pairwise(graph.regions):
        assert before.out_shapes == after.in_shapes


def test_the_zoo_outlined_means_the_same() -> None:
    model = import_onnx(zoo.export("rexnet_1_0", size=32))
    graph = RegionGraph(model.mod, 8)
    inputs = graph_nets.random_inputs(model.mod)
    (found,) = graph_nets.evaluate(graph.mod, inputs)
    (expected,) = graph_nets.evaluate(model.mod, inputs)
    np.testing.assert_array_equal(found, expected)
