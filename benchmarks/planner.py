"""What the planner predicts and how fast it finds it: every network, target, sync cost, strategy.

    PYTHONPATH=tests python benchmarks/planner.py [network ...] [--json FILE] [--mode additive]

Predicted latencies of each lane alone, of splitting block by block (the decisions ``Place`` and
``ChannelSplit`` alone), and of all registered rules with each strategy; with the syncs of the best
plan, evaluations, seconds, and the distance from ``dp``, all medians over ``--seeds``, and how many whole
plans are scored in a second. Kernel times
are those that ``compile`` predicts with, or with ``--model roofline`` the target's roofline; on ``host``,
where ``compile`` measures and nothing is measured here, always the roofline; with ``--measurements``
those of TopHub's logs, unfused AutoTVM kernels (targets without any are left out). A sync cost of S us stands
for transfers of S us each way in cost modes ``timeline`` and ``additive``, whatever their size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from networks import network_parser, spaces_of

from syncnas_tvm.cost_models import CostModel, Roofline, cost_model_of, read_tophub
from syncnas_tvm.errors import InputError
from syncnas_tvm.planner import (
    DEFAULT_BUDGET,
    MODES,
    STRATEGIES,
    Budget,
    CostMode,
    Space,
    single_lane,
    strategy,
)
from syncnas_tvm.scorer import Scorer
from syncnas_tvm.syncs import count_syncs
from syncnas_tvm.targets import Target, Transfer

TARGETS = ("host", "rk3399", "android-adreno", "android-mali")
SYNCS_US = (50.0, 200.0, 500.0, 1000.0)
BLOCK_BY_BLOCK = ("Place", "ChannelSplit")
MODELS: dict[str, Callable[[Target], CostModel]] = {"learned": cost_model_of, "roofline": Roofline}
Row = dict[str, Any]


def restricted(space: Space, rules: tuple[str, ...]) -> Space:
    """``space`` with the decisions of ``rules`` on single regions alone."""
    lists = (
        tuple(c for c in here if c.span == 1 and c.decision.rule in rules)
        for here in space.candidates
    )
    return Space(space.regions, tuple(lists))


def scorer_of(space: Space, target: Target, model: CostModel, mode: str, sync_us: float) -> Scorer:
    """Scores plans where a sync costs ``sync_us``."""
    if mode == "study":
        return CostMode("study", sync_us).scorer(space, target.costs, model)
    sync = Transfer(sync_us, 1e9)
    costs = replace(target.costs, to_gpu=sync, to_cpu=sync)
    return CostMode(mode).scorer(space, costs, model)  # type: ignore[arg-type]


def search(name: str, space: Space, scorer: Scorer, budget: Budget, seeds: int) -> Row:
    """The strategy's result, medians over ``seeds``."""
    found = [strategy(name, seed).run(space, scorer, budget) for seed in range(seeds)]
    middle = sorted(found, key=lambda r: r.score_us)[len(found) // 2]
    return {
        "us": statistics.median(r.score_us for r in found),
        "syncs": count_syncs(middle.candidates),
        "rules": sorted({c.decision.rule for c in middle.candidates}),
        "evaluations": statistics.median(r.evaluations for r in found),
        "seconds": statistics.median(r.seconds for r in found),
        "complete": all(r.complete for r in found),
    }


def scored_a_second(space: Space, scorer: Scorer) -> float:
    """Whole plans, spread over the space, that are scored in a second; the fastest of three rounds."""
    plans = [space.plan_at(number * (space.count() // 997)) for number in range(997)]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for plan in plans:
            scorer.score(plan)
        times.append(time.perf_counter() - start)
    return len(plans) / min(times)


def measure(space: Space, scorer: Scorer, options: argparse.Namespace) -> Row:
    """One row of the table."""
    row: Row = {lane: scorer.score(single_lane(space, lane)) for lane in ("cpu", "gpu")}  # type: ignore[arg-type]
    unlimited = Budget(seconds=60)
    row["scored_a_second"] = scored_a_second(space, scorer)
    row["blocks"] = search("dp", restricted(space, BLOCK_BY_BLOCK), scorer, unlimited, 1)
    best = search("dp", space, scorer, unlimited, 1)
    budget = Budget(options.evaluations, options.seconds)
    for name in options.strategies:
        if name == "dp":
            row[name] = {**best, "off": 0.0}
        elif name != "exhaustive" or space.count() <= 1_000_000:
            seeds = 1 if name in ("beam", "exhaustive") else options.seeds
            found = search(name, space, scorer, budget, seeds)
            row[name] = {**found, "off": found["us"] / best["us"] - 1}
    return row


def markdown(rows: list[Row], strategies: list[str]) -> str:
    """One line a network, target and sync cost; times in ms, gains over the better lane."""
    heads = ["network", "target", "sync us", "CPU", "GPU", "block by block", "gain", "syncs"]
    for name in strategies:
        heads += [name, "gain", "syncs", "off dp", "evaluations", "s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        lane_us = min(row["cpu"], row["gpu"])
        cells = [row["network"], row["target"], f"{row['sync_us']:g}"]
        cells += [f"{row[key] / 1e3:.2f}" for key in ("cpu", "gpu")]
        cells += [f"{row['blocks']['us'] / 1e3:.2f}", f"{lane_us / row['blocks']['us']:.2f}"]
        cells += [str(row["blocks"]["syncs"])]
        for name in strategies:
            if name not in row:
                cells += ["-"] * 6
                continue
            r = row[name]
            star = "*" if r["complete"] else ""
            cells += [f"{r['us'] / 1e3:.2f}{star}", f"{lane_us / r['us']:.2f}", str(r["syncs"])]
            cells += [f"{r['off']:.2%}", f"{r['evaluations']:.0f}", f"{r['seconds']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "* proven to be the best", "", summary(rows, strategies)])


def summary(rows: list[Row], strategies: list[str]) -> str:
    """For each strategy how far from ``dp`` it ends, and how often ``mcts`` is better."""
    slowest = min(row["scored_a_second"] for row in rows)
    lines = [f"plans scored a second: at least {slowest:.0f}"]
    for name in strategies:
        off = [row[name]["off"] for row in rows if name in row]
        if off:
            within = sum(value <= 0.01 for value in off)
            line = f"{name}: within 1 % of dp in {within} of {len(off)}, at most {max(off):.2%} off"
            both = [row for row in rows if name in row and "mcts" in row]
            if both and name != "mcts":
                us = [(row["mcts"]["us"], row[name]["us"]) for row in both]
                better = sum(a < b * (1 - 1e-9) for a, b in us)
                worse = sum(a > b * (1 + 1e-9) for a, b in us)
                line += f"; mcts is better in {better}, worse in {worse}"
            lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--syncs", nargs="+", type=float, default=list(SYNCS_US), metavar="US")
    parser.add_argument("--strategies", nargs="+", default=["dp", "mcts", "beam", "greedy", "random"], choices=sorted(STRATEGIES))  # fmt: skip
    parser.add_argument("--mode", choices=MODES, default="timeline")
    parser.add_argument("--evaluations", type=int, default=DEFAULT_BUDGET.evaluations)
    parser.add_argument("--seconds", type=float, help="also end a search after so long")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--regions", type=int, help="only a network's first so many regions")
    parser.add_argument("--model", choices=MODELS, default="learned", help="(default: learned)")
    parser.add_argument("--measurements", nargs="+", type=Path, default=[], help="TopHub logs")
    parser.add_argument("--measured-gpu-dtype", default="float32", help="of the logs' GPU kernels")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    rows: list[Row] = []
    for network in options.network:
        print(network, file=sys.stderr, flush=True)
        for target, space in spaces_of(network, options.targets):
            if options.regions:
                space = truncated(space, options.regions)
            model: CostModel = MODELS[options.model](target)
            if options.measurements:
                dtype = options.measured_gpu_dtype
                try:
                    model = read_tophub(options.measurements, target, dtype)
                except InputError as error:
                    print(f"{target.name} left out: {error}", file=sys.stderr)
                    continue
            for sync_us in options.syncs:
                scorer = scorer_of(space, target, model, options.mode, sync_us)
                row = measure(space, scorer, options)
                rows.append({"network": network, "target": target.name, "sync_us": sync_us, **row})
        if options.json:
            options.json.write_text(
                json.dumps({"mode": options.mode, "model": options.model, "rows": rows}, indent=2)
            )
    print(markdown(rows, options.strategies))


def truncated(space: Space, regions: int) -> Space:
    """The decisions for the first ``regions`` of ``space``."""
    lists = (
        tuple(c for c in here if start + c.span <= regions)
        for start, here in enumerate(space.candidates[:regions])
    )
    return Space(space.regions[:regions], tuple(lists))


if __name__ == "__main__":
    main()
