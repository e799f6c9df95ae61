"""Widths of both branches: kernels as the compiler's, meetings, budgets, constraints."""

import numpy as np
import pytest
import torch

from syncnas_tvm.candidates import decision_space
from syncnas_tvm.cost_models import Roofline, TargetModel
from syncnas_tvm.errors import ConfigError, InputError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.allocate import Allocator
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.lanes import base_work
from syncnas_tvm.nas.model import build
from syncnas_tvm.nas.onnx_export import export_onnx
from syncnas_tvm.nas.proxies import synflow
from syncnas_tvm.nas.strategy import SyncStrategy, strategies
from syncnas_tvm.nas.task import cost_model
from syncnas_tvm.planner import single_lane
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.targets import load_target

RK3399 = load_target("rk3399")
NAMES = ("sync1_6_a", "sync3_046_aaa", "sync4_0246_caca", "sync7_0123456_acacaca")


@pytest.fixture(scope="module", params=[Roofline, cost_model], ids=["roofline", "learned"])
def allocator(request):
    return Allocator(ZOO["mobilenet_v2"], RK3399, request.param(RK3399))


def test_a_search_goes_by_what_compile_predicts_with():
    assert isinstance(cost_model(RK3399).alone, TargetModel)
    assert isinstance(cost_model(load_target("host")), Roofline)  # which measures


def test_kernels_are_those_that_the_compiler_finds(tmp_path):
    """The base on the GPU lane, read from its ONNX model and written down directly."""
    base = ZOO["mobilenet_v2"].scaled(0.25)
    model = build(base, classes=10)
    for module in model.modules():
        if isinstance(
            module, torch.nn.BatchNorm2d | torch.nn.Linear
        ):  # biases of zero would be folded away
            torch.nn.init.normal_(module.bias)
    export_onnx(model, tmp_path / "m.onnx", 64)
    graph = RegionGraph(import_onnx(tmp_path / "m.onnx").mod, 8)
    compiled = [k for c in single_lane(decision_space(graph), "gpu") for k in c.work.kernels("gpu")]
    written = base_work(base, "gpu", 64, 10).work.kernels("gpu")
    assert list(written) == compiled


@pytest.mark.parametrize("budget", [1.0, 0.75, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_used_and_kept(allocator, name, budget):
    found = allocator.allocate(SyncStrategy.parse(name), budget)
    assert found.feasible
    assert found.budget_us == pytest.approx(budget * allocator.base_us)
    # The learned model jumps: a step of one width may take 2 % of the whole.
    least = 0.99 if isinstance(allocator.model, Roofline) else 0.98
    assert least * found.budget_us < found.latency_us <= found.budget_us
    assert found.timeline.latency_us == pytest.approx(found.latency_us, rel=1e-9)
    assert allocator.time(found.config).latency_us == pytest.approx(found.latency_us, rel=1e-9)


def test_the_base_takes_what_it_takes_whatever_it_is_cut_to(allocator):
    other = Allocator(ZOO["mobilenet_v2"], RK3399, allocator.model, step=8, cap=0.5)
    assert other.lane_us == pytest.approx(allocator.lane_us, rel=1e-9)
    kernels = base_work(ZOO["mobilenet_v2"], "cpu", 224, 1000).work.kernels("cpu")
    assert allocator.lane_us["cpu"] == pytest.approx(
        sum(map(allocator.model.table(kernels).__getitem__, kernels)), rel=0.01
    )


def test_a_narrower_trunk_has_the_budget_of_the_whole(allocator):
    whole = ZOO["mobilenet_v2"]
    narrow = Allocator(whole.scaled(0.6), RK3399, allocator.model, whole=whole)
    assert narrow.base_us == allocator.base_us
    found, wide = (
        a.allocate(SyncStrategy.parse("sync3_046_aaa"), 0.5) for a in (narrow, allocator)
    )
    assert found.feasible
    assert found.budget_us == wide.budget_us
    assert 0.98 * found.budget_us < found.latency_us <= found.budget_us
    outs, expanded = zip(*((c.stages[3][0][-1].out, c.stages[3][0][-1].expand) for c in (found.config, wide.config)), strict=True)  # fmt: skip
    assert outs[0] == 40
    assert outs[0] < outs[1]
    assert expanded[0] > expanded[1]


def test_the_lanes_meet(allocator):
    """A lane waits at a sync for less than a step of a few blocks would take it. The learned model has
    steps of its own, of up to a fifth of a short segment."""
    most = 0.05 if isinstance(allocator.model, Roofline) else 0.2
    for name in NAMES:
        found = allocator.allocate(SyncStrategy.parse(name))
        assert found.idle_share < 0.02, name
        for meeting in found.meetings:
            wait_us = abs(meeting.cpu_us - meeting.gpu_us)
            assert wait_us < most * meeting.us or wait_us < 400, (name, meeting)


def test_more_budget_is_more_capacity(allocator):
    strategy = SyncStrategy.parse("sync3_046_aaa")
    sums = []
    for budget in (0.5, 0.75, 1.0):
        config = allocator.allocate(strategy, budget).config
        sums.append(sum(row.expand for *_, row in config.rows()))
    assert sums[0] < 0.75 * sums[1] < 0.75 * sums[2]


@pytest.mark.parametrize(("step", "cap"), [(4, 1.25), (16, 1.0), (8, 0.5)])
def test_steps_and_caps(step, cap):
    base = ZOO["mobilenet_v2"]
    allocator = Allocator(base, RK3399, Roofline(RK3399), step=step, cap=cap)
    config = allocator.allocate(SyncStrategy.parse("sync2_36_aa")).config
    ratios = []
    for s, _, i, row in config.rows():
        assert row.expand % step == 0
        assert row.expand <= max(step, cap * base.stages[s][i].expand)
        ratios.append(row.expand / base.stages[s][i].expand)
    if cap == 0.5:  # nothing but the cap holds the widths back
        assert np.median(ratios) == 0.5


def test_too_small_a_budget_is_infeasible(allocator):
    found = allocator.allocate(SyncStrategy.parse("sync7_0123456_aaaaaaa"), 0.1)
    assert not found.feasible
    assert found.config is None
    assert found.latency_us > found.budget_us


def test_every_thirtieth_strategy_fits(allocator):
    found = [allocator.allocate(s) for s in list(strategies())[::30]]
    assert all(f.latency_us <= f.budget_us for f in found)
    assert max(f.idle_share for f in found) < 0.02


def test_a_concatenation_halves_the_channels(allocator):
    config = allocator.allocate(SyncStrategy.parse("sync2_46_ca")).config
    base = ZOO["mobilenet_v2"]
    assert {row.out for row in config.stages[4][0]} == {base.stages[4][0].out // 2}
    assert {row.out for row in config.stages[3][0]} == {base.stages[3][0].out}
    assert config.stages[5][1][0].inputs == base.stages[4][0].out


def test_the_base_is_timed_as_the_planner_does():
    allocator = Allocator(ZOO["mobilenet_v2"], RK3399, Roofline(RK3399))
    work = base_work(ZOO["mobilenet_v2"], "cpu")
    table = Roofline(RK3399).table(work.work.kernels("cpu"))
    expected = Simulator(RK3399.costs, table).timeline([work]).latency_us
    assert allocator.lane_us["cpu"] == pytest.approx(expected)
    assert allocator.base_us == min(allocator.lane_us.values())


def test_what_cannot_be_allocated():
    with pytest.raises(ConfigError, match="'efficientnet_b0' cannot be branched"):
        Allocator(ZOO["efficientnet_b0"], RK3399, Roofline(RK3399))
    with pytest.raises(InputError, match="above zero"):
        Allocator(ZOO["mobilenet_v2"], RK3399, Roofline(RK3399), step=0)


def test_another_number_of_stages(allocator):
    with pytest.raises(InputError, match="is for 3 stages, 'mobilenet_v2' has 7"):
        allocator.allocate(SyncStrategy(("a", "n", "a")))


def test_synflow_by_hand():
    """Without hidden channels: the sum over layers of the product of all magnitudes."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.ReLU6())
    model.append(torch.nn.Conv2d(1, 1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(-30.0)
        model[2].weight.fill_(2.0)
    assert synflow(model, 1, inputs=1) == pytest.approx(np.log(2 * 60.0))


def test_synflow_leaves_the_model_alone(allocator):
    config = allocator.allocate(SyncStrategy.parse("sync1_6_a"), 0.5).config
    model = BranchedModel(config, classes=10)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first = synflow(model, 32)
    assert first == synflow(model, 32)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
