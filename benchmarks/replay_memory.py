"""What each kind of memory costs a compiled network: latency on both lanes, runs played back.

    PYTHONPATH=tests python benchmarks/replay_memory.py [--rounds 5] [NETWORK ...]

Every region is cut in two where it can be, so that there are as many syncs as there can be. Memory is
chosen when the device is opened, so each kind runs in processes of its own, which take turns; a round is
the minimum and the median of 100 runs. Minima over the rounds, and the median ratio of a round's medians
to those of ``copied`` in the same round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import zoo
from networks import network_parser, no_measurements, print_table

import syncnas_tvm

MEMORIES = ("copied", "mapped", "shared")
HEADER = ("network", "memory", "transfers", "ms (min)", "ms (median)", "to copied")
RUNS = """
import json, sys, syncnas_tvm
executable = syncnas_tvm.load(sys.argv[1])
inputs = executable.random_inputs()
spans = executable.profile(inputs).spans
print(json.dumps([sum(span.kind == "transfer" for span in spans),
                  executable.time(inputs, repeat=100, warmup=20)]))
"""


def measured(folder: Path, memory: str) -> tuple[int, float, float]:
    """Transfers of a run; the least and the median latency in milliseconds."""
    environment = {**os.environ, "SYNCNAS_OPENCL_MEMORY": memory}
    command = [sys.executable, "-c", RUNS, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    transfers, latencies_us = json.loads(done.stdout)
    return transfers, min(latencies_us) / 1e3, statistics.median(latencies_us) / 1e3


def rows(name: str, rounds: int, folder: Path) -> Iterator[tuple[object, ...]]:
    """Measure one network."""
    model = zoo.export(name, size=224)
    syncnas_tvm.compile_onnx(model, output=folder, split_all=True, verify=False, timed=False)
    found = [[measured(folder, memory) for memory in MEMORIES] for _ in range(rounds)]
    for i, memory in enumerate(MEMORIES):
        transfers = found[0][i][0]
        least = [min(turn[i][of] for turn in found) for of in (1, 2)]
        ratio = statistics.median(turn[i][2] / turn[0][2] for turn in found)
        yield name, memory, transfers, *(f"{ms:.2f}" for ms in least), f"{ratio:.3f}"


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    with no_measurements(), tempfile.TemporaryDirectory() as folder:
        table = (
            row
            for name in options.network
            for row in rows(name, options.rounds, Path(folder) / name)
        )
        print_table(HEADER, table)


if __name__ == "__main__":
    main()
