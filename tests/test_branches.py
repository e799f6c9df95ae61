"""Branches: which forks it finds, what it writes, what it costs, and that the outputs stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from graph_nets import Net, evaluate, graph_of, random_inputs, relative_error, run_compiled
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.calls import calls_of
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.forks import stages_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.graph.region_work import work_of
from syncnas_tvm.lowering import lower
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.branches import Branches
from syncnas_tvm.passes.rule import rule as make
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import load_target

op = relax.op
RULE = Branches()


def two_branches(n: Net, x: relax.Var) -> relax.Var:
    """A searched SyncNAS model's stages between two syncs: narrow blocks, apart until the sum."""
    left = n.mbconv(n.mbconv(x, 24, 16, stride=2), 32, 16)
    right = n.mbconv(n.mbconv(x, 16, 16, stride=2), 48, 16)
    return n.emit(op.add(left, right), "meet")


def inception(n: Net, x: relax.Var) -> relax.Var:
    """Four branches of which one begins with a pooling, and a stretch behind the concatenation."""
    pooled = n.emit(op.nn.max_pool2d(x, (3, 3), (1, 1), (1, 1)), "pooled")
    parts = [
        n.relu(n.conv(x, 8, name="one")),
        n.relu(n.conv(n.relu(n.conv(x, 8, name="reduce3")), 16, 3, name="three")),
        n.relu(n.conv(n.relu(n.conv(x, 8, name="reduce5")), 8, 5, name="five")),
        n.relu(n.conv(pooled, 8, name="after_pool")),
    ]
    return n.relu(n.conv(n.emit(op.concat(parts, 1), "joined"), 8, 3, name="behind"))


def downsample(n: Net, x: relax.Var) -> relax.Var:
    return n.basic(x, 16, 2)


def whole(body: Callable[[Net, relax.Var], relax.Expr]) -> RegionGraph:
    """The network as one region, however many the finder makes of it."""
    graph = graph_of(body, channels=16)
    merged = graph.run(graph.names)
    return RegionGraphOfOne(graph, merged.name) if len(graph.names) > 1 else graph


class RegionGraphOfOne(RegionGraph):
    """A graph whose only region is a run of another's."""

    def __init__(self, graph: RegionGraph, name: str) -> None:
        self.__dict__.update(graph.__dict__)
        region = graph.run(graph.names)
        self.mod = graph.module_of(graph.names)
        self.regions = (region,)
        self.__dict__.pop("_by_name", None)


def decide(gpu: str, lane: str = "cpu", region: str = "r0") -> Decision:
    return Decision.of(region, RULE.name, gpu_branches=gpu, lane=lane)


def called(graph: RegionGraph, decision: Decision) -> list[str]:
    (region,) = decision.regions
    mod = RULE.rewrite(graph.mod, graph, graph.region(region), decision)
    return [call.callee.name_hint for call in calls_of(mod, mod[region]).calls]


def test_branches_of_a_searched_model() -> None:
    """Each branch is a lane function, with its inner residuals; the sum is the join."""
    graph = graph_of(two_branches, channels=16)
    assert called(graph, decide("1")) == ["r0_p0_b0_gpu", "r0_p0_b1_cpu", "r0_join0"]
    mod = RULE.rewrite(graph.mod, graph, graph.region("r0"), decide("1"))
    join = mod["r0_join0"]
    assert [node.op for node in Dataflow(join).nodes] == ["add"]
    assert str(join.attrs["syncnas.join"]) == "sum"
    gpu, cpu = (Dataflow(mod[f"r0_p0_b{i}_{lane}"]) for i, lane in enumerate(("gpu", "cpu")))
    convolutions = [node.shape[1] for node in gpu.nodes if node.op == "nn.conv2d"]
    assert convolutions == [16, 16, 16, 48, 48, 16], "branch 1, the right one"
    assert len(gpu.params) == len(cpu.params) == 1
    assert sum(len(flow.nodes) for flow in (gpu, cpu)) + 1 == len(
        Dataflow(graph.function("r0")).nodes
    )


def test_inception_is_numbered_from_its_first_nodes() -> None:
    graph = whole(inception)
    region = graph.names[0]
    (fork, stretch) = stages_of(Dataflow(graph.function(region)))
    assert [branch[0].op for branch in fork.branches] == ["nn.max_pool2d", *["nn.conv2d"] * 3]
    assert [branch[-1].op for branch in fork.branches] == ["nn.relu"] * 4, "stays with its conv"
    assert [node.op for node in fork.join] == ["concat"]
    assert [node.op for node in stretch.branches[0]] == ["nn.conv2d", "add", "nn.relu"]
    assert called(graph, decide("0,2", "gpu", region)) == [
        *(f"{region}_p0_b{i}_{lane}" for i, lane in enumerate(["gpu", "gpu", "cpu", "cpu"])),
        f"{region}_join0",
        f"{region}_p1_b0_gpu",
    ]


def test_a_fork_on_one_lane_has_no_join() -> None:
    def two_forks(n: Net, x: relax.Var) -> relax.Var:
        return inception(n, inception(n, x))

    graph = whole(two_forks)
    region = graph.names[0]
    found = called(graph, decide("4", region=region))
    assert found == [
        f"{region}_p0_b0_cpu",
        f"{region}_p1_b0_cpu",
        *(f"{region}_p2_b{i}_{lane}" for i, lane in enumerate(["gpu", "cpu", "cpu", "cpu"])),
        *(f"{region}_join2", f"{region}_p3_b0_cpu"),
    ]


@pytest.mark.parametrize("body", [two_branches, inception, downsample])
def test_every_placement_means_the_same_and_costs_what_it_does(
    body: Callable[[Net, relax.Var], relax.Expr],
) -> None:
    """Outputs by torch; the work without writing equals the work read off what is written."""
    graph = whole(body)
    region = graph.regions[0]
    inputs = random_inputs(graph.mod)
    expected = evaluate(graph.mod, inputs)[0]
    count = sum(
        len(s.branches) for s in stages_of(Dataflow(graph.function(region.name))) if s.is_fork
    )
    for mask in range(1, 2**count - 1):
        gpu = ",".join(str(i) for i in range(count) if mask >> i & 1)
        for lane in ("cpu", "gpu"):
            decision = decide(gpu, lane, region.name)
            written = RULE.rewrite(graph.mod, graph, region, decision)
            assert RULE.work(graph, region, decision) == work_of(written, region.name)
            assert relative_error(evaluate(written, inputs)[0], expected) <= 1e-6


def test_compiled_for_both_lanes() -> None:
    graph = graph_of(two_branches, channels=16)
    inputs = random_inputs(graph.mod)
    expected = evaluate(graph.mod, inputs)[0]
    for gpu in ("0", "1"):
        mod = apply_plan(graph, Plan((decide(gpu),)))
        (found,) = run_compiled(mod, load_target("host"), inputs)
        assert relative_error(found, expected) <= 1e-4


@pytest.mark.parametrize("rule", [RULE.name, "ChannelSplit"])
def test_channels_stay_packed(rule: str) -> None:
    """Concatenations and slices at whole vectors convert nothing between layouts."""

    def fire(n: Net, x: relax.Var) -> relax.Var:
        y = n.relu(n.conv(x, 32, name="squeeze"))
        parts = [n.relu(n.conv(y, 64, k, name=f"expand{k}")) for k in (1, 3)]
        return n.basic(n.emit(op.concat(parts, 1), "side_by_side"), 32, 2)

    graph = graph_of(fire, step=16, channels=16)
    decisions = [
        *(d for r in graph.regions for d in make(rule).variants(graph, r)[:1]),
    ]
    covered = {region for d in decisions for region in d.regions}
    rest = [Decision.of(name, "Place", lane="cpu") for name in graph.names if name not in covered]
    plan = Plan(tuple(sorted([*decisions, *rest])))
    lowered = lower(apply_plan(graph, plan), load_target("host"))
    names = {gv.name_hint for gv in lowered.get_global_vars()}
    conversions = {name for name in names if "pack" in name and "packed" not in name}
    edges = {"edge_pack", "edge_unpack"}
    assert conversions - edges == {"cpu_cpu_pack", "cpu_cpu_unpack"}, "at the model's edges only"


def test_variants() -> None:
    """All subsets of few branches; of many, what list scheduling gives for some speeds."""
    graph = graph_of(two_branches, channels=16)
    found = RULE.variants(graph, graph.region("r0"))
    assert [d.param("gpu_branches") for d in found] == ["0", "1"], "no stretch: lane is no choice"
    graph = whole(inception)
    assert len(RULE.variants(graph, graph.regions[0])) == 2 * (2**4 - 2)

    def six(n: Net, x: relax.Var) -> relax.Var:
        parts = [n.relu(n.conv(x, 8 * (i + 1), name=f"b{i}")) for i in range(6)]
        return n.emit(op.concat(parts, 1), "joined")

    graph = graph_of(six, channels=16)
    shares = {
        sum(8 * (int(i) + 1) for i in d.param("gpu_branches").split(",")) / 168
        for d in RULE.variants(graph, graph.regions[0])
    }
    assert min(shares) <= 0.15
    assert max(shares) >= 0.85
    assert len(shares) >= 5
    assert any(0.47 < share < 0.53 for share in shares), "even lanes get even halves"


def test_hardly_anything_side_by_side() -> None:
    """A shortcut's small convolution is a branch, but none that is worth trying."""
    graph = whole(lambda n, x: n.basic(x, 64, 2))
    region = graph.regions[0]
    assert RULE.applies(graph, region)
    assert RULE.variants(graph, region) == []


def test_no_fork() -> None:
    """Nothing runs beside a residual block, squeeze-and-excite included."""
    graph = graph_of(lambda n, x: n.mbconv(x, 32, 16, se="after"), channels=16)
    assert not RULE.applies(graph, graph.region("r0"))


@pytest.mark.parametrize("gpu", ["", "2", "0,1", "0,0", "-1", "x", 1, None])
def test_a_wrong_choice_of_branches(gpu: object) -> None:
    graph = graph_of(two_branches, channels=16)
    with pytest.raises(PlanError, match=r"region 'r0': gpu_branches.*0 to 1"):
        called(graph, Decision.of("r0", RULE.name, gpu_branches=gpu, lane="cpu"))
    with pytest.raises(PlanError, match="lane 'npu'"):
        called(graph, decide("0", "npu"))


def test_in_a_plan_of_the_whole_model() -> None:
    """The regions around a fork go on as they were; the outputs are the model's."""

    def net(n: Net, x: relax.Var) -> relax.Var:
        y = n.relu6(n.conv(x, 16, 3, 2, "stem"))
        return n.head(two_branches(n, two_branches(n, y)), 32, 10)

    graph = graph_of(net, channels=3)
    forks = [r for r in graph.regions if RULE.applies(graph, r)]
    assert len(forks) == 2
    decisions = tuple(
        RULE.variants(graph, r)[-1] if r in forks else Decision.of(r.name, "Place", lane="gpu")
        for r in graph.regions
    )
    inputs = random_inputs(graph.mod)
    found = evaluate(apply_plan(graph, Plan(decisions)), inputs)[0]
    assert relative_error(found, evaluate(graph.mod, inputs)[0]) <= 1e-6
