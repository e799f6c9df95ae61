"""``tune`` on this machine through a tracker and a server on the loopback: how long, what for, and kills.

    PYTHONPATH=tests python benchmarks/tune_rpc.py [--model NETWORK] [--trials 64] [--kills 10]
        [--lanes cpu] [--json FILE]

First ``tune --target host --rpc-tracker`` runs to its end: seconds of the whole command. Then every kernel
of the network that has records is built with them and without, and called in pairs, as
``benchmarks/tuning.py`` does it; the baseline of the ratios is the untuned kernel of the same round.
Then the same command in a new folder is killed (SIGKILL) at ``--kills`` random moments and started again,
until it ends; the records are checked: none lost, none doubled, no broken line.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("POCL_AFFINITY", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("SYNCNAS_CPU_THREADS", "1")

import numpy as np
import zoo
from kernels import groups_of_network
from networks import network_parser
from tune_tools import Farm, native_server
from tuning import calls_of, paired_us

from syncnas_tvm.runtime.lanes import on_cpu_lane, reserve_cores
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.targets import load_target
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.tuning.record_files import read_records
from syncnas_tvm.tuning.tuner import spaces_of
from syncnas_tvm.work import Lane


def command(model: Path, records: Path, farm: Farm, trials: int, lanes: str) -> list[str]:
    """The command line."""
    flags = ["--target", "host", "--trials", str(trials), "--lanes", lanes, "--json"]
    where = ["--output", str(records), *farm.flags]
    return [sys.executable, "-m", "syncnas_tvm.tune", str(model), *flags, *where]


def tuned_ratios(model: Path, records: Path, lane: Lane, rounds: int) -> list[float]:
    """Untuned over tuned time of each kernel of the network that has records, medians over rounds."""
    target = load_target("host")
    reserve_cores(target)
    found = TuningRecords(records, target)
    schedules = PackedSchedules.of(target)
    groups = {
        group.kernel: group
        for group in groups_of_network(model, lane, target)
        if any(found.measured(space) for space in spaces_of(group, schedules))
    }
    if not groups:
        return []
    ours = list(groups.values())
    with on_cpu_lane(target.cpus):
        untuned = calls_of(ours, lane, target, None)
        pairs = list(zip(untuned, calls_of(ours, lane, target, found), strict=True))
        samples = paired_us(pairs, lane, rounds)
    return np.median(samples[:, :, 0] / samples[:, :, 1], axis=0).tolist()


def killed(
    model: Path, records: Path, farm: Farm, options: object, kills: int, seconds: float
) -> int:
    """Kill the command at random moments; how often it was running when it was killed."""
    rng, count = random.Random(0), 0
    line = command(model, records, farm, options.trials, options.lanes)  # type: ignore[attr-defined]
    for _ in range(kills):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, max(12.0, seconds / kills)))
        count += process.poll() is None
        process.kill()
        process.wait()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return count


def faults(records: Path) -> dict[str, int]:
    """What is wrong with the records of a tuning that has ended."""
    problems: list[str] = []
    found = read_records(records, problems)
    keys = Counter((r.workload, str(r.target["kind"]), r.sampled) for r in found)
    return {
        "tilings": len(keys),
        "broken": len(problems),
        "failed": sum(record.failed for record in found),
        # A tiling is measured when it is searched, and once more where it is compared with the rule's.
        "doubled": sum(count > 2 for count in keys.values()),
    }


def main() -> None:
    parser = network_parser(__doc__)
    parser.set_defaults(network=["mobilenet_v2"])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=61, help="pairs of each kernel")
    parser.add_argument("--lanes", choices=("cpu", "gpu", "both"), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    model = zoo.export(options.network[0], size=224)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        farm = Farm(native_server(), folder)
        with farm.open(1):
            start = time.monotonic()
            line = command(model, folder / "records", farm, options.trials, options.lanes)
            done = subprocess.run(line, check=True, capture_output=True, text=True)
            seconds = time.monotonic() - start
            result = json.loads(done.stdout)
            caught = 0
            if options.kills:
                again = folder / "again"
                caught = killed(model, again, farm, options, options.kills, seconds)
        lane: Lane = "gpu" if options.lanes == "gpu" else "cpu"
        ratios = tuned_ratios(model, folder / "records", lane, options.rounds)
        found = {"first": faults(folder / "records")}
        if options.kills:
            found["killed"] = faults(folder / "again")
    print(
        f"{result['trials']} trials of {result['measured']} kernels in {seconds:.0f} s, "
        f"{len(result['failures'])} failed, {result['refined']} refined"
    )
    if ratios:
        low, middle, high = np.percentile(ratios, [0, 50, 100])
        print(
            f"untuned / tuned time of {len(ratios)} of the network's own kernels: "
            f"min {low:.3f}, median {middle:.3f}, max {high:.3f}"
        )
    for name, data in found.items():
        print(f"{name}: {', '.join(f'{count} {what}' for what, count in data.items())}")
    if options.kills:
        print(f"killed while running: {caught} of {options.kills} times")
    if options.json is not None:
        data = {"seconds": seconds, "result": result, "ratios": ratios, "records": found}
        options.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
