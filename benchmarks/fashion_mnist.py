"""Real training: searched two-branch models against their base at equal predicted latency.

    nice python benchmarks/fashion_mnist.py [--budgets 1.0 0.5] [--seeds 5] [--trials 12] [--only-report]

Widths are determined for rk3399 at 224 and width 1; what is trained has the same ratios at a smaller
width, on Fashion-MNIST. For each budget: a search (validation images alone decide), then the winner
and its rival, with the same recipe and paired seeds, on all training images but the held-out ones. The
rival at budget 1.0 is the base itself; at a smaller one it is the base at the largest width whose
predicted latency on its best lane fits. The test images are read once, when the last training of a
model has ended. What is found (the searches' winners and the table) is kept in ``fashion_mnist/``, what is
under way in ``--folder``; the same command goes on after an interruption, on another machine too.

Printed: mean difference in test accuracy (two branches minus base) with its 95 % interval (Student's t
over the paired seeds).
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from scipy import stats

from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.allocate import Allocator
from syncnas_tvm.nas.branched import BranchedConfig
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import read_config, write_config
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.data import Data, DataOptions, DataSpec
from syncnas_tvm.nas.description import MULTIPLE, Network
from syncnas_tvm.nas.model import Mobile
from syncnas_tvm.nas.results import results
from syncnas_tvm.nas.settings import TrainSettings
from syncnas_tvm.nas.study import open_storage, open_study
from syncnas_tvm.nas.task import SearchTask
from syncnas_tvm.nas.trainer import Trainer
from syncnas_tvm.nas.worker import Worker

FOUND = Path(__file__).with_suffix("")
COLUMNS = (
    "budget",
    "model",
    "seed",
    "width",
    "latency_us",
    "mmacs",
    "epochs",
    "val",
    "test",
    "seconds",
)
BASE, TARGET = "mobilenet_v2", "rk3399"


def rival(allocator: Allocator, budget: float) -> tuple[float, float]:
    """Width and predicted latency of the base that fits the budget on one lane."""
    best = 0.0, 0.0
    if budget >= 1.0:
        return 1.0, allocator.base_us
    for hundredths in range(10, 101):
        width = hundredths / 100
        scaled = Allocator(
            ZOO[BASE].scaled(width), allocator.target, allocator.model, cap=0.01, step=4
        )
        if scaled.base_us <= budget * allocator.base_us:
            best = width, scaled.base_us
    return best


def search(task: SearchTask, trials: int, folder: Path, found: Path) -> BranchedConfig:
    """The best configuration by validation accuracy; evaluated ones are not evaluated again."""
    path = found / f"best-{task.budget:g}.json"
    if path.exists():
        return read_config(path)
    stages = len(ZOO[BASE].stages)
    storage = open_storage(str(folder / "study.db"))
    study = open_study(storage, f"budget {task.budget:g}", stages, task.to_json())
    Worker(study, task.evaluate, stages, trials).run()
    winner = results(study)[0]
    config = read_config(folder / "configs" / f"{winner.strategy}.json")
    write_config(config, path)
    return config


def train(
    model: torch.nn.Module, data: Data, settings: TrainSettings, path: Path
) -> tuple[float, float, float]:
    """Validation and test accuracy of one training, and its seconds."""
    started = time.monotonic()
    trainer = Trainer(model, data, settings, path=path)
    val = trainer.run(val_every=settings.epochs)
    test = trainer.evaluate("test")
    path.unlink(missing_ok=True)
    return val.top1, test.top1, time.monotonic() - started


def known(table: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """Rows of the table by budget, model and seed."""
    if not table.exists():
        return {}
    with table.open(newline="") as file:
        return {(r["budget"], r["model"], r["seed"]): r for r in csv.DictReader(file)}


def add(table: Path, row: tuple[object, ...]) -> None:
    """Append a row."""
    fresh = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def report(table: Path, budgets: list[float]) -> None:
    """Print the mean difference of the pairs that there are."""
    rows = known(table)
    for budget in budgets:
        pairs = [
            float(row["test"]) - float(rows[b, "base", seed]["test"])
            for (b, model, seed), row in rows.items()
            if b == f"{budget:g}" and model == "branched" and (b, "base", seed) in rows
        ]
        if len(pairs) < 2:
            print(f"budget {budget:g}: {len(pairs)} pairs, too few for an interval")
            continue
        mean = statistics.mean(pairs)
        error = statistics.stdev(pairs) / math.sqrt(len(pairs))
        half = float(stats.t.ppf(0.975, len(pairs) - 1)) * error
        print(
            f"budget {budget:g}: {len(pairs)} pairs, branched minus base {100 * mean:+.2f} points,"
            f" 95 % interval {100 * (mean - half):+.2f} to {100 * (mean + half):+.2f}"
        )


def main() -> None:
    """Search, train, and report, as far as it has not been done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--width", type=float, default=0.25, help="of the trained models")
    parser.add_argument("--epochs", type=int, default=12, help="of the final trainings")
    parser.add_argument("--search-epochs", type=int, default=4)
    parser.add_argument("--search-images", type=int, default=12_000)
    parser.add_argument("--stem-stride", type=int, default=1, help="2: a quarter of the time")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--folder", type=Path, default=Path("fashion-mnist-runs"))
    parser.add_argument("--found", type=Path, default=FOUND, help="winners and table")
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    table = options.found / "table.csv"
    if options.only_report:
        report(table, options.budgets)
        return
    recipe = TrainSettings(
        epochs=options.epochs, batch=128, warmup_epochs=1, ema=0.998, dropout=0.1, threads=1
    )
    spec = DataSpec.parse(options.data)
    data = spec.load(DataOptions(stem_stride=options.stem_stride))
    for budget in options.budgets:
        task = SearchTask(
            BASE,
            TARGET,
            budget,
            spec,
            DataOptions(images=options.search_images, stem_stride=options.stem_stride),
            replace(recipe, epochs=options.search_epochs),
            options.width,
            folder=options.folder / f"budget-{budget:g}",
        )
        config = search(task, options.trials, options.folder / f"budget-{budget:g}", options.found)
        width, rival_us = rival(task.allocator, budget)
        small = task.trained(config)
        network: Network = ZOO[BASE].scaled(width).scaled(options.width, MULTIPLE)
        latency_us = {"branched": task.allocator.time(config).latency_us, "base": rival_us}
        for seed in range(options.seeds):
            for name in ("branched", "base"):
                if (f"{budget:g}", name, str(seed)) in known(table):
                    continue
                torch.manual_seed(seed)
                common = {"inputs": data.channels, "dropout": recipe.dropout}
                model: torch.nn.Module
                if name == "branched":
                    model = BranchedModel(small, data.classes, **common)
                else:
                    stride = data.stem_stride
                    model = Mobile(network, data.classes, stem_stride=stride, **common)
                mmacs = count(model, data.size, data.channels).macs / 1e6
                path = options.folder / f"{name}-{budget:g}-{seed}.pth"
                val, test, seconds = train(model, data, replace(recipe, seed=seed), path)
                add(
                    table,
                    (
                        f"{budget:g}", name, seed, f"{options.width * (width if name == 'base' else 1):g}",
                        f"{latency_us[name]:.1f}", f"{mmacs:.2f}", recipe.epochs, f"{val:.4f}",
                        f"{test:.4f}", f"{seconds:.0f}",
                    ),
                )  # fmt: skip
        report(table, [budget])


if __name__ == "__main__":
    main()
