"""Branches of a few channels that run through several residual blocks before they meet."""

from pathlib import Path

import pytest
import torch
from graph_nets import evaluate, random_inputs, relative_error
from nas_models import narrow_config
from nas_onnx import randomise_norms
from test_exactness import random_plan

from syncnas_tvm import compile_onnx
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.onnx_export import export_onnx
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Decision, Plan


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its branches have four channels."""
    torch.manual_seed(0)
    network = BranchedModel(narrow_config(), 10)
    randomise_norms(network)
    path = tmp_path_factory.mktemp("narrow") / "model.onnx"
    export_onnx(network.eval(), path, 32)
    return path


@pytest.fixture(scope="module")
def graph(model: Path) -> RegionGraph:
    return RegionGraph(import_onnx(model, None).mod, 16)


@pytest.mark.parametrize("seed", range(12))
def test_any_plan_is_exact(graph: RegionGraph, seed: int) -> None:
    """A residual whose sum another operator has read counts once."""
    inputs = random_inputs(graph.mod)
    (expected,) = evaluate(graph.mod, inputs)
    plan = random_plan(graph, seed)
    (found,) = evaluate(apply_plan(graph, plan), inputs)
    assert relative_error(found, expected) < 1e-4, plan.decisions


def test_a_value_and_its_reshape_are_two(model: Path, graph: RegionGraph, tmp_path: Path) -> None:
    """On maps of one pixel, unpacking is a reshape, and both the value and the view of it are read."""
    plan = Plan(tuple(Decision.of(name, "Place", lane="cpu") for name in graph.names))
    compile_onnx(model, output=tmp_path / "out", plan=plan, timed=False, verify=True)
