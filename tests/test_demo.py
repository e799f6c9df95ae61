"""What the demo and the other examples are made of; `make demo` runs the whole."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cli_tools import ROOT
from onnx import TensorProto, helper, numpy_helper

from syncnas_tvm import Plan, compile_onnx
from syncnas_tvm.candidates import decision_space
from syncnas_tvm.cost_models import Roofline
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.passes import rule
from syncnas_tvm.targets import load_target

sys.path.insert(0, str(ROOT / "examples"))


def test_the_cat_is_a_cat(tmp_path):
    import demo

    demo.export_model(tmp_path / "model.onnx")
    image = demo.cat_image()
    assert (image.shape, image.dtype) == ((1, 3, 224, 224), np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits,) = session.run(["logits"], {"image": image})
    assert np.argsort(-logits[0])[:3].tolist() == [285, 282, 281]
    assert set(np.argsort(-logits[0])[:5]) <= demo.NAMES.keys()


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


def test_a_rule_of_ones_own(tmp_path, monkeypatch):
    """The example shares out tokens: planned, as JSON, compiled for both lanes, exact."""
    monkeypatch.setenv("SYNCNAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(rule, "_RULES", dict(rule._RULES))
    import custom_rule

    rule.register_rule(custom_rule.TokenSplit)
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


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_between_pages(page):
    for target in page.read_text().split("](")[1:]:
        link = target.partition(")")[0].partition("#")[0]
        if link and "://" not in link:
            assert (page.parent / link).exists(), link


def test_flags_are_documented():
    from syncnas_tvm import compile, inspect, run

    text = Path(ROOT / "docs/cli.md").read_text()
    for module in (compile, run, inspect):
        for action in module.make_parser()._actions:
            for flag in action.option_strings:
                if flag not in ("-h", "--help"):
                    assert f"`{flag}" in text, flag
