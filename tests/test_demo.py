"""What the demo and the other examples are made of; `make demo` runs the whole."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cli_tools import ROOT, tiny_model

from syncnas_tvm import Decision, Plan, compile_onnx
from syncnas_tvm.candidates import decision_space
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


def test_a_rule_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCNAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(rule, "_RULES", dict(rule._RULES))
    import custom_rule

    rule.register_rule(custom_rule.Thirds)
    model = tiny_model(tmp_path / "tiny.onnx")
    graph = RegionGraph(import_onnx(model).mod, load_target("host").channel_step)
    space = decision_space(graph)
    found = {c.decision.regions[0]: c.decision for c in space.all() if c.decision.rule == "Thirds"}
    assert len(found) >= 3
    decisions = [found.get(r, Decision.of(r, "Place", lane="cpu")) for r in space.regions]
    plan = Plan.loads(json.dumps(Plan(tuple(decisions)).to_json()))
    result = compile_onnx(model, target="host", plan=plan, timed=False)
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
