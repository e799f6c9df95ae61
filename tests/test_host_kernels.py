"""What is measured on this machine for a plan, and that it is kept."""

from __future__ import annotations

from pathlib import Path

import cli_tools
import pytest

from syncnas_tvm.candidates import decision_space
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.host_costs import HostKernels
from syncnas_tvm.targets import load_target


def test_a_plans_kernels_are_measured_whatever_its_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bands of rows too, which no measuring of whole kernels and channels knows."""
    monkeypatch.setenv("SYNCNAS_CACHE_DIR", str(tmp_path / "cache"))
    target = load_target("host")
    graph = RegionGraph(
        import_onnx(cli_tools.tiny_model(tmp_path / "tiny.onnx")).mod, target.channel_step
    )
    space = decision_space(graph)
    band = next(c for c in space.all() if c.decision.rule == "RowSplit" and c.span == 2)
    rest = [space.single(i)[0] for i in range(len(space))]
    plan = [*rest[:1], band, *rest[3:]] if band in space.candidates[1] else [band, *rest[2:]]
    kernels = HostKernels(graph, target, seconds=30.0)
    wanted = {k for c in plan for lane in ("cpu", "gpu") for k in c.work.kernels(lane)}
    assert not any(kernel in kernels.table for kernel in wanted)
    assert kernels.measure_plan(plan)
    assert all(kernel in kernels.table for kernel in wanted)
    assert not kernels.measure_plan(plan), "known now"
    assert not HostKernels(graph, target).measure_plan(plan), "and kept"
