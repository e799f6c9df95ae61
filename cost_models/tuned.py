"""The cost model of a target after tuning: what was measured, and what follows from it for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from syncnas_tvm.cost_models.base import CostModel, Microseconds
from syncnas_tvm.cost_models.calibrated import CalibratedModel
from syncnas_tvm.cost_models.cleaning import clean
from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.cost_models.importers import import_metaschedule
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.measured import MeasuredTable
from syncnas_tvm.cost_models.roofline import Roofline
from syncnas_tvm.cost_models.target_model import by_lane_and_type, cost_model_of
from syncnas_tvm.errors import InputError
from syncnas_tvm.targets import Target
from syncnas_tvm.work import LANES, Kernel

TRAINED_FROM = 150
"""Measured kernels of a lane and type from which on a model of their own is trained; its mean with the
one that starts from other devices' models is better than either then (docs/tuning.md)."""


class TunedModel(CostModel):
    """Latencies that were measured while tuning, and for other kernels a model that was made from them.

    Tuning measures kernels as a network runs them, with weights out of the cache: no ``network_bias``
    comes on top. ``model`` predicts kernels that were not measured.
    """

    def __init__(self, samples: Dataset, model: CostModel) -> None:
        self.samples = samples
        self.model = model
        self._us = {s.kernel: (s.latency_us, s.noise_us) for s in samples}

    def __contains__(self, kernel: object) -> bool:
        return kernel in self._us

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        latency_us, std_us = self.model.predict(kernels) if kernels else (np.zeros(0), np.zeros(0))
        latency_us, std_us = latency_us.copy(), std_us.copy()
        for index, kernel in enumerate(kernels):
            if kernel in self._us:
                latency_us[index], std_us[index] = self._us[kernel]
        return latency_us, std_us

    def describe(self, kernels: Sequence[Kernel]) -> str:
        """How many of ``kernels`` were measured."""
        count = sum(kernel in self for kernel in kernels)
        return (
            f"{count} of {len(kernels)} kernels were measured while tuning, the others are predicted"
            f" by a model made from {len(self.samples)} measured ones"
        )


def tuned_model(target: Target, samples: Dataset, trained: Path | None = None) -> TunedModel:
    """The model for ``target`` from what was measured on it (:func:`tuned_samples`).

    Lanes and types with three measured convolutions are calibrated by them; the others keep the target's
    own. Those whose trained model is in the folder ``trained`` (:func:`train_models`) take the geometric
    mean of both.
    """
    if target.is_host:
        table = MeasuredTable(Roofline(target))
        for sample in samples:
            table.add(sample.kernel, sample.latency_us, sample.noise_us)
        return TunedModel(samples, table)
    model = cost_model_of(target)
    with suppress(InputError):  # too few kernels
        model = CalibratedModel(target, samples, model)
    return TunedModel(samples, _Trained(trained, model) if trained else model)


def tuned_samples(folder: Path, target: Target) -> Dataset:
    """What the records in ``folder`` say of ``target``'s kernels; raises InputError where it has none."""
    from syncnas_tvm.tuning.records import target_json

    found = Dataset()
    for lane in LANES:
        found += import_metaschedule(folder, target.name, lane, target_json(target, lane))
    return found


def train_models(samples: Dataset, target: Target, folder: Path, seed: int = 0) -> list[Path]:
    """Train and write a model for each lane and type with :data:`TRAINED_FROM` kernels; the files."""
    data = clean(samples)
    written = []
    for (lane, dtype), indices in by_lane_and_type(data.kernels).items():
        if len(indices) >= TRAINED_FROM:
            here = data.take(indices)
            model = LearnedModel(target.peak(lane), seed).fit(here.kernels, here.latency_us)
            model.about = {"target": target.name, "kernels": len(here), "sources": [folder.name]}
            written.append(folder / f"{lane}-{dtype}.npz")
            model.save(written[-1])
    return written


class _Trained(CostModel):
    """The geometric mean of ``rest`` and a folder's models, where it has one of the lane and type."""

    def __init__(self, folder: Path, rest: CostModel) -> None:
        self._rest = rest
        self._models = {
            (lane, dtype): LearnedModel.load(path)
            for lane in LANES
            for dtype in ("float32", "float16")
            if (path := folder / f"{lane}-{dtype}.npz").is_file()
        }

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        latency_us, std_us = np.zeros(len(kernels)), np.zeros(len(kernels))
        for key, indices in by_lane_and_type(kernels).items():
            here = [kernels[index] for index in indices]
            us, std = self._rest.predict(here)
            if key in self._models:
                own_us, own_std = self._models[key].predict(here)
                both_us = np.sqrt(us * own_us)
                us, std = both_us, both_us * (std / us + own_std / own_us) / 2
            latency_us[indices], std_us[indices] = us, std
        return latency_us, std_us
