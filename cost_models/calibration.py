"""What a learned cost model finds out on parts of its training data that it holds out in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.ensemble import Ensemble

Array = NDArray[np.float64]
PARTS = 4
FLOORS, SPREADS = np.geomspace(0.005, 0.2, 15), np.geomspace(0.02, 3, 30)
TARGET = 0.9
NORMAL = 1.645
"""Standard deviations on either side of a normal's mean that hold ``TARGET`` of it."""


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviation of a log latency: ``scale * sqrt(floor^2 + far * spread^2)``."""

    floor: float = 0.02
    spread: float = 0.3
    scale: float = 1.0

    def std(self, far: Array) -> Array:
        """For kernels this ``far`` (0 to 1) from their nearest training kernel."""
        return self.scale * np.sqrt(self.floor**2 + far * self.spread**2)

    @staticmethod
    def of(off: Array, far: Array) -> Uncertainty:
        """From errors ``off`` of log latencies. ``floor`` and ``spread`` have the highest likelihood;
        ``scale`` makes intervals of 1.645 standard deviations hold 90 % of the errors, which are not
        normal."""
        variance = FLOORS[:, None, None] ** 2 + far * SPREADS[None, :, None] ** 2
        losses = (np.log(variance) + off**2 / variance).mean(2)
        floor, spread = np.unravel_index(losses.argmin(), losses.shape)
        best = Uncertainty(float(FLOORS[floor]), float(SPREADS[spread]))
        scale = float(np.quantile(np.abs(off) / best.std(far), TARGET)) / NORMAL
        return Uncertainty(best.floor, best.spread, scale)


def calibrate(
    features: Mapping[str, Array], targets: Array, noise: Array, seed: int = 0
) -> Uncertainty:
    """How far an ensemble is off that has not seen a part of the kernels, for each part in turn.

    It learns ``targets`` and is compared with what was measured: log latencies longer by ``noise``.
    Several kernels of one workload would leak from part to part: clean the data first.
    """
    off, far = np.zeros(len(targets)), np.zeros(len(targets))
    order = np.random.default_rng(seed).permutation(len(targets))
    for part in range(PARTS):
        out = order[part::PARTS]
        rest = np.setdiff1d(order, out)
        ensemble = Ensemble.fit(_rows(features, rest), targets[rest], seed)
        found, far[out] = ensemble.predict(_rows(features, out))
        off[out] = found - targets[out] + noise[out]
    return Uncertainty.of(off, far)


def _rows(features: Mapping[str, Array], indices: NDArray[np.intp]) -> dict[str, Array]:
    return {name: values[indices] for name, values in features.items()}
