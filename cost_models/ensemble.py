"""The learned part of a cost model: log GFLOP/s of a kernel from its features.

The mean of two Gaussian processes, on all features and on a few, with a covariance of its own each, and
of XGBoost. On the GPUs the mean is better than any of them (``benchmarks/cost_models.py --sections
members``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.gaussian_process import GaussianProcess
from syncnas_tvm.cost_models.trees import Trees

Array = NDArray[Any]
Features = Mapping[str, Array]

BASIS = [
    "in",
    "out",
    "pixels",
    "window",
    "stride",
    "depthwise",
    "winograd",
    "pointwise",
    "intensity",
]
"""What log GFLOP/s may be linear in, for the Gaussian processes."""
FEW = ["in", "out", "pixels", "window", "stride", "depthwise", "winograd", "tall", "to_16_out", "two_in", "two_out", "two_columns", "two_rows", "reduction", "intensity"]  # fmt: skip
JITTERED = ["in", "out", "pixels", "columns", "rows", "in_pixels", "flops", "bytes", "intensity", "reduction", "data", "weight", "result", "parallel", "ratio"]  # fmt: skip


@dataclass(frozen=True)
class Ensemble:
    """Fitted members, and the names of the features in the order in which they were seen."""

    names: tuple[str, ...]
    wide: GaussianProcess
    narrow: GaussianProcess
    trees: Trees

    @staticmethod
    def fit(features: Features, targets: Array, seed: int = 0) -> Ensemble:
        """Fit all members to ``targets``, one a kernel; deterministic for each ``seed``."""
        names = tuple(features)
        x, basis = matrix(features, names), matrix(features, BASIS)
        jittered = np.array([name in JITTERED for name in names], float)
        return Ensemble(
            names,
            GaussianProcess.fit(x, basis, targets, matern=False),
            GaussianProcess.fit(matrix(features, FEW), basis, targets),
            Trees.fit(x, targets, jittered, seed),
        )

    def predict(self, features: Features) -> tuple[Array, Array]:
        """Targets, and how far (0 to 1) the nearest training kernel is."""
        members, far = self.members(features)
        return members.mean(0), far

    def members(self, features: Features) -> tuple[Array, Array]:
        """What each member predicts, ``[3, n]``, and how far the nearest training kernel is."""
        x, basis = matrix(features, self.names), matrix(features, BASIS)
        wide, far = self.wide.predict(x, basis)
        narrow, _ = self.narrow.predict(matrix(features, FEW), basis, nearest=False)
        return np.stack([wide, narrow, self.trees.predict(x)]), far

    def to_arrays(self) -> dict[str, Array]:
        """Arrays that :meth:`from_arrays` takes."""
        parts: dict[str, GaussianProcess | Trees]
        parts = {"wide": self.wide, "narrow": self.narrow, "trees": self.trees}
        arrays = {
            f"{part}.{name}": array
            for part, member in parts.items()
            for name, array in member.to_arrays().items()
        }
        return {"names": np.array(self.names), **arrays}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> Ensemble:
        """The inverse of :meth:`to_arrays`."""

        def part(name: str) -> dict[str, Array]:
            return {k.split(".")[1]: v for k, v in arrays.items() if k.startswith(f"{name}.")}

        return Ensemble(
            tuple(map(str, arrays["names"])),
            GaussianProcess.from_arrays(part("wide")),
            GaussianProcess.from_arrays(part("narrow")),
            Trees.from_arrays(part("trees")),
        )


def matrix(features: Features, names: Sequence[str]) -> Array:
    """These features side by side, ``[n, len(names)]``."""
    return np.array([features[name] for name in names]).T
