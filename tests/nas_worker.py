"""A worker in a process of its own, for tests that kill it: reward by arithmetic, after a while.

python tests/nas_worker.py STORAGE STAGES TRIALS SECONDS LOG
"""

import sys
import time
from pathlib import Path

from syncnas_tvm.nas.study import open_storage, open_study
from syncnas_tvm.nas.worker import Outcome, Worker


def reward(strategy):
    return sum(
        (3 if kind == "a" else 1) * (s + 1) for s, kind in enumerate(strategy.kinds) if kind != "n"
    )


def main(storage, stages, trials, seconds, log):
    study = open_study(open_storage(storage), "test", int(stages), {"of": "tests"})

    def evaluate(strategy):
        with Path(log).open("a") as file:
            file.write(f"{strategy}\n")
        time.sleep(float(seconds))
        return Outcome(reward(strategy), {"latency_us": 1.0})

    Worker(study, evaluate, int(stages), int(trials), heartbeat_s=0.2, poll_s=0.1).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
