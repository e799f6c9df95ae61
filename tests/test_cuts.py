"""How a cut travels through each operator, which channels are cut, and who gets which."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_nets import Net
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from syncnas_tvm.graph.channels import ChannelClasses, cut_points
from syncnas_tvm.graph.cuts import Cuts, Link, WeightCut, cuts_of, register_cut
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.ranges import clip, extent, lane_ranges, merge, shift, take
from syncnas_tvm.graph.states import SplitStates

op = relax.op


def flow_of(body: Callable[[Net, relax.Var], relax.Expr], **net: int) -> Dataflow:
    maker = Net(**net)
    return Dataflow(maker.build(lambda x: body(maker, x))["main"])


def last_cuts(body: Callable[[Net, relax.Var], relax.Expr], **net: int) -> Cuts:
    return cuts_of(flow_of(body, **net).nodes[-1])


def whole(*extents: int) -> tuple[Link, ...]:
    """Links of a first operand whose dimensions all stay as they are."""
    return tuple(Link(0, d, d, n) for d, n in enumerate(extents))


# The table.

IMAGE = {"channels": 6, "size": 4}
CASES: dict[str, tuple[Callable[[Net, relax.Var], relax.Expr], Cuts]] = {
    "dense convolution": (
        lambda n, x: n.conv(x, 8, bias=False),
        Cuts(produce=WeightCut(1, 0), contract=WeightCut(1, 1)),
    ),
    "depthwise": (
        lambda n, x: n.conv(x, 6, 3, depthwise=True, bias=False),
        Cuts(links=(Link(0, 1, 1, 6), Link(1, 0, 1, 6))),
    ),
    "two outputs a channel": (
        lambda n, x: n.emit(op.nn.conv2d(x, n.weights(12, 1, 1, 1), groups=6)),
        Cuts(),
    ),
    "grouped": (lambda n, x: n.emit(op.nn.conv2d(x, n.weights(6, 3, 1, 1), groups=2)), Cuts()),
    "relu": (lambda n, x: n.relu(x), Cuts(links=whole(1, 6, 4, 4))),
    "bias": (
        lambda n, x: n.emit(op.add(x, n.weights(1, 6, 1, 1))),
        Cuts(links=(*whole(1, 6, 4, 4), Link(1, 0, 0, 1), Link(1, 1, 1, 6)), linear=True),
    ),
    "scalar": (
        lambda n, x: n.emit(op.multiply(x, relax.const(2.0))),
        Cuts(links=whole(1, 6, 4, 4), linear=True),
    ),
    "mean": (
        lambda n, x: n.mean(x),
        Cuts(links=(Link(0, 0, 0, 1), Link(0, 1, 1, 6)), linear=True),
    ),
    "mean without kept dimensions": (
        lambda n, x: n.emit(op.mean(x, [0])),
        Cuts(links=(Link(0, 1, 0, 6), Link(0, 2, 1, 4), Link(0, 3, 2, 4)), linear=True),
    ),
    "mean over channels": (
        lambda n, x: n.emit(op.mean(x, [-3], True)),
        Cuts(links=(Link(0, 0, 0, 1), Link(0, 2, 2, 4), Link(0, 3, 3, 4)), linear=True),
    ),
    "max": (
        lambda n, x: n.emit(op.max(x, [2, 3], True)),
        Cuts(links=(Link(0, 0, 0, 1), Link(0, 1, 1, 6))),
    ),
    "max pooling": (
        lambda n, x: n.emit(op.nn.max_pool2d(x, (2, 2), (2, 2))),
        Cuts(links=(Link(0, 0, 0, 1), Link(0, 1, 1, 6))),
    ),
    "average pooling": (
        lambda n, x: n.emit(op.nn.avg_pool2d(x, (2, 2), (2, 2))),
        Cuts(links=(Link(0, 0, 0, 1), Link(0, 1, 1, 6)), linear=True),
    ),
    "softmax": (
        lambda n, x: n.emit(op.nn.softmax(x, 1)),
        Cuts(links=(Link(0, 0, 0, 1), Link(0, 2, 2, 4), Link(0, 3, 3, 4))),
    ),
    "flatten": (
        # Of the dimensions that are merged none is left.
        lambda n, x: n.emit(op.reshape(x, (1, 6, 16))),
        Cuts(links=(Link(0, 1, 1, 6),), linear=True),
    ),
    "regroup": (
        lambda n, x: n.emit(op.reshape(x, (1, 2, 3, 4, 4))),
        Cuts(links=(Link(0, 2, 3, 4), Link(0, 3, 4, 4)), linear=True),
    ),
    "transpose": (
        lambda n, x: n.emit(op.permute_dims(x, [0, 2, 3, 1])),
        Cuts(
            links=(Link(0, 0, 0, 1), Link(0, 2, 1, 4), Link(0, 3, 2, 4), Link(0, 1, 3, 6)),
            linear=True,
        ),
    ),
    "slice": (
        lambda n, x: n.slice(x, 2, 5),
        Cuts(
            links=(Link(0, 0, 0, 1), Link(0, 1, 1, 3, 2), Link(0, 2, 2, 4), Link(0, 3, 3, 4)),
            linear=True,
        ),
    ),
    "slice from the end": (
        lambda n, x: n.slice(x, -4, 5),
        Cuts(
            links=(Link(0, 0, 0, 1), Link(0, 1, 1, 3, 2), Link(0, 2, 2, 4), Link(0, 3, 3, 4)),
            linear=True,
        ),
    ),
    "slice with a stride": (
        lambda n, x: n.emit(op.strided_slice(x, [1], [0], [6], [2])),
        Cuts(),
    ),
    "unknown": (lambda n, x: n.emit(op.cumsum(x, 1)), Cuts()),
}


@pytest.mark.parametrize("name", CASES)
def test_table(name: str) -> None:
    body, expected = CASES[name]
    assert last_cuts(body, **IMAGE) == expected


def test_concat() -> None:
    links = last_cuts(lambda n, x: n.emit(op.concat([x, n.relu(x)], 1)), **IMAGE).links
    assert Link(0, 1, 1, 6, 0, 0) in links
    assert Link(1, 1, 1, 6, 0, 6) in links


def test_classifier() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        return n.emit(op.matmul(n.emit(op.reshape(x, (1, 96))), n.weights(96, 5)))

    cuts = last_cuts(body, **IMAGE)
    assert (cuts.produce, cuts.contract) == (WeightCut(1, 1), WeightCut(1, 0))
    assert cuts.links == (Link(0, 0, 0, 1),)


def test_matmul_of_two_values_is_not_cut() -> None:
    def body(n: Net, x: relax.Var) -> relax.Expr:
        return n.emit(op.matmul(x, n.relu(x)))

    assert last_cuts(body, **IMAGE) == Cuts()


def test_an_operator_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    from syncnas_tvm.graph import cuts

    monkeypatch.setattr(cuts, "_TABLE", dict(cuts._TABLE))
    body = lambda n, x: n.emit(op.cumsum(x, 2))  # noqa: E731
    assert last_cuts(body, **IMAGE) == Cuts()
    register_cut("cumsum")(lambda node: Cuts(links=(Link(0, 1, 1, 6),)))
    assert last_cuts(body, **IMAGE) == Cuts(links=(Link(0, 1, 1, 6),))


# Classes.


def cut_names(flow: Dataflow) -> list[str]:
    classes = ChannelClasses(flow)
    return [node.name for node in flow.nodes if classes.cut(node.var)]


def test_the_expanded_channels_are_cut_not_the_trunk() -> None:
    flow = flow_of(lambda n, x: n.mbconv(n.mbconv(x, 48, 8), 48, 8), channels=8)
    one_block = ["expand", "expand_bias", "relu6", "depthwise", "depthwise_bias", "relu61"]
    cut = cut_names(flow)
    assert cut[:6] == one_block
    assert len(cut) == 12
    assert "residual" not in cut


def test_the_bottleneck_is_cut_where_it_is_narrow() -> None:
    """A cut of the wide channels would exchange more."""

    def body(n: Net, x: relax.Var) -> relax.Expr:
        y = n.relu(n.conv(x, 8, name="down"))
        y = n.relu(n.conv(y, 8, 3, name="inner"))
        return n.emit(op.add(x, n.conv(y, 64, name="up")))

    cut = cut_names(flow_of(body, channels=64))
    assert "inner" in cut or "down" in cut
    assert "up" not in cut


def test_atoms_of_concatenated_channels() -> None:
    flow = flow_of(lambda n, x: n.mix(x, 32, 8, (3, 5)), channels=8)
    classes = ChannelClasses(flow)
    cuts = {node.name: classes.cut(node.var) for node in flow.nodes}
    assert cuts["expand"] == (1, (16, 16))
    assert cuts["slice"] == cuts["slice1"] == (1, (16,))
    assert cuts["mixed"] == (1, (16, 16))
    assert cuts["project"] is None


def test_no_cut_where_one_channel_would_be_left() -> None:
    assert cut_names(flow_of(lambda n, x: n.mbconv(x, 1, 3))) == []
    assert cut_names(flow_of(lambda n, x: n.mbconv(x, 2, 3))) != []


def test_values_that_are_outputs_stay_whole() -> None:
    def body(n: Net, x: relax.Var) -> list[relax.Expr]:
        y = n.relu(n.conv(x, 24, name="inner"))
        return [n.conv(y, 8), y]

    assert cut_names(flow_of(body, channels=8)) == []


# States.


def test_states() -> None:
    flow = flow_of(lambda n, x: n.mbconv(x, 32, 8, se="after", squeezed=4), channels=8)
    states = SplitStates(flow, 8)
    found = {node.name: states.of[node.var] for node in flow.nodes}
    assert states.phases == 2
    assert found["expand"].state == "cut"
    assert (found["reduce"].state, found["reduce"].phase) == ("partial", 0)
    assert found["reduce_bias"].mode == "once"
    # The activation is not linear: the sum comes first.
    assert (found["relu"].state, found["relu"].phase, found["relu"].summed) == ("whole", 1, (0,))
    assert (found["expand_gate"].state, found["expand_gate"].phase) == ("cut", 1)
    assert (found["project"].state, found["project"].phase) == ("partial", 1)
    assert (found["residual"].state, found["residual"].mode) == ("partial", "once")


def test_light_convolutions_are_not_worth_a_sync() -> None:
    """A convolution with next to no work runs on both lanes."""

    def body(n: Net, x: relax.Var) -> relax.Expr:
        y = n.mbconv(x, 64, 32)
        return n.emit(op.multiply(y, n.emit(op.sigmoid(n.conv(n.mean(x), 32, name="light")))))

    flow = flow_of(body, channels=32)
    states = SplitStates(flow, 8)
    light = next(node for node in flow.nodes if node.name == "light")
    assert states.of[light.var].state == "whole"


# Ranges.


@pytest.mark.parametrize(
    ("size", "step", "points"),
    [
        (32, 8, [8, 16, 24]),
        (20, 8, [8, 16]),
        (8, 8, [4]),
        (6, 16, [4]),
        (3, 16, [2]),
        (2, 16, [1]),
        (5, 1, [1, 2, 3, 4]),
        (9, 8, [8]),
    ],
)
def test_cut_points(size: int, step: int, points: list[int]) -> None:
    assert cut_points(size, step) == points


atoms = st.lists(st.integers(2, 60), min_size=1, max_size=5)
steps = st.sampled_from([1, 4, 8, 16])
shares = st.floats(0.01, 0.99)


@given(atoms, shares, steps)
def test_lanes_share_every_atom(sizes: list[int], share: float, step: int) -> None:
    """Disjoint, complete, and neither lane is left without a part of any atom."""
    cpu, gpu = (lane_ranges(sizes, share, step, lane) for lane in ("cpu", "gpu"))
    positions = [p for ranges in (cpu, gpu) for a, b in ranges for p in range(a, b)]
    assert sorted(positions) == list(range(sum(sizes)))
    start = 0
    for size in sizes:
        for ranges in (cpu, gpu):
            assert extent(clip(ranges, start, start + size)) > 0
        start += size


@given(atoms, steps)
def test_a_larger_share_is_never_fewer_channels(sizes: list[int], step: int) -> None:
    extents = [extent(lane_ranges(sizes, i / 8, step, "gpu")) for i in range(1, 8)]
    assert extents == sorted(extents)


def test_ranges() -> None:
    ranges = ((2, 5), (8, 10))
    assert merge([(0, 2), (2, 4), (5, 5), (6, 7)]) == ((0, 4), (6, 7))
    assert clip(ranges, 4, 9) == ((0, 1), (4, 5))
    assert clip(ranges, 5, 8) == ()
    assert shift(ranges, 3) == ((5, 8), (11, 13))
    assert take(np.arange(12), ranges, 0).tolist() == [2, 3, 4, 8, 9]
    assert take(np.arange(12).reshape(1, 12), ranges, 1).tolist() == [[2, 3, 4, 8, 9]]
