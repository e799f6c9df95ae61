"""Place: the whole region as one lane function."""

from __future__ import annotations

import pytest
import tvm
from graph_nets import Net, graph_of
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from syncnas_tvm.errors import PlanError
from syncnas_tvm.passes.place import Place
from syncnas_tvm.plan import Decision
from syncnas_tvm.work import LANES

op = relax.op


def two_activations(n: Net, x: relax.Var) -> relax.Expr:
    return n.relu(n.emit(op.sigmoid(x)))


@I.ir_module
class OnGpu:
    @R.function(private=True)
    def r0_gpu(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
        R.func_attr({"syncnas.region": "r0", "syncnas.lane": "gpu", "syncnas.phase": 0})
        with R.dataflow():
            a = R.sigmoid(x)
            b = R.nn.relu(a)
            gv = b
            R.output(gv)
        return gv

    @R.function(private=True)
    def r0(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
        R.func_attr({"syncnas.region": "r0"})
        cls = OnGpu
        with R.dataflow():
            a = cls.r0_gpu(x)
            gv = a
            R.output(gv)
        return gv

    @R.function
    def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
        R.func_attr({"num_input": 1})
        cls = OnGpu
        with R.dataflow():
            a = cls.r0(x)
            gv = a
            R.output(gv)
        return gv


@I.ir_module
class TwoOutputs:
    @R.function(private=True)
    def r0_cpu(
        x: R.Tensor((1, 2, 4, 4), "float32"),
    ) -> R.Tuple(R.Tensor((1, 2, 4, 4), "float32"), R.Tensor((1, 2, 4, 4), "float32")):
        R.func_attr({"syncnas.region": "r0", "syncnas.lane": "cpu", "syncnas.phase": 0})
        with R.dataflow():
            a = R.sigmoid(x)
            b = R.nn.relu(a)
            c = (b, a)
            R.output(c)
        return c

    @R.function(private=True)
    def r0(
        x: R.Tensor((1, 2, 4, 4), "float32"),
    ) -> R.Tuple(R.Tensor((1, 2, 4, 4), "float32"), R.Tensor((1, 2, 4, 4), "float32")):
        R.func_attr({"syncnas.region": "r0"})
        cls = TwoOutputs
        with R.dataflow():
            a = cls.r0_cpu(x)
            b = a[0]
            c = a[1]
            d = (b, c)
            R.output(d)
        return d


def place(body, lane: object) -> tvm.IRModule:
    graph = graph_of(body, channels=2, size=4)
    decision = Decision.of("r0", "Place", lane=lane)
    return Place().rewrite(graph.mod, graph, graph.region("r0"), decision)


def test_the_body_becomes_a_lane_function() -> None:
    tvm.ir.assert_structural_equal(place(two_activations, "gpu"), OnGpu)
    with pytest.raises(ValueError, match="StructuralEqual"):
        tvm.ir.assert_structural_equal(place(two_activations, "cpu"), OnGpu)


def test_several_outputs() -> None:
    def body(n: Net, x: relax.Var) -> list[relax.Expr]:
        a = n.emit(op.sigmoid(x))
        return [n.relu(a), a]

    mod = place(body, "cpu")
    del mod["main"]
    tvm.ir.assert_structural_equal(mod, TwoOutputs)


def test_applies_to_any_region() -> None:
    graph = graph_of(two_activations, channels=2)
    rule = Place()
    assert rule.applies(graph, graph.region("r0"))
    assert rule.variants(graph, graph.region("r0")) == [
        Decision.of("r0", "Place", lane=lane) for lane in LANES
    ]


@pytest.mark.parametrize("lane", ["npu", None, 0])
def test_unknown_lanes(lane: object) -> None:
    with pytest.raises(PlanError, match=rf"region 'r0': Place has lane '{lane}'; use cpu or gpu"):
        place(two_activations, lane)


def test_work() -> None:
    """All kernels on the lane, and a value that stays there."""
    graph = graph_of(lambda n, x: n.mbconv(x, 24, 8), channels=8, size=4)
    for lane in LANES:
        work = Place().work(graph, graph.region("r0"), Decision.of("r0", "Place", lane=lane))
        (phase,) = work.phases
        other = "cpu" if lane == "gpu" else "gpu"
        assert [k.op for k in phase.kernels(lane)] == ["nn.conv2d"] * 3
        assert phase.kernels(other) == ()
        assert phase.output.kind == "copy"
        assert phase.output.bytes_from(lane) == 4 * 8 * 16
        assert phase.output.bytes_from(other) == 0
