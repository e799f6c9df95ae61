"""Every network, every way to run it, in one table: latency and peak memory.

    PYTHONPATH=tests python benchmarks/latency.py [--json FILE] [--only cpu1,ort1] [NETWORK ...]

Columns: our CPU lane with 1 and 2 threads, our GPU lane (PoCL on one core), the best plan on both
lanes (one core each), onnxruntime with 1 and 2 threads, TVM's default pipeline on one core. Each is
a process of its own; they take turns, a few runs each, so that a noisy moment meets all of them.
Memory is the peak of the resident set while running, above the level after the imports. Where both lanes
and each alone are measured, their harmonic bound and what was predicted stand beside them.

Networks: those of tests/zoo.py, at 224 x 224. The whole table takes about half an hour.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import zoo
from contender import KINDS, PREDICTED
from networks import network_parser

PROGRAM = str(Path(__file__).with_name("contender.py"))
ROUNDS, RUNS = 12, 5
SLOW_RUNS = 1  # of TVM's default pipeline, which takes tens of times as long as the others


class Contender:
    """A process that has one network loaded in one way."""

    def __init__(self, kind: str, model: Path, folder: Path) -> None:
        self.kind = kind
        self.latencies_us: list[float] = []
        environment = {**os.environ, **KINDS[kind]}
        where = [kind, str(model), str(folder)]
        subprocess.run(
            [sys.executable, PROGRAM, "prepare", *where], env=environment, check=True, stdout=2
        )
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM, "run", *where],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # "ready"
        self.peak_bytes = int(self._ask(""))  # type: ignore[call-overload]

    def run(self) -> None:
        """Take a turn."""
        runs = SLOW_RUNS if self.kind == "tvm" else RUNS
        self.latencies_us += self._ask(str(runs))  # type: ignore[operator]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, line: str) -> object:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> object:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.kind} ended: {self._process.wait()}")
        return json.loads(line)


def measure(name: str, size: int, kinds: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Minimum and median latency in microseconds and peak memory in bytes, of each kind."""
    model = zoo.export(name, size=size)
    with tempfile.TemporaryDirectory() as scratch:
        contenders = [Contender(kind, model, Path(scratch) / kind) for kind in kinds]
        for _ in range(rounds):
            for contender in contenders:
                contender.run()
        for contender in contenders:
            contender.close()
        predicted = Path(scratch) / PREDICTED
        predicted_us = json.loads(predicted.read_text()) if predicted.exists() else None
    found = {
        c.kind: {
            "min_us": min(c.latencies_us),
            "median_us": statistics.median(c.latencies_us),
            "peak_bytes": c.peak_bytes,
        }
        for c in contenders
    }
    if predicted_us:
        found["both"]["predicted_us"] = predicted_us
    return found


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


# The ratios that the project promises: (title, kind, peer).
RATIOS = (
    ("CPU lane / onnxruntime, 1 thread", "cpu1", "ort1"),
    ("CPU lane / onnxruntime, 2 threads", "cpu2", "ort2"),
    ("GPU lane / CPU lane", "gpu", "cpu1"),
    ("both lanes / onnxruntime, 2 threads", "both", "ort2"),
)


def markdown(table: dict[str, dict[str, dict[str, float]]], kinds: list[str]) -> str:
    """The table, and the speed ratios (above 1: the first is faster)."""
    lines = [
        "Latency in ms: minimum (median).",
        "",
        f"| network | {' | '.join(kinds)} |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for name, row in table.items():
        cells = (f"{row[k]['min_us'] / 1e3:.2f} ({row[k]['median_us'] / 1e3:.2f})" for k in kinds)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "Peak memory in MB.", "", *lines[2:4]]
    for name, row in table.items():
        megabytes = (f"{row[k]['peak_bytes'] / 1e6:.0f}" for k in kinds)
        lines.append(f"| {name} | {' | '.join(megabytes)} |")
    ratios = [r for r in RATIOS if r[1] in kinds and r[2] in kinds]
    titles = [f"{title}: {of}" for title, _, _ in ratios for of in ("min", "median", "memory")]
    if not ratios:
        return "\n".join(lines)
    lines += ["", "Speed (above 1: faster) and memory (below 1: less), relative.", ""]
    lines += [f"| network | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    columns: list[list[float]] = []
    for name, row in table.items():
        values = []
        for _, kind, peer in ratios:
            values += [row[peer][key] / row[kind][key] for key in ("min_us", "median_us")]
            values.append(row[kind]["peak_bytes"] / row[peer]["peak_bytes"])
        columns.append(values)
        lines.append(f"| {name} | {' | '.join(f'{v:.2f}' for v in values)} |")
    means = (geometric_mean(list(column)) for column in zip(*columns, strict=True))
    lines.append(f"| geometric mean | {' | '.join(f'{v:.2f}' for v in means)} |")
    return "\n".join([*lines, *overlap(table)])


def overlap(table: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Both lanes against the harmonic bound of the two, 1 / (1 / CPU + 1 / GPU), and what was predicted."""
    lines = ["", "Both lanes: share of the lanes' harmonic bound, and measured over predicted.", ""]
    lines += ["| network | bound: min | bound: median | predicted ms | median over predicted |"]
    lines += ["|---" * 5 + "|"]
    for name, row in table.items():
        if not {"cpu1", "gpu", "both"} <= row.keys() or "predicted_us" not in row["both"]:
            return []
        both = row["both"]
        shares = [
            1 / (1 / row["cpu1"][of] + 1 / row["gpu"][of]) / both[of]
            for of in ("min_us", "median_us")
        ]
        cells = [*(f"{share:.2f}" for share in shares), f"{both['predicted_us'] / 1e3:.2f}"]
        cells.append(f"{both['median_us'] / both['predicted_us']:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--only", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--size", type=int, default=224, help="image size in pixels")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each contender")
    options = parser.parse_args()
    kinds = options.only.split(",")
    table = {}
    for name in options.network:
        print(name, file=sys.stderr, flush=True)
        table[name] = measure(name, options.size, kinds, options.rounds)
        if options.json:
            options.json.write_text(json.dumps(table, indent=2))
    print(markdown(table, kinds))


if __name__ == "__main__":
    main()
