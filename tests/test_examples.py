"""The examples of a rule and a pass of one's own, as other people would use them."""

import json
import subprocess
import sys
from pathlib import Path

import graph_nets
import numpy as np
import onnx
import pytest
from cli_tools import ROOT
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from syncnas_tvm import Plan, RegionGraph, compile_onnx, register_rule
from syncnas_tvm.candidates import decision_space
from syncnas_tvm.cost_models import Roofline
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.targets import load_target

op = relax.op


@pytest.fixture
def token_split(own_rules, monkeypatch):
    """The rule that ``examples/custom_rule.py`` defines."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    import custom_rule

    register_rule(custom_rule.TokenSplit)
    return custom_rule.TokenSplit()


def transformer_mlp(path: Path, tokens: int = 12, features: int = 16) -> Path:
    """Two MLPs of a vision transformer, tokens in, tokens out."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name: str, *shape: int) -> str:
        array = rng.standard_normal(shape).astype("float32") * (shape[0] ** -0.5)
        weights.append(numpy_helper.from_array(array, name))
        return name

    def node(op: str, *inputs: str, **attrs: object) -> str:
        name = f"{op}_{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    x = "tokens"
    for i in range(2):
        y = node("Add", node("MatMul", x, constant(f"u{i}", features, 64)), constant(f"a{i}", 64))
        y = node("MatMul", node("Relu", y), constant(f"d{i}", 64, features))
        x = node("Add", x, node("Add", y, constant(f"b{i}", features)))
    shape = (1, tokens, features)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("tokens", x)]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_rule_of_ones_own(token_split, tmp_path, monkeypatch):
    """The example shares out tokens: planned, as JSON, compiled for both lanes, exact."""
    monkeypatch.setenv("SYNCNAS_CACHE_DIR", str(tmp_path / "cache"))
    model = transformer_mlp(tmp_path / "mlp.onnx")
    host = load_target("host")
    space = decision_space(RegionGraph(import_onnx(model).mod, host.channel_step))
    found = {c.decision.regions[0]: c for c in space.all() if c.decision.rule == "TokenSplit"}
    assert set(found) == set(space.regions)
    rows = [c.work.kernels("gpu")[-1].out_shape[1] for c in found.values()]
    assert rows == [3] * len(rows), "the last variant leaves the GPU lane a quarter of 12 tokens"
    plan = Plan.loads(json.dumps(Plan(tuple(c.decision for c in found.values())).to_json()))
    result = compile_onnx(model, target=host, plan=plan, timed=False, cost_model=Roofline(host))
    assert result.plan == plan
    assert result.deviation.max_rel <= 1e-4


TOKENS, FEATURES = 12, 16
BY_TOKEN = {
    "dense": lambda n, x: op.matmul(x, n.weights(FEATURES, 8)),
    "bias": lambda n, x: op.add(x, n.weights(FEATURES)),
    "bias of rank 3": lambda n, x: op.add(x, n.weights(1, 1, FEATURES)),
    "residual": lambda n, x: op.add(x, n.emit(op.nn.gelu(x))),
    "norm of features": lambda n, x: op.nn.layer_norm(x, n.weights(16), n.weights(16), [-1]),
}
MIXING = {
    "dense of tokens": lambda n, x: op.matmul(n.weights(TOKENS, TOKENS), x),
    "products of tokens": lambda n, x: op.matmul(
        y := n.emit(op.matmul(x, n.weights(FEATURES, TOKENS))), y
    ),
    "embedding": lambda n, x: op.add(x, n.weights(TOKENS, FEATURES)),
    "embedding of rank 3": lambda n, x: op.add(x, n.weights(1, TOKENS, 1)),
    "norm of tokens": lambda n, x: op.nn.layer_norm(x, n.weights(12), n.weights(12), [1]),
    "softmax": lambda n, x: op.nn.softmax(x, 1),
}


@pytest.mark.parametrize("name", [*BY_TOKEN, *MIXING])
def test_the_rule_takes_what_it_splits_exactly(token_split, name):
    net = graph_nets.Net()
    net.input = relax.Var("x", relax.TensorType((1, TOKENS, FEATURES), "float32"))
    graph = RegionGraph(net.build(lambda x: net.emit((BY_TOKEN | MIXING)[name](net, x))), 8)
    region = graph.regions[-1]
    assert token_split.applies(graph, region) == (name in BY_TOKEN)
    if name in BY_TOKEN:
        inputs = graph_nets.random_inputs(graph.mod)
        (expected,) = graph_nets.evaluate(graph.mod, inputs)
        for decision in token_split.variants(graph, region):
            (found,) = graph_nets.evaluate(apply_plan(graph, Plan((decision,))), inputs)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["api", "custom_rule", "custom_pass"])
def test_an_example_without_a_model_says_its_usage(name):
    example = ROOT / "examples" / f"{name}.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, cwd=ROOT)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"usage: python examples/{name}.py model.onnx")
