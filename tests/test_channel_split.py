"""ChannelSplit: what it writes for each kind of block, which cuts it offers, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from graph_nets import Expected, Net, evaluate, graph_of, random_inputs, relative_error
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.passes.channel_split import ChannelSplit
from syncnas_tvm.plan import Decision

op = relax.op


def split(graph: RegionGraph, share: float = 0.5, region: str = "r0") -> tvm.IRModule:
    rule = ChannelSplit()
    decision = Decision.of(region, rule.name, gpu_share=share)
    return rule.rewrite(graph.mod, graph, graph.region(region), decision)


def shares(graph: RegionGraph, region: str = "r0") -> list[float]:
    found = ChannelSplit().variants(graph, graph.region(region))
    return [decision.param("gpu_share") for decision in found]


def one_region(body: Callable[[Net, relax.Var], relax.Expr], **net: int) -> RegionGraph:
    graph = graph_of(body, **net)
    assert graph.names == ("r0",)
    return graph


def inverted(e: Expected, x: relax.Expr, part: slice, expand: bool = True) -> relax.Expr:
    """Expand and depthwise on some of the expanded channels, projected: a partial sum."""
    y = e.relu6(e.biased(x, "expand", part)) if expand else x
    y = e.relu6(e.biased(y, "depthwise", part))
    return e.conv(y, "project", into=part)


@pytest.mark.parametrize(
    ("kernel", "stride"), [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)], ids=lambda v: str(v)
)
def test_mbconv(kernel: int, stride: int) -> None:
    """Bias and residual are added on the CPU lane only; the GPU lane goes first."""
    graph = one_region(lambda n, x: n.mbconv(x, 24, 8, kernel, stride), channels=8)
    e = Expected(graph)

    def cpu(x: relax.Var) -> relax.Expr:
        y = e.bias(inverted(e, x, slice(0, 16)), "project")
        return e.add(x, y) if stride == 1 else y

    def body(x: relax.Var) -> relax.Expr:
        (gpu_sum,) = e.lane("gpu", 0, [x], lambda x: inverted(e, x, slice(16, 24)))
        (cpu_sum,) = e.lane("cpu", 0, [x], cpu)
        return e.join(0, [cpu_sum, gpu_sum])

    tvm.ir.assert_structural_equal(split(graph, 1 / 3), e.module(body))


def test_the_share_is_the_gpus() -> None:
    graph = one_region(lambda n, x: n.mbconv(x, 32, 12, residual=False), channels=8)
    e = Expected(graph)

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: inverted(e, x, slice(8, 32)))
        (a,) = e.lane("cpu", 0, [x], lambda x: e.bias(inverted(e, x, slice(0, 8)), "project"))
        return e.join(0, [a, b])

    tvm.ir.assert_structural_equal(split(graph, 0.75), e.module(body))
    with pytest.raises(ValueError, match="StructuralEqual"):
        tvm.ir.assert_structural_equal(split(graph, 0.25), e.module(body))


@pytest.mark.parametrize("where", ["before", "after"])
def test_squeeze_and_excite(where: str) -> None:
    """The first dense layer of the gate is a partial sum: one small sync inside."""
    graph = one_region(lambda n, x: n.mbconv(x, 32, 8, se=where, squeezed=4), channels=8)
    e = Expected(graph)

    def first(x: relax.Expr, part: slice, bias: bool) -> tuple[relax.Expr, relax.Expr]:
        y = e.biased(e.relu6(e.biased(x, "expand", part)), "depthwise", part)
        y = e.relu6(y) if where == "after" else y
        squeezed = e.conv(e.emit(op.mean(y, [2, 3], True)), "reduce", into=part)
        return y, e.bias(squeezed, "reduce") if bias else squeezed

    def second(y: relax.Expr, squeezed: relax.Expr, part: slice) -> relax.Expr:
        gate = e.emit(op.sigmoid(e.biased(e.relu(squeezed), "expand_gate", part)))
        y = e.emit(op.multiply(y, gate))
        y = e.relu6(y) if where == "before" else y
        return e.conv(y, "project", into=part)

    cpu, gpu = slice(0, 16), slice(16, 32)

    def cpu_second(s: relax.Expr, y: relax.Expr, x: relax.Expr) -> relax.Expr:
        return e.add(x, e.bias(second(y, s, cpu), "project"))

    def body(x: relax.Var) -> relax.Expr:
        gpu_y, gpu_s = e.lane("gpu", 0, [x], lambda x: first(x, gpu, False))
        cpu_y, cpu_s = e.lane("cpu", 0, [x], lambda x: first(x, cpu, True))
        squeezed = e.join(0, [cpu_s, gpu_s])
        (b,) = e.lane("gpu", 1, [squeezed, gpu_y], lambda s, y: second(y, s, gpu))
        (a,) = e.lane("cpu", 1, [squeezed, cpu_y, x], cpu_second)
        return e.join(1, [a, b])

    tvm.ir.assert_structural_equal(split(graph), e.module(body))


def test_first_block_without_expansion() -> None:
    """The stem is cut by output channel: it is what produces the channels."""
    graph = one_region(lambda n, x: n.mbconv(n.relu6(n.conv(x, 16, 3, 2, "stem")), 0, 12))
    e = Expected(graph)

    def lane(x: relax.Expr, part: slice) -> relax.Expr:
        return inverted(e, e.relu6(e.biased(x, "stem", part)), part, expand=False)

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: lane(x, slice(8, 16)))
        (a,) = e.lane("cpu", 0, [x], lambda x: e.bias(lane(x, slice(0, 8)), "project"))
        return e.join(0, [a, b])

    tvm.ir.assert_structural_equal(split(graph), e.module(body))


def test_residual_around_a_block_without_expansion() -> None:
    """The stem feeds the residual too, so it stays whole; each lane slices the block's input."""
    graph = graph_of(lambda n, x: n.mbconv(n.relu6(n.conv(x, 16, 3, 2, "stem")), 0, 16))
    assert [region.nodes[0] for region in graph.regions] == ["stem", "depthwise"]
    alone = one_region(lambda n, x: n.mbconv(x, 0, 16), channels=16)
    e = Expected(alone)

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane(
            "gpu",
            0,
            [x],
            lambda x: inverted(e, e.slice(x, slice(8, 16)), slice(8, 16), expand=False),
        )

        def cpu(x: relax.Var) -> relax.Expr:
            y = inverted(e, e.slice(x, slice(0, 8)), slice(0, 8), expand=False)
            return e.add(x, e.bias(y, "project"))

        (a,) = e.lane("cpu", 0, [x], cpu)
        return e.join(0, [a, b])

    tvm.ir.assert_structural_equal(split(alone), e.module(body))
    # In its place behind the stem it is split in the same way.
    assert shares(graph, "r1") == shares(alone)


def test_basic_block_with_downsample() -> None:
    """The shortcut's convolution is a partial sum too; the last activation is part of the join."""
    graph = one_region(lambda n, x: n.basic(x, 32, 2), channels=16)
    e = Expected(graph)

    def lane(x: relax.Expr, inner: slice, outer: slice, bias: bool) -> relax.Expr:
        y = e.conv(e.relu(e.biased(x, "first", inner)), "second", into=inner)
        y = e.bias(y, "second") if bias else y
        shortcut = e.conv(e.slice(x, outer), "downsample", into=outer)
        return e.add(y, e.bias(shortcut, "downsample") if bias else shortcut)

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: lane(x, slice(16, 32), slice(8, 16), False))
        (a,) = e.lane("cpu", 0, [x], lambda x: lane(x, slice(0, 16), slice(0, 8), True))
        return e.join(0, [a, b], lambda a, b: e.relu(e.add(a, b)))

    tvm.ir.assert_structural_equal(split(graph), e.module(body))


def test_mixed_depthwise_kernels() -> None:
    """Each group of channels is cut by itself, so each lane has some of every kernel size."""
    graph = one_region(lambda n, x: n.mix(x, 32, 12, (3, 5)), channels=8)
    e = Expected(graph)

    def lane(x: relax.Expr, begin: int) -> relax.Expr:
        ranges = [slice(begin, begin + 8), slice(16 + begin, 24 + begin)]
        expand, bias, project = (
            relax.const(_columns(e, name, ranges, axis))
            for name, axis in (("expand", 0), ("expand_bias", 1), ("project", 1))
        )
        y = e.relu(e.add(e.emit(op.nn.conv2d(x, expand)), bias))
        parts = []
        for i, name in enumerate(("depthwise", "depthwise1")):
            part = e.slice(y, slice(8 * i, 8 * i + 8))
            inner = slice(begin, begin + 8)
            part = e.conv(part, name, inner)
            bias = e.constant("depthwise_bias" + "1" * i, slice(None), inner)
            parts.append(e.add(part, bias))
        y = e.relu(e.emit(op.concat(parts, 1)))
        return e.emit(op.nn.conv2d(y, project))

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: lane(x, 8))
        (a,) = e.lane("cpu", 0, [x], lambda x: e.bias(lane(x, 0), "project"))
        return e.join(0, [a, b])

    tvm.ir.assert_structural_equal(split(graph), e.module(body))


def test_mixed_depthwise_kernels_without_expansion() -> None:
    """What is sliced out of the whole input is sliced once: each lane takes its own part of it."""
    graph = one_region(lambda n, x: n.mix(x, 0, 12, (3, 5)), channels=32)
    e = Expected(graph)

    def lane(x: relax.Expr, begin: int) -> relax.Expr:
        inner = slice(begin, begin + 8)
        parts = []
        for i, name in enumerate(("depthwise", "depthwise1")):
            part = e.slice(x, slice(16 * i + begin, 16 * i + begin + 8))
            bias = e.constant("depthwise_bias" + "1" * i, slice(None), inner)
            parts.append(e.add(e.conv(part, name, inner), bias))
        y = e.relu(e.emit(op.concat(parts, 1)))
        ranges = [inner, slice(16 + begin, 24 + begin)]
        return e.emit(op.nn.conv2d(y, relax.const(_columns(e, "project", ranges, 1))))

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: lane(x, 8))
        (a,) = e.lane("cpu", 0, [x], lambda x: e.bias(lane(x, 0), "project"))
        return e.join(0, [a, b])

    tvm.ir.assert_structural_equal(split(graph), e.module(body))


def _columns(e: Expected, name: str, ranges: list[slice], axis: int) -> np.ndarray:
    array = e.constant(name).value.numpy()
    index = np.concatenate([np.arange(r.start, r.stop) for r in ranges])
    return np.ascontiguousarray(np.take(array, index, axis))


def test_partial_residual() -> None:
    """Slices and concatenations of a partial sum are partial sums; the input is added once."""
    graph = one_region(lambda n, x: n.rexnet(x, 32, 12), channels=8)
    e = Expected(graph)

    def widened(y: relax.Expr, x: relax.Expr | None) -> relax.Expr:
        front = e.slice(y, slice(0, 8))
        front = front if x is None else e.add(front, x)
        return e.emit(op.concat([front, e.slice(y, slice(8, 12))], 1))

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: widened(inverted(e, x, slice(16, 32)), None))
        (a,) = e.lane(
            "cpu",
            0,
            [x],
            lambda x: widened(e.bias(inverted(e, x, slice(0, 16)), "project"), x),
        )
        return e.join(0, [a, b])

    tvm.ir.assert_structural_equal(split(graph), e.module(body))


def test_head() -> None:
    """From the last convolution to the classifier, with one sync of its scores."""
    graph = one_region(lambda n, x: n.head(x, 32, 10), channels=8)
    e = Expected(graph)

    def lane(x: relax.Expr, part: slice) -> relax.Expr:
        y = e.emit(op.mean(e.relu6(e.biased(x, "head", part)), [2, 3], True))
        y = e.emit(op.reshape(y, (1, 16)))
        return e.emit(op.matmul(y, e.constant("classifier", part)))

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: lane(x, slice(16, 32)))
        (a,) = e.lane(
            "cpu", 0, [x], lambda x: e.add(lane(x, slice(0, 16)), e.constant("classifier_bias"))
        )
        return e.join(0, [a, b])

    tvm.ir.assert_structural_equal(split(graph), e.module(body))


def concat(e: Expected, axis: int = 1) -> Callable[..., relax.Expr]:
    return lambda *parts: e.emit(op.concat(parts, axis))


def test_a_lone_convolution() -> None:
    """Nothing to contract: each lane has some of the output's channels, whole."""
    graph = one_region(lambda n, x: n.relu6(n.conv(x, 24, 3, 2, "stem")))
    e = Expected(graph)

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: e.relu6(e.biased(x, "stem", slice(16, 24))))
        (a,) = e.lane("cpu", 0, [x], lambda x: e.relu6(e.biased(x, "stem", slice(0, 16))))
        return e.join(0, [a, b], concat(e), "concat")

    tvm.ir.assert_structural_equal(split(graph, 1 / 3), e.module(body))
    half = ChannelSplit().work(graph, graph.region("r0"), Decision.of("r0", "", gpu_share=1 / 3))
    (phase,) = half.phases
    assert phase.output.kind == "concat"
    assert (phase.output.cpu_bytes, phase.output.gpu_bytes) == (16 * 64 * 4, 8 * 64 * 4)


def test_a_lone_dense_layer() -> None:
    def dense(n: Net, x: relax.Var) -> relax.Var:
        y = n.emit(op.reshape(n.mean(x), (1, 32)), "flat")
        return n.emit(op.add(n.emit(op.matmul(y, n.weights(32, 24)), "fc"), n.weights(24)), "bias")

    graph = one_region(dense, channels=32)
    e = Expected(graph)

    def lane(x: relax.Expr, part: slice) -> relax.Expr:
        y = e.emit(op.reshape(e.emit(op.mean(x, [2, 3], True)), (1, 32)))
        y = e.emit(op.matmul(y, e.constant("fc", slice(None), part)))
        return e.add(y, e.constant("bias", part))

    def body(x: relax.Var) -> relax.Expr:
        (b,) = e.lane("gpu", 0, [x], lambda x: lane(x, slice(16, 24)))
        (a,) = e.lane("cpu", 0, [x], lambda x: lane(x, slice(0, 16)))
        return e.join(0, [a, b], concat(e), "concat")

    tvm.ir.assert_structural_equal(split(graph, 1 / 3), e.module(body))


def test_the_expanded_channels_come_before_the_results() -> None:
    """A block that widens has more work in its projection, but cutting that would divide less."""
    graph = one_region(lambda n, x: n.mbconv(x, 32, 64, stride=2), channels=8)
    work = ChannelSplit().work(graph, graph.region("r0"), Decision.of("r0", "", gpu_share=0.5))
    assert [phase.output.kind for phase in work.phases] == ["sum"]


def test_parallel_channels_of_the_result_keep_their_order() -> None:
    """Two convolutions side by side, concatenated: each is cut, the parts are put in order."""

    def fire(n: Net, x: relax.Var) -> relax.Var:
        parts = [n.relu(n.conv(x, 16, 1, name="one")), n.relu(n.conv(x, 16, 3, name="three"))]
        return n.emit(op.concat(parts, 1), "side_by_side")

    graph = one_region(fire, channels=8)
    join = split(graph)["r0_join0"]
    slices = [n.shape[1] for n in Dataflow(join).nodes if n.op == "strided_slice"]
    assert slices == [8, 8, 8, 8]
    inputs = random_inputs(graph.mod)
    for share in shares(graph):
        found = evaluate(split(graph, share), inputs)[0]
        assert relative_error(found, evaluate(graph.mod, inputs)[0]) <= 1e-6


def test_mlp_of_a_transformer() -> None:
    """The hidden features are cut; tokens and features of the trunk stay whole."""

    graph = one_region(lambda n, x: n.mlp(x, 96), channels=24, size=8)
    work = ChannelSplit().work(graph, graph.region("r0"), Decision.of("r0", "", gpu_share=0.25))
    (phase,) = work.phases
    assert phase.output.kind == "sum"
    dense = [k.shapes[1] for k in work.kernels("gpu") if k.op == "matmul"]
    assert dense == [(24, 24), (24, 24)], "a quarter of 96 hidden features"
    inputs = random_inputs(graph.mod)
    found = evaluate(split(graph, 0.25), inputs)[0]
    assert relative_error(found, evaluate(graph.mod, inputs)[0]) <= 1e-6


# Which cuts there are.


def test_cuts_keep_the_step() -> None:
    """Shares in sixteenths; those that cut at the same channels are listed once."""
    wide = one_region(lambda n, x: n.mbconv(x, 256, 8), channels=8)
    assert shares(wide) == [i / 16 for i in range(1, 16)]
    # 24 channels in steps of 8 can be cut at 8 and at 16 only.
    narrow = one_region(lambda n, x: n.mbconv(x, 24, 8), channels=8)
    assert shares(narrow) == [0.0625, 0.5]
    coarse = graph_of(lambda n, x: n.mbconv(x, 96, 8), step=32, channels=8)
    assert shares(coarse) == [0.0625, 0.5]


def test_channels_below_the_step_are_cut_in_smaller_steps() -> None:
    graph = graph_of(lambda n, x: n.mbconv(x, 6, 3), step=16)
    for decision in ChannelSplit().variants(graph, graph.region("r0")):
        share = decision.param("gpu_share")
        work = ChannelSplit().work(graph, graph.region("r0"), decision)
        # The first kernel of each lane is the expand convolution.
        widths = [work.kernels(lane)[0].shapes[-1][1] for lane in ("cpu", "gpu")]
        assert sum(widths) == 6, share
        assert min(widths) > 0, share
    assert len(shares(graph)) > 0


def test_all_decisions_are_offered_and_differ() -> None:
    graph = one_region(lambda n, x: n.mbconv(x, 96, 8, se="after"), channels=8)
    rule, region = ChannelSplit(), graph.region("r0")
    works = [rule.work(graph, region, decision) for decision in rule.variants(graph, region)]
    widths = [work.kernels("gpu")[0].shapes[-1][1] for work in works]
    assert widths == sorted(set(widths))
    assert len(widths) == 11
    assert all(width % 8 == 0 for width in widths)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda n, x: n.relu(n.mean(x)), "nothing to divide"),
        (lambda n, x: n.emit(op.nn.softmax(n.mean(x), 1)), "nothing to divide"),
    ],
    ids=["pooling", "softmax"],
)
def test_does_not_apply(body: Callable[[Net, relax.Var], relax.Expr], why: str) -> None:
    graph = one_region(body)
    region = graph.region("r0")
    assert not ChannelSplit().applies(graph, region), why
    assert ChannelSplit().variants(graph, region) == []
    with pytest.raises(PlanError, match=r"region 'r0' cannot be split by channels; use Place"):
        split(graph)


def test_a_region_with_two_outputs_is_not_split() -> None:
    def body(n: Net, x: relax.Var) -> list[relax.Expr]:
        y = n.mbconv(x, 24, 8)
        return [y, n.relu(y)]

    graph = graph_of(body, channels=8)
    last = graph.regions[-1]
    assert len(last.out_shapes) == 2
    assert not ChannelSplit().applies(graph, last)


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.25, "half", None])
def test_shares_out_of_range(share: object) -> None:
    graph = one_region(lambda n, x: n.mbconv(x, 24, 8), channels=8)
    with pytest.raises(PlanError, match=r"'r0': gpu_share is .*; use a number between 0 and 1"):
        split(graph, share)


def test_a_decision_without_share() -> None:
    graph = one_region(lambda n, x: n.mbconv(x, 24, 8), channels=8)
    with pytest.raises(PlanError, match=r"ChannelSplit on r0 has no parameter 'gpu_share'"):
        ChannelSplit().rewrite(
            graph.mod, graph, graph.region("r0"), Decision.of("r0", "ChannelSplit")
        )


# What the timeline is told.


def test_work() -> None:
    """Kernels and phases as written; the inner sync is of the squeezed channels."""
    graph = one_region(lambda n, x: n.mbconv(x, 32, 8, se="after", squeezed=4), channels=8, size=8)
    rule = ChannelSplit()
    decision = Decision.of("r0", rule.name, gpu_share=0.25)
    first, second = rule.work(graph, graph.region("r0"), decision).phases
    assert [k.name.rstrip("1") for k in first.cpu] == ["expand", "depthwise", "mean", "reduce"]
    assert [k.shapes[-1][1] for k in first.cpu] == [24, 24, 24, 4]
    assert [k.shapes[-1][1] for k in first.gpu] == [8, 8, 8, 4]
    assert first.output.kind == "sum"
    assert (first.output.cpu_bytes, first.output.gpu_bytes) == (4 * 4, 4 * 4)
    assert [k.shapes[-1][1] for k in second.gpu if k.op == "nn.conv2d"] == [8, 8]
    assert second.output.kind == "sum"
    assert (second.output.cpu_bytes, second.output.gpu_bytes) == (8 * 64 * 4, 8 * 64 * 4)


def test_bad_names_are_refused() -> None:
    graph = one_region(lambda n, x: n.mbconv(x, 24, 8), channels=8)
    with pytest.raises(PlanError, match=r"no region 'r7' in this model; it has r0 to r0"):
        split(graph, region="r7")
