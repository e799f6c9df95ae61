"""Random plans of whole networks: none may change what the network computes.

    PYTHONPATH=tests python benchmarks/network_plans.py [--plans 20] [--size 224] [NETWORK ...]

Every registered rule takes part. Rewritten modules are run by torch, operator by operator, on one
random image; outputs are compared with onnxruntime's at 1e-4 relative. random_plans.py does the same
with thousands of small random networks.
"""

from __future__ import annotations

import sys
from collections import Counter

import graph_nets
import zoo
from networks import network_parser, print_table
from test_exactness import TOLERANCE, random_plan

from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.targets import load_target


def row(name: str, size: int, plans: int) -> tuple[list[object], bool]:
    """A line of the table, and whether all plans are exact."""
    model = import_onnx(zoo.export(name, size=size))
    graph = RegionGraph(model.mod, load_target("host").channel_step)
    inputs = graph_nets.random_inputs(model.mod, 0)
    feeds = {spec.name: array for spec, array in zip(model.inputs, inputs, strict=True)}
    (expected,) = model.original.run(feeds).values()
    errors: list[float] = []
    rules: Counter[str] = Counter()
    for seed in range(plans):
        plan = random_plan(graph, seed)
        rules.update(decision.rule for decision in plan.decisions)
        (found,) = graph_nets.evaluate(apply_plan(graph, plan), inputs)
        errors.append(graph_nets.relative_error(found, expected))
    used = ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items()))
    exact = all(error <= TOLERANCE for error in errors)
    return [name, len(errors), f"{max(errors):.1e}", used], exact


def main() -> int:
    parser = network_parser(__doc__)
    parser.add_argument("--plans", type=int, default=20, help="random plans of each network")
    parser.add_argument("--size", type=int, default=224, help="image size in pixels")
    options = parser.parse_args()
    rows = [row(name, options.size, options.plans) for name in options.network]
    print_table(("network", "plans", "largest error", "decisions"), [cells for cells, _ in rows])
    return 0 if all(exact for _, exact in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
