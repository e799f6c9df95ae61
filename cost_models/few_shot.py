"""A cost model of a new device from a few measured kernels, on top of other devices' models.

A Gaussian process on what the device's log GFLOP/s differ from other devices'. A few kernels cannot tell
its variances: predictions are averaged over several, each by its marginal likelihood (C. E. Rasmussen, C. K. I.
Williams, Gaussian Processes for Machine Learning, MIT Press 2006, sections 2.2 and 5.2).
"""

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
SLOPES, SHAPES, NOISE = (0.1, 0.3, 1.0), (0.03, 0.1, 0.3), 0.003
"""Variances of the other devices' slopes and of the smooth function of the shape, which are tried in every
combination, and of the noise of a log latency."""
LENGTH = 2.5
"""Over which the devices' ratio stays alike, in standard deviations of the shape features."""
FEWEST = 3
STD, STD_KERNELS = 0.15, 4
"""What a log latency is off where nothing is known, and as many kernels this counts for."""


@dataclass
class FewShotModel(CostModel):
    """Log GFLOP/s of a new device: the mean of other devices', plus what a few kernels show.

    That is a constant (how fast the device is), slopes of each other device's log GFLOP/s (which of
    them it is like), and a smooth function of the kernel's shape. ``priors`` are models of other devices,
    of CPUs and of GPUs; the half of them counts whose log GFLOP/s are most like those that were measured.
    """

    priors: Sequence[LearnedModel]

    def fit(self, kernels: Sequence[Kernel], latency_us: Microseconds) -> FewShotModel:
        """Learn from a few convolutions or matrix products; raises InputError below three."""
        if len(kernels) < FEWEST or not self.priors:
            raise InputError(
                f"{len(kernels)} kernels and {len(self.priors)} models of other devices are too few;"
                f" give {FEWEST} kernels and one model"
            )
        levels, shape = _levels(self.priors, kernels), _shape(kernels)
        rates = np.log(_gflop(kernels) / latency_us)
        alike = _most_alike(levels, rates)
        self._alike, levels = [self.priors[index] for index in alike], levels[:, alike]
        self._level_mean, self._spread = levels.mean(0), shape.std(0) + 1e-9
        self._known, self._shape = levels - self._level_mean, shape / self._spread
        rest = rates - self._known.mean(1)
        self._offset = float(rest.mean())
        self._weigh(rest - self._offset)
        return self

    def _weigh(self, rest: Array) -> None:
        """Average over all variances: the weights of the parts of the covariance, and how far each kernel
        is off that is predicted from the others (Rasmussen and Williams, section 5.4.2)."""
        slopes, shapes = _slopes(self._known, self._known), _matern(self._shape, self._shape)
        likelihoods, found, off = [], [], []
        for slope in SLOPES:
            for smooth in SHAPES:
                covariance = 1 + slope * slopes + smooth * shapes + NOISE * np.eye(len(rest))
                inverse = np.linalg.inv(covariance)
                weights = inverse @ rest
                likelihoods.append(-0.5 * (rest @ weights + np.linalg.slogdet(covariance)[1]))
                found.append(np.stack([weights, slope * weights, smooth * weights]))
                off.append((weights / np.diag(inverse)) ** 2)
        share = np.exp(np.array(likelihoods) - max(likelihoods))
        share /= share.sum()
        self._weights = np.tensordot(share, found, 1)
        squares = float((share @ np.array(off)).sum())
        self._std = np.sqrt((STD_KERNELS * STD**2 + squares) / (STD_KERNELS + len(rest)))

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`. Other operators than those that were learned take the
        geometric mean of the other devices' times, at this device's speed."""
        theirs = _log_us(self._alike, kernels)
        log_us = theirs.mean(1) - (self._offset - self._level_mean.mean())
        known = [index for index, kernel in enumerate(kernels) if is_learnable(kernel)]
        if known:
            log_us[known] = self._learned([kernels[index] for index in known], theirs[known])
        latency_us = np.exp(log_us)
        return latency_us, self._std * latency_us

    def _learned(self, kernels: Sequence[Kernel], theirs: Array) -> Array:
        """Log latencies of convolutions and matrix products, from ``theirs`` on the other devices."""
        gflop = _gflop(kernels)
        level = np.log(gflop)[:, None] - theirs - self._level_mean
        constant, slope, smooth = self._weights
        found = level.mean(1) + self._offset + constant.sum()
        found += _slopes(level, self._known) @ slope
        found += _matern(_shape(kernels) / self._spread, self._shape) @ smooth
        return np.log(monotone(kernels, gflop / np.exp(found)))


def choose_kernels(
    kernels: Sequence[Kernel], count: int, priors: Sequence[LearnedModel], seed: int = 0
) -> list[int]:
    """Indices of ``count`` of these convolutions and matrix products: those to measure on a new device.

    Each is the one that, measured, leaves the smallest standard deviations of all, summed, to a Gaussian
    process like :class:`FewShotModel`'s; the first is drawn by ``seed``. It matters how much is learned
    of kernels that are alike, not only how far apart those are that are measured.
    """
    if not kernels:
        return []
    levels, shape = _levels(priors, kernels), _shape(kernels)
    levels, shape = levels - levels.mean(0), shape / (shape.std(0) + 1e-9)
    slope, smooth = float(np.median(SLOPES)), float(np.median(SHAPES))
    covariance = 1 + slope * _slopes(levels, levels) + smooth * _matern(shape, shape)
    chosen: list[int] = []
    best = int(np.random.default_rng(seed).integers(len(kernels)))
    while len(chosen) < min(count, len(kernels)):
        if chosen:
            variance = np.diag(covariance)
            left = variance[:, None] - covariance**2 / (variance + NOISE)
            sums = np.sqrt(np.maximum(left, 0)).sum(0)
            sums[chosen] = np.inf
            best = int(sums.argmin())
        chosen.append(best)
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column) / (column[best] + NOISE)
    return chosen


def _most_alike(levels: Array, rates: Array) -> NDArray[np.intp]:
    """The half of the devices (columns) whose log GFLOP/s differ by the same most nearly."""
    apart = np.var(rates[:, None] - levels, axis=0)
    return np.sort(np.argsort(apart, kind="stable")[: (len(apart) + 1) // 2])


def _levels(priors: Sequence[LearnedModel], kernels: Sequence[Kernel]) -> Array:
    """Log GFLOP/s of each kernel on other devices, ``[n, devices]``."""
    return np.log(_gflop(kernels))[:, None] - _log_us(priors, kernels)


def _log_us(priors: Sequence[LearnedModel], kernels: Sequence[Kernel]) -> Array:
    """Log latency of each kernel on other devices, ``[n, devices]``."""
    return np.log(np.stack([prior.predict(kernels)[0] for prior in priors], axis=1))


def _gflop(kernels: Sequence[Kernel]) -> Array:
    """Of the main operators: over microseconds, GFLOP/s."""
    return np.array([2e-3 * max(kernel.macs, 1) for kernel in kernels])


def _slopes(level: Array, known: Array) -> Array:
    return level @ known.T / known.shape[1]


def _matern(shape: Array, known: Array) -> Array:
    root = np.sqrt(3 * ((shape[:, None] - known[None]) ** 2).sum(2)) / LENGTH
    return (1 + root) * np.exp(-root)


def _shape(kernels: Sequence[Kernel]) -> Array:
    found = features(kernels)
    return np.stack([found[name] for name in SHAPE], axis=1)
