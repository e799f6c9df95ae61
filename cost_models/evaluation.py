"""How good a cost model is on kernels that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.base import CostModel, FittedModel, Microseconds, kind_of
from syncnas_tvm.cost_models.calibration import NORMAL
from syncnas_tvm.cost_models.dataset import Dataset

FOLDS = 10
Labels = Callable[[Dataset], Microseconds]
"""What a model learns of samples: a latency each."""


def measured(data: Dataset) -> Microseconds:
    """What was measured."""
    return data.latency_us


@dataclass(frozen=True)
class Accuracy:
    """Errors relative to what was measured: their mean, median, and the share within 10 %.

    ``spearman`` is the rank correlation; ``covered`` the share of kernels whose 90 % interval holds the
    measured latency; ``kernels`` how many there are.
    """

    mape: float
    median: float
    within_10: float
    spearman: float
    covered: float
    kernels: int

    @staticmethod
    def of(predicted: Microseconds, std_us: Microseconds, measured: Microseconds) -> Accuracy:
        """Of predictions with standard deviations, one a kernel."""
        from scipy.stats import spearmanr

        off = np.abs(predicted / measured - 1)
        inside = np.abs(np.log(predicted / measured)) <= NORMAL * std_us / predicted
        ranks = float(spearmanr(predicted, measured).statistic) if len(off) > 2 else float("nan")
        return Accuracy(
            float(off.mean()),
            float(np.median(off)),
            float((off < 0.1).mean()),
            ranks,
            float(inside.mean()),
            len(off),
        )


def cross_validate(
    data: Dataset,
    make: Callable[[], FittedModel],
    seed: int = 0,
    folds: int = FOLDS,
    labels: Labels = measured,
) -> tuple[Microseconds, Microseconds]:
    """What each sample is predicted at by a model that has seen nothing of its part of the data.

    Parts share no workload. Whatever the model chooses it chooses on the other parts, of which it learns
    ``labels``.
    """
    predicted, std_us = np.zeros(len(data)), np.zeros(len(data))
    every = np.arange(len(data))
    for out in data.folds(folds, seed):
        rest = data.take(np.setdiff1d(every, out))
        model: CostModel = make().fit(rest.kernels, rest.latency_us, labels(rest))
        predicted[out], std_us[out] = model.predict(data.take(out).kernels)
    return predicted, std_us


def by_kind(data: Dataset, predicted: Microseconds, std_us: Microseconds) -> Mapping[str, Accuracy]:
    """The accuracy of each kind of kernel, most kernels first, and of ``all``."""
    kinds: NDArray[np.str_] = np.array([kind_of(kernel) for kernel in data.kernels])
    names, counts = np.unique(kinds, return_counts=True)
    masks = {str(names[i]): kinds == names[i] for i in np.argsort(-counts)}
    masks["all"] = np.ones(len(data), bool)
    us = data.latency_us
    return {name: Accuracy.of(predicted[m], std_us[m], us[m]) for name, m in masks.items()}
