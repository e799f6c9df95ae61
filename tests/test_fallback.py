"""Kernels without a schedule rule are listed with their share of the time."""

from __future__ import annotations

import graph_nets
import pytest
from graph_nets import Net, graph_of
from tvm import relax

from syncnas_tvm.cost_models import Roofline
from syncnas_tvm.fallback import fallbacks
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.report import fallback_table
from syncnas_tvm.targets import load_target


def pooled(n: Net, x: relax.Var) -> relax.Expr:
    y = n.emit(relax.op.nn.avg_pool2d(n.conv(x, 16, 3), (3, 3), (2, 2), (1, 1, 1, 1)), "pooled")
    return n.conv(y, 8)


@pytest.mark.parametrize("lane", ["cpu", "gpu"])
def test_a_kernel_without_a_rule_is_listed(lane: str) -> None:
    graph = graph_of(pooled, channels=8, size=12)
    target = load_target("rk3399")
    mod = apply_plan(graph, Plan(graph_nets.placed(graph, lane)))
    (found,) = fallbacks(mod, target, Roofline(target))
    assert (found.node, found.op, found.lane) == ("pooled", "nn.avg_pool2d", lane)
    assert found.latency_us > 0
    assert 0 < found.share < 1
    text = fallback_table([found])
    assert "nn.avg_pool2d" in text
    assert f"{found.share:.1%}" in text


def test_nothing_is_listed_where_every_kernel_has_a_rule() -> None:
    graph = graph_of(lambda n, x: n.head(n.mbconv(x, 48, 16), 32, 10), channels=16, size=8)
    target = load_target("rk3399")
    mod = apply_plan(graph, Plan(graph_nets.placed(graph, "cpu")))
    assert fallbacks(mod, target, Roofline(target)) == ()
    assert fallback_table(()) == "every kernel has a schedule rule"
