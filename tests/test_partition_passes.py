"""Partition passes of other people, the example among them, and rules that are found inexact."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_tools
import pytest
import tvm
from tvm import relax

import syncnas_tvm
from syncnas_tvm.cost_models import Roofline
from syncnas_tvm.errors import InputError, PassError, VerificationError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.partition_passes import PLACES, PartitionPasses, load_pass
from syncnas_tvm.passes.channel_split import ChannelSplit
from syncnas_tvm.passes.rule import register_rule
from syncnas_tvm.targets import load_target

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cli_tools.tiny_model(tmp_path_factory.mktemp("passes") / "tiny.onnx")


@pytest.fixture
def pin_layers() -> Iterator[type]:
    """The class that ``examples/custom_pass.py`` defines."""
    spec = importlib.util.spec_from_file_location("custom_pass", EXAMPLES / "custom_pass.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_pass"] = module
    spec.loader.exec_module(module)
    yield module.PinLayers
    del sys.modules["custom_pass"]


def compiled(model: Path, **options: object) -> syncnas_tvm.CompileResult:
    """Compiled and verified here, with nothing measured."""
    host = load_target("host")
    return syncnas_tvm.compile_onnx(
        model, host, cost_model=Roofline(host), timed=False, **{"lanes": "gpu", **options}
    )


def lanes(result: syncnas_tvm.CompileResult) -> list[str]:
    return [dict(d.params)["lane"] for d in result.plan.decisions]


def test_the_example_pins_layers(model: Path, pin_layers: Callable[..., object]) -> None:
    """Only regions with such a layer move; the compile says why and stays right."""
    result = compiled(model, passes=[pin_layers("depthwise", "cpu")])
    named = [any("depthwise" in node for node in r.nodes) for r in result.graph.regions]
    assert lanes(result) == ["cpu" if found else "gpu" for found in named]
    assert set(named) == {True, False}
    assert "then changed by partition passes" in result.choice.reason
    assert result.choice.timeline.busy_us("cpu") > 0, "it is scored as it is"
    assert result.deviation.max_rel < 1e-4
    unchanged = compiled(model, passes=[pin_layers("no such layer", "cpu")])
    assert set(lanes(unchanged)) == {"gpu"}
    assert "changed" not in unchanged.choice.reason


def test_relax_passes_run_at_their_places(model: Path) -> None:
    """Each sees the module as its place has it."""
    seen: dict[str, tvm.IRModule] = {}

    def look(place: str) -> syncnas_tvm.RelaxPass:
        @tvm.transform.module_pass(opt_level=0, name=f"LookAt{place}")
        def looked(mod: tvm.IRModule, _context: object) -> tvm.IRModule:
            assert place not in seen
            seen[place] = mod
            return mod

        return syncnas_tvm.RelaxPass(place, looked)

    compiled(model, passes=[look(place) for place in PLACES], verify=False)
    assert tuple(seen) == PLACES
    lane_functions = [
        sum(LANE_ATTR in (f.attrs or {}) for _, f in mod.functions_items()) for mod in seen.values()
    ]
    assert lane_functions[0] == 0
    assert min(lane_functions[1:]) > 0
    assert "to_device" not in str(seen["plan"]["main"])
    assert "to_device" in str(seen["transfers"]["main"])
    kernels = [f for _, f in seen["kernels"].functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    assert kernels


def broken(name: str) -> object:
    @tvm.transform.module_pass(opt_level=0, name="Broken")
    def drop_input(mod: tvm.IRModule, _context: object) -> tvm.IRModule:
        x = relax.Var("x", relax.TensorType((1,), "float32"))
        builder = relax.BlockBuilder()
        with builder.function("main", [x]):
            builder.emit_func_output(x)
        return builder.get()

    def raises(graph: RegionGraph, plan: syncnas_tvm.Plan) -> syncnas_tvm.Plan:
        raise ZeroDivisionError("no reason")

    def forgets(graph: RegionGraph, plan: syncnas_tvm.Plan) -> syncnas_tvm.Plan:
        return syncnas_tvm.Plan(plan.decisions[1:])

    def nothing(graph: RegionGraph, plan: syncnas_tvm.Plan) -> None:
        return None

    def place(lane: object) -> Callable[..., syncnas_tvm.Plan]:
        def placed(graph: RegionGraph, plan: syncnas_tvm.Plan) -> syncnas_tvm.Plan:
            first, *rest = plan.decisions
            moved = syncnas_tvm.Decision.of(first.regions, "Place", lane=lane)
            return syncnas_tvm.Plan((moved, *rest))

        return placed

    @tvm.transform.module_pass(opt_level=0, name="Strip")
    def strip(mod: tvm.IRModule, _context: object) -> tvm.IRModule:
        name = next(gv for gv, f in mod.functions_items() if LANE_ATTR in (f.attrs or {}))
        mod[name] = mod[name].without_attr(LANE_ATTR)
        return mod

    @tvm.transform.module_pass(opt_level=0, name="Twice")
    def twice(mod: tvm.IRModule, _context: object) -> tvm.IRModule:
        mod["main"] = _Doubled().visit_expr(mod["main"])
        return mod

    return {
        "main": syncnas_tvm.RelaxPass("import", drop_input),
        "npu": place("npu"),
        "list": place(["cpu"]),
        "strip": syncnas_tvm.RelaxPass("plan", strip),
        "twice": syncnas_tvm.RelaxPass("import", twice),
        "raises": raises,
        "forgets": forgets,
        "nothing": nothing,
    }[name]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("main", PassError, r"partition pass 'Broken' at 'import': main was .* it has to stay"),
        ("raises", PassError, "partition pass 'raises' on the plan failed: .*no reason"),
        ("forgets", PassError, "partition pass 'forgets' on the plan: .*r0"),
        ("nothing", PassError, "partition pass 'nothing' on the plan: it returned NoneType"),
        (
            "npu",
            PassError,
            r"partition pass 'placed' on the plan: Place\(lane='npu'\) is not possible",
        ),
        (
            "list",
            PassError,
            "partition pass 'placed' on the plan: decision Place.* on r0 has a list",
        ),
        ("strip", PassError, "after partition pass 'Strip' at 'plan', which may be the cause: "),
        (
            "twice",
            VerificationError,
            "after partition pass 'Twice' at 'import', which may be .*differs",
        ),
    ],
)
def test_a_pass_that_breaks_its_contract(
    model: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compiled(model, passes=[broken(name)])


def test_what_is_no_pass() -> None:
    with pytest.raises(InputError, match="3 is no partition pass"):
        PartitionPasses([3])
    with pytest.raises(InputError, match=r"'FoldConstant' has no place; give RelaxPass\(place"):
        PartitionPasses([relax.transform.FoldConstant()])
    with pytest.raises(InputError, match="no place 'end' for a Relax pass; use import, plan"):
        syncnas_tvm.RelaxPass("end", relax.transform.FoldConstant())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("custom_pass", "name it as module:Name"),
        ("no_such_module:Pass", "module 'no_such_module' cannot be imported"),
        ("custom_pass:Nothing", "there is no 'Nothing' in module 'custom_pass'"),
        ("custom_pass:PinLayers", "missing 2 required positional arguments"),
        ("custom_pass:__doc__", "is no partition pass"),
        ("custom_pass:KeepHeads", None),
    ],
)
@pytest.mark.usefixtures("pin_layers")
def test_passes_by_name(spec: str, message: str | None) -> None:
    if message is None:
        assert load_pass(spec).lane == "cpu"
        return
    with pytest.raises(InputError, match=message):
        load_pass(spec)


def test_the_command_says_what_is_wrong_with_a_pass(tmp_path: Path) -> None:
    shell = cli_tools.Shell(tmp_path)
    (tmp_path / "mine.py").write_text("def half(graph, plan):\n    return None\n")
    on_cpu = [{"regions": [f"r{i}"], "rule": "Place", "lane": "cpu"} for i in range(6)]
    (tmp_path / "good.json").write_text(json.dumps({"decisions": on_cpu}))
    line = shell.fails(
        *("compile", shell.model, "--output", "out", "--target", "rk3399"),
        *("--plan", "good.json", "--pass", "mine:half"),
    )
    assert line == "error: partition pass 'half' on the plan: it returned NoneType, not a Plan"


@pytest.mark.usefixtures("own_rules")
def test_an_inexact_rule_is_named(model: Path) -> None:
    """Verification fails on the whole model; the message says which rule, where, and how much."""

    @register_rule
    class Forgetful(ChannelSplit):
        """Splits, and doubles a weight of the GPU lane."""

        name = "Forgetful"

        def rewrite(
            self,
            mod: tvm.IRModule,
            graph: RegionGraph,
            region: Region,
            decision: syncnas_tvm.Decision,
        ) -> tvm.IRModule:
            written = super().rewrite(mod, graph, region, decision)
            gv = written.get_global_var(f"{region.name}_p0_gpu")
            written[gv] = _Doubled().visit_expr(written[gv])
            return written

    graph = RegionGraph(import_onnx(model).mod, load_target("host").channel_step)
    decisions = [syncnas_tvm.Decision.of(name, "Place", lane="cpu") for name in graph.names]
    for number, rule in ((1, ChannelSplit()), (2, Forgetful())):
        decisions[number] = rule.variants(graph, graph.regions[number])[0]
    plan = syncnas_tvm.Plan(tuple(decisions))
    with pytest.raises(VerificationError, match="split rule Forgetful on region r2 is not exact"):
        compiled(model, plan=plan, lanes="both")


@relax.expr_functor.mutator
class _Doubled(relax.PyExprMutator):
    """Multiplies the first convolution's weight by two."""

    def __init__(self) -> None:
        super().__init__()
        self.done = False

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if not self.done and getattr(call.op, "name", "") == "relax.nn.conv2d":
            self.done = True
            weight = relax.const(call.args[1].value.numpy() * 2)
            return relax.Call(call.op, [call.args[0], weight], call.attrs)
        return super().visit_call_(call)
