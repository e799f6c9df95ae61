"""Gaussian process regression with one length scale per feature, for a few hundred points.

C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, MIT Press 2006: algorithm
2.1 (prediction), section 2.7 (explicit basis functions, here with a normal prior on their weights),
section 5.4.1 (marginal likelihood and its gradient). The covariance is Matern's with smoothness 3/2
(equation 4.17) or the rational quadratic one with alpha = 1 (4.19), which takes a third of the time to
compute, over standardised features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SCALE, SCALE_WEIGHT = np.log(3.0), 0.5
"""Prior of a length scale's logarithm: 3 standard deviations of the feature, and how firmly."""
SIGNAL, NOISE = np.log(0.25), 2 * np.log(0.03)
"""Prior means of the logarithms of the covariance's and the noise's variance."""
BASIS_VARIANCE = 4.0
JITTER = 1e-8
ROOT3, ROOT_HALF = np.sqrt(3.0), np.sqrt(0.5)
BLOCK = 96
"""Rows that are predicted at once."""


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process; arrays are those that prediction needs, and all that is saved.

    Its covariance is Matern's where ``matern``, else the rational quadratic one.
    ``points``: training features over their length scales, ``[n, d]``; ``weights``: covariance's inverse
    times targets ``[n]``; ``slopes``: of the basis functions, the constant's first, ``[b + 1]``;
    ``signal`` and ``noise`` are variances.
    """

    center: Array
    scale: Array
    basis_center: Array
    basis_scale: Array
    points: Array
    weights: Array
    slopes: Array
    mean: float
    signal: float
    noise: float
    matern: bool

    @staticmethod
    def fit(
        inputs: Array, basis: Array, targets: Array, *, matern: bool = True, steps: int = 60
    ) -> GaussianProcess:
        """Fit to ``inputs`` ``[n, d]``, linear ``basis`` functions ``[n, b]``, ``targets`` ``[n]``.

        Hyper-parameters maximise the posterior (marginal likelihood times prior), by L-BFGS.
        """
        from scipy.linalg import cho_solve
        from scipy.optimize import minimize

        center, spread = inputs.mean(0), inputs.std(0) + 1e-9
        basis_center, basis_scale = basis.mean(0), basis.std(0) + 1e-9
        z, h = (inputs - center) / spread, _with_one((basis - basis_center) / basis_scale)
        mean = float(targets.mean())
        y, linear = targets - mean, BASIS_VARIANCE * h @ h.T
        apart = [(column[:, None] - column[None, :]) ** 2 for column in z.T]
        eye = np.eye(len(y))

        def parts(t: Array) -> tuple[Array, Array, Array]:
            inverse_squares = np.exp(-2 * t[:-2])
            squares = np.tensordot(inverse_squares, apart, 1)
            if not matern:
                near = 1 / (1 + squares / 2)
                return np.exp(t[-2]) * near, np.exp(t[-2]) * near**2, inverse_squares
            root = np.sqrt(3 * squares + 1e-12)
            decay = np.exp(t[-2] - root)
            return (1 + root) * decay, 3 * decay, inverse_squares

        def negative_log_posterior(t: Array) -> tuple[float, Array]:
            covariance, slope, inverse_squares = parts(t)
            noise = np.exp(t[-1])
            try:
                factor = np.linalg.cholesky(covariance + linear + (noise + JITTER) * eye)
            except np.linalg.LinAlgError:
                return 1e10, np.zeros_like(t)
            inverse = cho_solve((factor, True), eye)
            alpha = inverse @ y
            push = inverse - np.outer(alpha, alpha)
            scaled = push * slope
            pulls = np.array([np.vdot(scaled, d) for d in apart]) * inverse_squares
            gradient = 0.5 * np.r_[pulls, np.vdot(push, covariance), noise * np.trace(push)]
            off = np.r_[t[:-2] - SCALE, t[-2] - SIGNAL, t[-1] - NOISE]
            firm = np.r_[np.full(len(pulls), SCALE_WEIGHT), 0.25, 1.0]
            value = 0.5 * (y @ alpha + firm @ off**2) + np.log(np.diag(factor)).sum()
            return float(value), gradient + firm * off

        start = np.r_[np.full(z.shape[1], SCALE), SIGNAL, NOISE]
        bounds = [(-2.0, 6.0)] * z.shape[1] + [(-6.0, 4.0), (-12.0, 0.0)]
        found = minimize(
            negative_log_posterior, start, jac=True, method="L-BFGS-B", bounds=bounds,
            options={"maxiter": steps},
        ).x  # fmt: skip
        lengths, noise = np.exp(found[:-2]), float(np.exp(found[-1]))
        factor = np.linalg.cholesky(parts(found)[0] + linear + (noise + JITTER) * eye)
        weights = cho_solve((factor, True), y)
        slopes = BASIS_VARIANCE * h.T @ weights
        return GaussianProcess(
            center, spread * lengths, basis_center, basis_scale, (z / lengths).astype(np.float32),
            weights.astype(np.float32), slopes, mean, float(np.exp(found[-2])), noise, matern,
        )  # fmt: skip

    def predict(self, inputs: Array, basis: Array, *, nearest: bool = True) -> tuple[Array, Array]:
        """Expected targets, and how little the nearest training point tells of each: 0 at a training
        point, near 1 far from all. One entry a row of ``inputs``.

        The latter is the share of the signal's variance that is left when that one point is known: an
        upper bound of the process's own, at a fraction of its cost; all ones where it is not asked for.
        """
        z, points = self._scaled(inputs), self._columns
        mean, like = np.empty(len(z), np.float32), np.zeros(len(z), np.float32)
        # In blocks that stay in the cache, and in the same memory: what is new has to be cleared first.
        kept, spare = (np.empty((BLOCK, points.shape[1]), np.float32) for _ in range(2))
        for start in range(0, len(z), BLOCK):
            rows = slice(start, start + BLOCK)
            near = np.matmul(z[rows], points, out=kept[: len(z[rows])])
            if self.matern:
                near = _matern(near, spare[: len(near)])
            else:
                np.reciprocal(near, out=near)
            np.matmul(near, self.weights, out=mean[rows])
            if nearest:
                like[rows] = near[np.arange(len(near)), near.argmax(1)]
        linear = ((basis - self.basis_center) / self.basis_scale) @ self.slopes[1:]
        found = self.signal * mean.astype(np.float64) + (linear + self.slopes[0] + self.mean)
        return found, np.maximum(1 - like.astype(np.float64) ** 2, 0)

    def _scaled(self, inputs: Array) -> Array:
        """``inputs`` over their length scales, each row with its square and a one behind it: products
        with :attr:`_columns` are three times the squared distances from the training points, or one
        and half of them."""
        found = np.empty((inputs.shape[1] + 2, len(inputs)), np.float32)
        z = found[:-2].T
        np.subtract(inputs, self.center, out=z, casting="same_kind")
        z *= (self._unit / self.scale).astype(np.float32)
        np.einsum("ij,ij->i", z, z, out=found[-2])
        found[-1] = 1
        return found.T

    @property
    def _unit(self) -> float:
        return ROOT3 if self.matern else ROOT_HALF

    @cached_property
    def _columns(self) -> Array:
        """The training points as :meth:`_scaled` wants them, ``[d + 2, n]``."""
        points = self._unit * self.points.astype(np.float64)
        last = (points**2).sum(1) + (0 if self.matern else 1)
        return np.vstack([-2 * points.T, np.ones(len(points)), last]).astype(np.float32)

    def to_arrays(self) -> dict[str, Array]:
        """Arrays that :meth:`from_arrays` takes."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> GaussianProcess:
        """The inverse of :meth:`to_arrays`."""
        scalars = {name: float(arrays[name]) for name in ("mean", "signal", "noise")}
        return GaussianProcess(**{**arrays, **scalars, "matern": bool(arrays["matern"])})  # type: ignore[arg-type]


def _matern(root: Array, spare: Array) -> Array:
    """Matern's covariance of three times squared distances, which are overwritten."""
    np.abs(root, out=root)  # rounding makes some a little less than nothing
    np.sqrt(root, out=root)
    np.negative(root, out=spare)
    np.exp(spare, out=spare)
    root += 1
    spare *= root
    return spare


def _with_one(columns: Array) -> Array:
    return np.concatenate([np.ones((len(columns), 1), columns.dtype), columns], 1)
