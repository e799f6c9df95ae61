"""How many samples the strategy search needs, on a table of all strategies: against random and TPE.

    python benchmarks/strategy_search.py [--seeds 100] [--json FILE]

The table (``strategy_table.py`` wrote it, before the search was tuned) has the reward of every
strategy. Reported are the median number of samples until one of the best 1 % is found, and until the
best strategy is, over the seeds. ``random`` draws without replacement; ``tpe`` is Optuna's default
sampler on the same parameters, where a repeated strategy counts as a sample like any other, and a
search ends without the best after ``--tpe-limit`` samples.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
from strategy_table import TABLE, read_table, reward

from syncnas_tvm.nas.sampler import choices_of, parameter_names
from syncnas_tvm.nas.strategy import STAGES, SyncStrategy
from syncnas_tvm.nas.tree import StrategyTree

Rewards = dict[SyncStrategy, float]
Search = Callable[[Rewards, int, int], Iterator[SyncStrategy]]


def mcts(rewards: Rewards, seed: int, limit: int) -> Iterator[SyncStrategy]:
    """The search of ``syncnas_tvm.nas.tree``."""
    tree = StrategyTree(STAGES, seed)
    while (strategy := tree.ask()) is not None:
        yield strategy
        tree.tell(strategy, rewards[strategy])


def without_replacement(rewards: Rewards, seed: int, limit: int) -> Iterator[SyncStrategy]:
    """A random order."""
    yield from random.Random(seed).sample(list(rewards), len(rewards))


def tpe(rewards: Rewards, seed: int, limit: int) -> Iterator[SyncStrategy]:
    """Optuna's tree-structured Parzen estimator."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(limit):
        trial = study.ask()
        names, choices = parameter_names(STAGES), choices_of(STAGES)
        kinds = [trial.suggest_categorical(n, c) for n, c in zip(names, choices, strict=True)]
        strategy = SyncStrategy(tuple(kinds))
        yield strategy
        study.tell(trial, rewards[strategy])


def samples(
    search: Iterator[SyncStrategy], good: set[SyncStrategy], best: SyncStrategy, limit: int
):
    """Samples until one of ``good``, and until ``best``; ``limit`` where it was not found."""
    first = None
    for number, strategy in enumerate(search, 1):
        if first is None and strategy in good:
            first = number
        if strategy == best:
            return first or number, number
    return first or limit, limit


def main() -> None:
    """Print a line per search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument(
        "--tpe-limit", type=int, default=400, help="samples of a TPE search at most"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = read_table(options.table)
    rewards = {SyncStrategy.parse(name): reward(row) for name, row in rows.items()}
    if len(rewards) != 2 * 3 ** (STAGES - 1):
        print(f"the table has {len(rewards)} of 1458 strategies: run strategy_table.py first")
    ranked = sorted(rewards, key=rewards.__getitem__, reverse=True)
    good = set(ranked[: max(1, len(ranked) // 100)])
    print(
        f"{len(rewards)} strategies, best {ranked[0]} ({rewards[ranked[0]]:.3f}), 1 % are {len(good)}"
    )
    searches: dict[str, tuple[Search, int, int]] = {
        "random": (without_replacement, options.seeds, len(rewards)),
        "tpe": (tpe, options.seeds, options.tpe_limit),
        "mcts": (mcts, options.seeds, len(rewards)),
    }
    print(
        f"{'search':8}{'seeds':>6}{'best 1 %':>10}{'best':>7}{'90 %: ':>8}{'best 1 %':>9}{'best':>7}"
    )
    found = {}
    for name, (search, seeds, limit) in searches.items():
        counts = [
            samples(search(rewards, seed, limit), good, ranked[0], limit) for seed in range(seeds)
        ]
        columns = [sorted(column) for column in zip(*counts, strict=True)]
        middle = [statistics.median(column) for column in columns]
        late = [column[int(0.9 * (len(column) - 1))] for column in columns]
        found[name] = {"seeds": seeds, "median": middle, "p90": late, "limit": limit}
        print(
            f"{name:8}{seeds:6}{middle[0]:10.1f}{middle[1]:7.1f}{'':8}{late[0]:9}{late[1]:7}",
            flush=True,
        )
    ratio = [m / r for m, r in zip(found["mcts"]["median"], found["random"]["median"], strict=True)]
    print(f"mcts over random: {ratio[0]:.2f} (best 1 %), {ratio[1]:.2f} (best)")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
