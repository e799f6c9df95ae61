"""Real training: searched two-branch models against their base at equal predicted latency.

    nice python benchmarks/fashion_mnist.py [--budgets 1.0 0.5] [--seeds 5] [--trials 12] [--only-report]
        [--jobs 2] [--device cuda]

Widths are determined for rk3399 at 224 and width 1; what is trained has the same ratios at a smaller
width, on Fashion-MNIST. For each budget: a search (validation images alone decide), then the winner
and its rival, with the same recipe and paired seeds, on training images alone. The
rival at budget 1.0 is the base itself; at a smaller one it is the base at the width with the most
multiply-adds whose predicted latency on its best lane fits. The branches of smaller budgets are made of
the base times ``--trunk``, or of this scaled base (``fit``). The test images are read once, when the training
of a model has ended. What is found (the searches' winners and tables, the table of trainings, and the
settings of all) is kept in ``fashion_mnist/``, what is
under way in ``--folder``; the same command goes on after an interruption, on another machine too.
``--jobs`` evaluates and trains so many models at once, each in a process of one thread.

Printed: mean difference in test accuracy (two branches minus base) with its 95 % interval (Student's t
over the paired seeds).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from scipy import stats

from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.allocate import Allocator
from syncnas_tvm.nas.branched import BranchedConfig
from syncnas_tvm.nas.config_file import read_config, write_config
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.data import DataOptions, DataSpec
from syncnas_tvm.nas.description import MULTIPLE, STEM_STRIDE
from syncnas_tvm.nas.model import Mobile
from syncnas_tvm.nas.results import results, write_results
from syncnas_tvm.nas.scaled_base import ScaledBase, scaled_base
from syncnas_tvm.nas.settings import TrainSettings
from syncnas_tvm.nas.study import open_storage, open_study
from syncnas_tvm.nas.task import SearchTask, cost_model
from syncnas_tvm.nas.trainer import Trainer
from syncnas_tvm.nas.training import TrainTask
from syncnas_tvm.nas.worker import Worker
from syncnas_tvm.targets import load_target

FOUND = Path(__file__).with_suffix("")
COLUMNS = (
    "budget",
    "model",
    "seed",
    "width",
    "latency_us",
    "mmacs",
    "val",
    "test",
    "seconds",
)
BASE, TARGET = "mobilenet_v2", "rk3399"


def search(
    task: SearchTask, trials: int, found: Path, pool: ProcessPoolExecutor, jobs: int
) -> BranchedConfig:
    """The best configuration by validation accuracy; evaluated ones are not evaluated again.

    It is kept in ``found``, with a table of what was evaluated.
    """
    path = found / f"best-{task.budget:g}.json"
    if path.exists():
        return read_config(path)
    assert task.folder is not None
    study = _study(task)
    for worker in [pool.submit(_work, task, trials) for _ in range(jobs)]:
        worker.result()
    write_results(results(study), task.folder, f"budget {task.budget:g}")
    shutil.copy(task.folder / "results.csv", found / f"search-{task.budget:g}.csv")
    config = read_config(task.folder / "best.json")
    write_config(config, path)
    return config


def _study(task: SearchTask) -> optuna.Study:
    assert task.folder is not None
    storage = open_storage(str(task.folder / "study.db"))
    return open_study(storage, f"budget {task.budget:g}", len(ZOO[BASE].stages), task.to_json())


def _work(task: SearchTask, trials: int) -> None:
    Worker(_study(task), task.evaluate, len(ZOO[BASE].stages), trials).run()


@dataclass(frozen=True)
class Training:
    """A final training: of the configuration, or of the rival where there is none.

    ``name`` is what the table calls the model."""

    name: str
    task: TrainTask
    config: BranchedConfig | None
    base: ScaledBase
    latency_us: float
    path: Path

    @property
    def width(self) -> float:
        """Of the model, relative to the base at its own width."""
        return self.task.width * (self.base.width if self.config is None else 1.0)

    def trainer(self) -> Trainer:
        """A fresh training."""
        if self.config is not None:
            return self.task.trainer(self.config, self.path)
        settings, data = self.task.settings, self.task.images
        torch.manual_seed(settings.seed)
        network = ZOO[BASE].scaled(self.base.width, self.base.multiple)
        model = Mobile(
            network.scaled(self.task.width, self.task.multiple),
            data.classes,
            inputs=data.channels,
            stem_stride=data.stem_stride or STEM_STRIDE,
            dropout=settings.dropout,
        )
        return Trainer(model, data, settings, path=self.path, device=self.task.device)


def train(training: Training) -> tuple[str, ...]:
    """Train to the end; returns the cells of the table from the width on.

    The seconds are of the CPU, since the training last went on.
    """
    started = time.process_time()
    trainer = training.trainer()
    val = trainer.run()
    test = trainer.evaluate("test")
    training.path.unlink(missing_ok=True)
    data = training.task.images
    mmacs = count(trainer.model, data.size, data.channels).macs / 1e6
    seconds = time.process_time() - started
    return (
        f"{training.width:g}", f"{training.latency_us:.1f}", f"{mmacs:.2f}", f"{val.top1:.4f}",
        f"{test.top1:.4f}", f"{seconds:.0f}",
    )  # fmt: skip


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Keep ``settings`` beside the table; end where it was made with others."""
    if path.exists():
        before = json.loads(path.read_text())
        other = [f"{k} {before.get(k)}" for k in settings if before.get(k) != settings[k]]
        if other:
            sys.exit(f"error: {path} has {', '.join(other)}; give the same, or another --found")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n")


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


def trunk_of(text: str) -> float | Literal["fit"]:
    """The scale of a trunk."""
    return "fit" if text == "fit" else float(text)


def main() -> None:
    """Search, train, and report, as far as it has not been done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--width", type=float, default=0.25, help="of the trained models")
    parser.add_argument("--multiple", type=int, default=MULTIPLE, help="of their channels")
    parser.add_argument(
        "--size", type=int, default=32, help="of the images (32: padded, as they are)"
    )
    parser.add_argument("--stem-stride", type=int, default=1, help="2: a quarter of the time")
    parser.add_argument("--epochs", type=int, default=12, help="of the final trainings")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, help="of the final trainings (default: 54,000)")
    parser.add_argument("--search-epochs", type=int, default=4)
    parser.add_argument("--search-images", type=int, default=12_000)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--folder", type=Path, default=Path("fashion-mnist-runs"))
    parser.add_argument("--found", type=Path, default=FOUND, help="winners and table")
    parser.add_argument(
        "--trunk",
        type=trunk_of,
        default=1.0,
        help="of budgets below 1: a scale, or 'fit': the rival",
    )
    parser.add_argument("--jobs", type=int, default=1, help="models at once")
    parser.add_argument("--device", default="cpu", help="torch's name of where to train: cuda")
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    table = options.found / "table.csv"
    if options.only_report:
        report(table, options.budgets)
        return
    recipe = TrainSettings(
        epochs=options.epochs,
        batch=options.batch,
        warmup_epochs=1,
        ema=0.995,
        dropout=0.1,
        threads=1,
    )
    spec = DataSpec.parse(options.data)
    shapes = {"size": options.size, "stem_stride": options.stem_stride}
    names = ("trials", "width", "images", "search_epochs", "search_images")
    settings = {name: getattr(options, name) for name in names} | shapes
    settings |= {k: v for k, v in recipe.to_json().items() if k not in ("seed", "threads")}
    if options.multiple != MULTIPLE:
        settings["multiple"] = options.multiple
    if options.trunk != 1:
        settings["trunk"] = options.trunk
    check_settings(options.found / "settings.json", settings)
    target = load_target(TARGET)
    whole = Allocator(ZOO[BASE], target, cost_model(target))
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for budget in options.budgets:
            base = scaled_base(whole, budget)
            fits = options.trunk == "fit" or budget >= 1
            trunk, multiple = (base.width, base.multiple) if fits else (options.trunk, MULTIPLE)
            task = SearchTask(
                BASE,
                spec,
                DataOptions(images=options.search_images, **shapes),
                replace(recipe, epochs=options.search_epochs),
                options.width,
                options.multiple,
                device=options.device,
                target=TARGET,
                budget=budget,
                trunk=trunk,
                trunk_multiple=multiple,
                folder=options.folder / f"budget-{budget:g}",
            )
            config = search(task, options.trials, options.found, pool, options.jobs)
            final = TrainTask(
                BASE,
                spec,
                DataOptions(images=options.images, **shapes),
                recipe,
                options.width,
                options.multiple,
                device=options.device,
            )
            found_us = task.allocator.time(config).latency_us
            missing = {}
            for seed in range(options.seeds):
                one = replace(final, settings=replace(recipe, seed=seed))
                for name, which, us in (
                    ("branched", config, found_us),
                    ("base", None, base.latency_us),
                ):
                    if (f"{budget:g}", name, str(seed)) not in known(table):
                        path = options.folder / f"{name}-{budget:g}-{seed}.pth"
                        training = Training(name, one, which, base, us, path)
                        missing[pool.submit(train, training)] = training
            for done in as_completed(missing):
                training = missing[done]
                seed = training.task.settings.seed
                add(table, (f"{budget:g}", training.name, seed, *done.result()))
                report(table, [budget])


if __name__ == "__main__":
    main()
