"""Ten thousand random plans of random networks: none may change what the network computes.

    PYTHONPATH=tests python benchmarks/random_plans.py [--plans 10000] [--state FILE] [--engine llvm]

A number is a network (blocks, sizes, strides, squeeze-and-excite, residuals, forks; as the tests'
networks) and a few plans of it, every registered rule among them. Rewritten modules are run by torch,
operator by operator, or with ``--engine llvm`` compiled with both lanes on the CPU; outputs are
compared with onnxruntime's at 1e-4 relative. Every number that is done is a line of ``--state``: a run
that ends, or is killed, goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import graph_nets
import numpy as np
from test_exactness import ACTIVATIONS, KINDS, TOLERANCE, Block, Case, Network, case_of, random_plan

from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.targets import load_target

PLANS_EACH = 10
STEPS = (1, 4, 8, 16)


def random_block(rng: np.random.Generator) -> Block:
    """A building block, its numbers as in the tests' strategies."""

    def size(most: int = 40) -> int:
        common = rng.choice([8, 16, 24, 32, 48])
        return int(common if rng.random() < 0.5 else rng.integers(1, most + 1))

    return Block(
        kind=str(rng.choice(KINDS)),
        out=size(),
        hidden=int(rng.choice([0, size(), rng.integers(33, 81)])),
        kernel=int(rng.choice([1, 3, 5, 7])),
        stride=int(rng.choice([1, 1, 2])),
        act=str(rng.choice(ACTIVATIONS)),
        excite=str(rng.choice(["", "", "before", "after"])),
        gate=str(rng.choice(["sigmoid", "hard_sigmoid"])),
        squeezed=int(rng.integers(1, 21)),
        residual=bool(rng.integers(2)),
        bias=bool(rng.integers(2)),
        norm=bool(rng.integers(2)),
        parts=int(rng.integers(2, 5)),
    )


def random_network(rng: np.random.Generator) -> Network:
    """A network of one to six blocks on images of 1 to 27 pixels a side."""
    return Network(
        batch=int(rng.choice([1, 1, 1, 2])),
        channels=int(rng.choice([3, rng.integers(1, 41)])),
        height=int(rng.integers(1, 28)),
        width=int(rng.integers(1, 28)),
        blocks=tuple(random_block(rng) for _ in range(rng.integers(1, 7))),
        head=str(rng.choice(["none", "classifier", "mobile", "two", "softmax"])),
        classes=int(rng.integers(1, 21)),
        seed=int(rng.integers(10)),
    )


def errors_of(number: int, engine: str) -> list[tuple[Plan, float]]:
    """The plans of a number, with the largest relative error of each."""
    rng = np.random.default_rng(number)
    case = case_of(random_network(rng), int(rng.choice(STEPS[1:] if engine == "llvm" else STEPS)))
    plans = [random_plan(case.graph, int(rng.integers(10**6))) for _ in range(PLANS_EACH)]
    outputs = len(case.expected)
    found = list(_outputs(case, plans, engine))
    pairs = zip(found, case.expected * PLANS_EACH, strict=True)
    errors = [graph_nets.relative_error(array, wanted) for array, wanted in pairs]
    return [(p, max(errors[i * outputs : (i + 1) * outputs])) for i, p in enumerate(plans)]


def _outputs(case: Case, plans: list[Plan], engine: str) -> Iterator[np.ndarray]:
    if engine == "llvm":
        merged = graph_nets.merge(case.graph, plans)
        yield from graph_nets.run_on_llvm(merged, load_target("host"), case.inputs)
        return
    for plan in plans:
        yield from graph_nets.evaluate(apply_plan(case.graph, plan), case.inputs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plans", type=int, default=10_000)
    parser.add_argument("--engine", choices=("torch", "llvm"), default="torch")
    parser.add_argument("--state", type=Path, default=Path("random_plans.jsonl"))
    options = parser.parse_args()
    done: dict[int, float] = {}
    rules: Counter[str] = Counter()
    if options.state.exists():
        for line in options.state.read_text().splitlines():
            known = json.loads(line)
            if known["engine"] == options.engine:
                done[known["number"]] = known["error"]
                rules.update(known["rules"])
    start = time.monotonic()
    for number in range(-(-options.plans // PLANS_EACH)):
        if number in done:
            continue
        results = errors_of(number, options.engine)
        here = Counter(decision.rule for plan, _ in results for decision in plan.decisions)
        for plan, error in results:
            if not error <= TOLERANCE:
                print(f"number {number}: {error:.2g} relative; {plan}", flush=True)
        done[number] = max(error for _, error in results)
        line = {"number": number, "engine": options.engine, "error": done[number], "rules": here}
        with options.state.open("a") as state:
            state.write(json.dumps(line) + "\n")
        rules.update(here)
    bad = sum(not error <= TOLERANCE for error in done.values())
    print(
        f"{len(done) * PLANS_EACH} plans of {len(done)} networks by {options.engine}: {bad} networks "
        f"off by more than {TOLERANCE:g}, largest error {max(done.values()):.1e}; decisions {dict(rules)}; "
        f"{time.monotonic() - start:.0f} s this time"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
