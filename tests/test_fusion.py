"""Which operators are one kernel: what the timeline predicts is what is built."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import tvm
import zoo
from graph_nets import Net, all_plans, graph_of
from tvm import relax

from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.fusion import groups_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lowering import lowering_passes
from syncnas_tvm.passes.apply_plan import ApplyPlan
from syncnas_tvm.passes.assign_kernels import AssignKernels
from syncnas_tvm.passes.insert_transfers import InsertTransfers
from syncnas_tvm.passes.pack_lanes import PackLanes
from syncnas_tvm.targets import load_target
from syncnas_tvm.work import Epilogue, Kernel

op = relax.op


def kernels(body: Callable[[Net, relax.Var], relax.Expr], **net: int) -> list[tuple[str, ...]]:
    """The operators of each kernel."""
    graph = graph_of(body, **net)
    groups = [g for name in graph.names for g in groups_of(graph.function(name), "cpu")]
    return [tuple(node.op.removeprefix("nn.") for node in group.nodes) for group in groups]


def test_epilogues() -> None:
    found = kernels(lambda n, x: n.mbconv(x, 24, 8, se="after"), channels=8)
    assert found == [
        ("conv2d", "add", "clip"),
        ("conv2d", "add", "clip"),
        ("mean",),
        ("conv2d", "add", "relu"),
        ("conv2d", "add", "sigmoid"),
        ("multiply",),
        ("conv2d", "add", "add"),
    ]


def test_swish_written_out_is_one_kernel() -> None:
    """Two paths leave the bias and meet again in the multiplication."""

    def body(n: Net, x: relax.Var) -> relax.Expr:
        y = n.conv(x, 8)
        return n.emit(op.multiply(y, n.emit(op.sigmoid(y))))

    assert kernels(body) == [("conv2d", "add", "sigmoid", "multiply")]


def test_a_value_that_two_kernels_read_ends_the_kernel() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        y = n.conv(x, 8, bias=False)
        return n.emit(op.add(n.relu(y), n.emit(op.nn.max_pool2d(y, (3, 3), (1, 1), (1, 1, 1, 1)))))

    assert kernels(body)[0] == ("conv2d",)


def test_views_are_no_kernels() -> None:
    found = kernels(lambda n, x: n.head(x, 16, 10), channels=8)
    assert found == [("conv2d", "add", "clip"), ("mean",), ("matmul", "add")]


def test_a_kernel_says_what_it_is() -> None:
    graph = graph_of(lambda n, x: n.mbconv(x, 24, 8, stride=2), channels=8, size=6)
    _, depthwise, _ = groups_of(graph.function("r0"), "gpu")
    assert depthwise.kernel == Kernel(
        "nn.conv2d",
        ((1, 24, 6, 6), (24, 1, 3, 3), (1, 24, 3, 3)),
        "float32",
        "gpu",
        (
            ("strides", (2, 2)),
            ("padding", (1, 1, 1, 1)),
            ("dilation", (1, 1)),
            ("groups", 24),
        ),
        (
            Epilogue("add", ((1, 24, 1, 1),)),
            Epilogue("clip", (), (("min", 0.0), ("max", 6.0))),
        ),
    )


def test_equal_kernels_are_one_whatever_their_weights_and_names() -> None:
    graph = graph_of(lambda n, x: n.mbconv(n.mbconv(x, 24, 8), 24, 8), channels=8)
    first, second = (
        [g.kernel for g in groups_of(graph.function(name), "cpu")] for name in graph.names
    )
    assert first == second
    assert [k.name for k in first] != [k.name for k in second]


def test_a_group_alone_is_a_function_of_its_inputs() -> None:
    graph = graph_of(lambda n, x: n.mbconv(x, 24, 8), channels=8, size=4)
    project = groups_of(graph.function("r0"), "cpu")[-1]
    function = project.function()
    shapes = [tuple(int(n) for n in p.ty.shape) for p in function.params]
    # The expanded channels, and the block's input for the residual.
    assert shapes == [(1, 24, 4, 4), (1, 8, 4, 4)]
    assert tuple(int(n) for n in function.ret_ty.shape) == (1, 8, 4, 4)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "mixnet_m", "resnet18"])
def test_as_many_kernels_are_built(name: str) -> None:
    """Lane function by lane function; changes of layout and views are not counted."""
    target = load_target("rk3399")
    graph = RegionGraph(import_onnx(zoo.export(name, size=32)).mod, 8)
    plan = next(p for p in all_plans(graph) if any(d.rule == "ChannelSplit" for d in p.decisions))
    mod = InsertTransfers()(ApplyPlan(graph, plan)(graph.mod))
    predicted = {
        gv.name_hint: len(groups_of(function, "cpu"))
        for gv, function in mod.functions_items()
        if LANE_ATTR in (function.attrs or {})
    }
    passes = lowering_passes(target)["kernels"]
    packing = next(i for i, p in enumerate(passes) if isinstance(p, PackLanes))
    assigning = next(i for i, p in enumerate(passes) if isinstance(p, AssignKernels))
    with tvm.transform.PassContext(opt_level=3):
        built = tvm.transform.Sequential(passes[packing:assigning])(mod)
    found = {
        name: sum(not _NO_KERNEL.search(kernel) for kernel in called_by(built[name]))
        for name in predicted
    }
    assert found == predicted
    assert sum(predicted.values()) > len(graph.regions)


_NO_KERNEL = re.compile(r"^(cpu|gpu)_(un)?pack\d*$|^reshape\d*$")


def called_by(function: relax.Function) -> list[str]:
    """Names of the kernels that a lane function calls."""
    calls = (binding.value for block in function.body.blocks for binding in block.bindings)
    return [
        call.args[0].name_hint
        for call in calls
        if getattr(getattr(call, "op", None), "name", "") == "relax.call_tir"
    ]
