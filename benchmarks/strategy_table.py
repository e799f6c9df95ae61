"""Scores every strategy of a base network without training: the table that searches are judged on.

    nice python benchmarks/strategy_table.py [--output benchmarks/strategy_table.csv]

For each of the 1,458 strategies: whether it fits the budget, the predicted latency, multiply-adds of
the branched model at 224, and the logarithm of SynFlow for each seed. Goes on where it was
interrupted: strategies that are in the file already are left as they are. The reward of a strategy is
the mean over the seeds, 0 where the budget cannot be met.

``strategy_table.csv`` was written before the search was tuned, with the target's roofline (``--model
roofline``, the default, so that it can be written again). ``--model learned`` takes what ``compile`` and
the search predict with: name another ``--output`` then.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from syncnas_tvm.cost_models import Roofline, cost_model_of
from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.allocate import Allocator
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.proxies import synflow
from syncnas_tvm.nas.strategy import strategies
from syncnas_tvm.targets import load_target

TABLE = Path(__file__).with_suffix(".csv")
SEEDS = (0, 1, 2)
MODELS = {"roofline": Roofline, "learned": cost_model_of}
CLASSES = 10  # the classifier is the same in all of them
COLUMNS = ("strategy", "feasible", "latency_us", "mmacs", *(f"synflow_{seed}" for seed in SEEDS))


def read_table(path: Path = TABLE) -> dict[str, dict[str, str]]:
    """Rows by strategy; none where there is no file yet."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["strategy"]: row for row in csv.DictReader(file) if row[COLUMNS[-1]]}


def reward(row: dict[str, str]) -> float:
    """What a search sees of a strategy: the mean over the seeds, 0 where it does not fit."""
    if row["feasible"] != "1":
        return 0.0
    return sum(float(row[f"synflow_{seed}"]) for seed in SEEDS) / len(SEEDS)


def main() -> None:
    """Add the missing strategies to the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="mobilenet_v2")
    parser.add_argument("--target", default="rk3399")
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=64, help="image size of the proxy")
    parser.add_argument("--model", choices=MODELS, default="roofline")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args()
    if options.model != "roofline" and options.output == TABLE:
        parser.error(f"{TABLE.name} is the roofline's: name another --output")
    torch.set_num_threads(1)
    target = load_target(options.target)
    allocator = Allocator(ZOO[options.base], target, MODELS[options.model](target))
    known = read_table(options.output)
    fresh = not options.output.exists()
    with options.output.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        for strategy in strategies(len(allocator.base.stages)):
            if str(strategy) in known:
                continue
            found = allocator.allocate(strategy, options.budget)
            scores, mmacs = ["0"] * len(SEEDS), 0.0
            if found.config is not None:
                scores = []
                for seed in SEEDS:
                    torch.manual_seed(seed)
                    model = BranchedModel(found.config, classes=CLASSES)
                    scores.append(f"{synflow(model, options.size):.6f}")
                mmacs = count(model).macs / 1e6  # with the small classifier
            latency_us = f"{found.latency_us:.1f}"
            writer.writerow((strategy, int(found.feasible), latency_us, f"{mmacs:.2f}", *scores))
            file.flush()


if __name__ == "__main__":
    main()
