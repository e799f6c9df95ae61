"""What a model for a new chip is made of best when so many of its kernels were measured.

    PYTHONPATH=tests python benchmarks/tuned_models.py ../shared/data [--seeds 2]

Of TopHub's kernels of a device some are measured, the others predicted: by a few-shot model on top of all
models that ship for other chips (``calibrated``, the baseline), by one trained from the measured kernels
alone, and by the geometric mean of both. Mean errors, and in brackets ratios to the baseline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from networks import print_table

from syncnas_tvm.cost_models.devices import SHIPPED, Device
from syncnas_tvm.cost_models.few_shot import FewShotModel
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.train import read_data, samples_of
from syncnas_tvm.targets.loader import TRAINED

NAMES = ("rk3399-cpu-float32", "mali-t860-float32", "kirin970-cpu-float32")
COUNTS = (40, 80, 150)


def errors(data: object, device: Device, count: int, seed: int) -> list[float]:
    """Mean relative errors of the three ways."""
    samples = samples_of(data, device)  # type: ignore[arg-type]
    order = np.random.default_rng(seed).permutation(len(samples))
    known, rest = samples.take(order[:count]), samples.take(order[count:])
    others = [
        LearnedModel.load(TRAINED / f"{d.name}.npz") for d in SHIPPED if d.chip != device.chip
    ]
    found = [
        model.fit(known.kernels, known.latency_us).predict(rest.kernels)[0]
        for model in (FewShotModel(others), LearnedModel(device.peak, 0))
    ]
    found.append(np.sqrt(found[0] * found[1]))
    return [float(np.abs(us / rest.latency_us - 1).mean()) for us in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    data = read_data(sorted((options.data / "tophub").glob("*.log")))
    rows = []
    for device in (d for d in SHIPPED if d.name in NAMES):
        for count in COUNTS:
            found = [errors(data, device, count, seed) for seed in range(options.seeds)]
            base, *rest = np.mean(found, axis=0)
            shown = [f"{error:.1%} ({error / base:.2f})" for error in rest]
            rows.append((device.name, count, f"{base:.1%}", *shown))
    print_table(("device", "measured", "calibrated", "trained", "geometric mean"), rows)


if __name__ == "__main__":
    main()
