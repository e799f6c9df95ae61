"""A cost model of a new device from a few measured kernels, on top of other devices' models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.base import CostModel, Microseconds
from syncnas_tvm.cost_models.columns import is_learnable
from syncnas_tvm.cost_models.features import features
from syncnas_tvm.cost_models.ladders import monotone
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.errors import InputError
from syncnas_tvm.work import Kernel

Array = NDArray[np.float64]
SHAPE = ["in", "out", "pixels", "window", "stride", "depthwise", "winograd", "intensity", "dense"]
SLOPE_VARIANCE, SHAPE_VARIANCE, NOISE_VARIANCE = 0.3, 0.1, 0.003
LENGTH = 2.5
"""Octaves over which the devices' ratio stays alike, in standard deviations of the shape features."""
FEWEST = 3
STD = 0.15


@dataclass
class FewShotModel(CostModel):
    """Log GFLOP/s of a new device: the mean of other devices', plus what a few kernels show.

    A Gaussian process on the difference: a constant (how fast the device is), slopes of each other
    device's log GFLOP/s (which of them it is like), and a smooth function of the kernel's shape. Its
    variances are fixed: a few kernels could not tell them. ``priors`` are models of other devices, of
    CPUs and of GPUs.
    """

    priors: Sequence[LearnedModel]

    def fit(self, kernels: Sequence[Kernel], latency_us: Microseconds) -> FewShotModel:
        """Learn from a few convolutions or matrix products; raises InputError below three."""
        if len(kernels) < FEWEST or not self.priors:
            raise InputError(
                f"{len(kernels)} kernels and {len(self.priors)} models of other devices are too few;"
                f" give {FEWEST} kernels and one model"
            )
        levels, self._shape = self._levels(kernels), _shape(kernels)
        self._level_mean = levels.mean(0)
        self._spread = self._shape.std(0) + 1e-9
        self._known = levels - self._level_mean
        macs = np.array([kernel.macs for kernel in kernels], float)
        rest = np.log(2 * macs / (latency_us * 1e3)) - self._known.mean(1)
        self._offset = float(rest.mean())
        covariance = self._covariance(self._known, self._shape)
        covariance += NOISE_VARIANCE * np.eye(len(kernels))
        self._weights = np.linalg.solve(covariance, rest - self._offset)
        return self

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`. Other operators than those that were learned take the
        geometric mean of the other devices' times, at this device's speed."""
        log_us = np.log([prior.predict(kernels)[0] for prior in self.priors]).mean(0)
        log_us -= self._offset - self._level_mean.mean()
        known = [index for index, kernel in enumerate(kernels) if is_learnable(kernel)]
        if known:
            log_us[known] = self._learned(kernels=[kernels[index] for index in known])
        latency_us = np.exp(log_us)
        return latency_us, STD * latency_us

    def _learned(self, kernels: Sequence[Kernel]) -> Array:
        """Log latencies of convolutions and matrix products."""
        level = self._levels(kernels) - self._level_mean
        found = level.mean(1) + self._offset
        found += self._covariance(level, _shape(kernels)) @ self._weights
        macs = np.array([max(kernel.macs, 1) for kernel in kernels], float)
        return np.log(monotone(kernels, 2 * macs / (np.exp(found) * 1e3)))

    def _levels(self, kernels: Sequence[Kernel]) -> Array:
        """Log GFLOP/s of each kernel on the other devices, ``[n, devices]``."""
        macs = np.array([max(kernel.macs, 1) for kernel in kernels], float)
        columns = [np.log(2 * macs / (p.predict(kernels)[0] * 1e3)) for p in self.priors]
        return np.stack(columns, axis=1)

    def _covariance(self, level: Array, shape: Array) -> Array:
        """With the kernels that were measured."""
        known = self._known
        apart = (shape[:, None] - self._shape[None]) / self._spread / LENGTH
        root = np.sqrt(3 * (apart**2).sum(2))
        alike = SHAPE_VARIANCE * (1 + root) * np.exp(-root)
        slopes = SLOPE_VARIANCE * level @ known.T / known.shape[1]
        return 1 + np.outer(level.mean(1), known.mean(1)) + slopes + alike


def choose_kernels(kernels: Sequence[Kernel], count: int, seed: int = 0) -> list[int]:
    """Indices of ``count`` kernels to measure: far from one another in shape.

    D. Arthur, S. Vassilvitskii, k-means++: The Advantages of Careful Seeding, SODA 2007.
    """
    shape = _shape(kernels)
    shape = shape / (shape.std(0) + 1e-9)
    random = np.random.default_rng(seed)
    chosen = [int(random.integers(len(kernels)))]
    apart = ((shape - shape[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(kernels)):
        weights = apart if apart.sum() > 0 else np.isin(range(len(kernels)), chosen, invert=True)
        chosen.append(int(random.choice(len(kernels), p=weights / weights.sum())))
        apart = np.minimum(apart, ((shape - shape[chosen[-1]]) ** 2).sum(1))
    return chosen


def _shape(kernels: Sequence[Kernel]) -> Array:
    found = features(kernels)
    return np.stack([found[name] for name in SHAPE], axis=1)
