"""What `Branches` gains on searched SyncNAS models: the published configurations, on every target.

    PYTHONPATH=tests python benchmarks/branches.py ../shared/data/syncnas/syncnas_*_100.json [--targets rk3399 ...]

Predicted latencies (milliseconds; the target's learned cost models, on ``host`` the roofline; timeline
with syncs and contention) of each lane alone, of the best plan of all other rules, and of the best plan with `Branches` too, with
the number of syncs of each. Weights are random: they do not change what a plan costs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from networks import print_table

from syncnas_tvm.candidates import decision_space
from syncnas_tvm.cost_models import cost_model_of
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import read_config
from syncnas_tvm.nas.onnx_export import export_onnx
from syncnas_tvm.planner import Budget, CostMode, Space, single_lane, strategy
from syncnas_tvm.syncs import count_syncs
from syncnas_tvm.targets import load_target

HEADER = ("model", "target", "CPU", "GPU", "other rules", "syncs", "with Branches", "syncs", "gain")
Row = tuple[object, ...]


def rows(config: Path, targets: Sequence[str], size: int) -> Iterator[Row]:
    """A row per target for the model of one configuration."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(BranchedModel(read_config(config)).eval(), path, size)
        module = import_onnx(path).mod
    for name in targets:
        target = load_target(name)
        space = decision_space(RegionGraph(module, target.channel_step))
        scorer = CostMode("timeline").scorer(space, target.costs, cost_model_of(target))
        alone = [scorer.score(single_lane(space, lane)) for lane in ("cpu", "gpu")]
        found = [
            strategy("dp").run(which, scorer, Budget(seconds=60))
            for which in (_without(space, "Branches"), space)
        ]
        cells: list[object] = [f"{us / 1e3:.2f}" for us in alone]
        for result in found:
            cells += [f"{result.score_us / 1e3:.2f}", count_syncs(result.candidates)]
        gain = found[0].score_us / found[1].score_us
        yield config.stem, name, *cells, f"{gain:.2f}"


def _without(space: Space, rule: str) -> Space:
    lists = (tuple(c for c in here if c.decision.rule != rule) for here in space.candidates)
    return Space(space.regions, tuple(lists))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--targets", nargs="+", default=["host", "rk3399", "android-mali"])
    parser.add_argument("--size", type=int, default=224, help="image size in pixels")
    options = parser.parse_args()
    every = (row for c in options.configs for row in rows(c, options.targets, options.size))
    print_table(HEADER, every)


if __name__ == "__main__":
    main()
