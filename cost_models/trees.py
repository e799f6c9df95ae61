"""XGBoost on jittered copies of the training data.

A few hundred kernels leave a boosted tree's thresholds far apart, and its predictions are steps.
Training on copies of every kernel, each with its sizes moved by a little noise, spreads the thresholds
out (C. M. Bishop, Training with Noise is Equivalent to Tikhonov Regularization, Neural Computation 7,
1995): of the errors that XGBoost makes on the kernels themselves, a tenth goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xgboost

Array = NDArray[Any]
COPIES, JITTER = 8, 0.1
"""Copies of each kernel, and the noise on its sizes in standard deviations of each."""
PARAMETERS = {
    "max_depth": 5,
    "eta": 0.12,
    "subsample": 0.8,
    "colsample_bynode": 0.3,
    "min_child_weight": 2,
    "lambda": 1.0,
    "objective": "reg:squarederror",
    "nthread": 1,
    "verbosity": 0,
}
ROUNDS = 100


@dataclass(frozen=True)
class Trees:
    """Boosted trees: ``booster`` is XGBoost's, ``mean`` what they are added to."""

    booster: xgboost.Booster = field(repr=False)
    mean: float

    @staticmethod
    def fit(
        inputs: Array,
        targets: Array,
        jittered: Array,
        seed: int = 0,
        rounds: int = ROUNDS,
        **parameters: Any,
    ) -> Trees:
        """Fit to ``inputs`` ``[n, d]`` and ``targets`` ``[n]``; ``jittered`` ``[d]`` says which columns
        are sizes that copies differ in; ``parameters`` are XGBoost's, in place of :data:`PARAMETERS`."""
        import xgboost

        random = np.random.default_rng(seed)
        noise = random.normal(0, JITTER, (COPIES, *inputs.shape))
        copies = inputs + noise * inputs.std(0) * jittered
        mean = float(targets.mean())
        data = xgboost.DMatrix(copies.reshape(-1, inputs.shape[1]), np.tile(targets - mean, COPIES))
        taken = {**PARAMETERS, "seed": seed, "base_score": 0.0, **parameters}
        return Trees(xgboost.train(taken, data, rounds), mean)

    def predict(self, inputs: Array) -> Array:
        """Expected targets, one a row of ``inputs``."""
        rows = inputs.astype(np.float32, "C")
        return self.booster.inplace_predict(rows).astype(np.float64) + self.mean

    def to_arrays(self) -> dict[str, Array]:
        """Arrays that :meth:`from_arrays` takes."""
        raw = np.frombuffer(bytes(self.booster.save_raw("ubj")), np.uint8)
        return {"booster": raw, "mean": np.asarray(self.mean)}

    @staticmethod
    def from_arrays(arrays: dict[str, Array]) -> Trees:
        """The inverse of :meth:`to_arrays`."""
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(arrays["booster"].tobytes()))
        return Trees(booster, float(arrays["mean"]))
