"""A target's cost model, corrected by a few kernels that were measured on the device itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from syncnas_tvm.cost_models.base import CostModel, Microseconds
from syncnas_tvm.cost_models.cleaning import clean
from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.cost_models.devices import SHIPPED
from syncnas_tvm.cost_models.few_shot import FEWEST, FewShotModel
from syncnas_tvm.cost_models.in_network import InNetwork
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.target_model import by_lane_and_type, cost_model_of
from syncnas_tvm.errors import InputError
from syncnas_tvm.targets import Target
from syncnas_tvm.targets.loader import TRAINED
from syncnas_tvm.work import Kernel, Lane


class CalibratedModel(CostModel):
    """Few-shot models of the lanes and types that ``samples`` have at least three kernels of, ``base``
    for the rest.

    A lane with a learned model is corrected from that one; one without starts from all models that ship.
    Latencies are of kernels alone where the samples are, in a network where they were taken in one:
    ``base`` has to be of the same. Whichever devices the samples name: they are all taken to be this
    target's. Raises InputError where no lane has enough kernels.
    """

    def __init__(self, target: Target, samples: Dataset, base: CostModel) -> None:
        self.target = target
        self._base = base
        data = clean(samples)
        self._models: dict[tuple[Lane, str], FewShotModel] = {}
        for key, indices in by_lane_and_type(data.kernels).items():
            here = data.take(indices)
            if len(here) >= FEWEST:
                priors = self._priors(*key)
                self._models[key] = FewShotModel(priors).fit(here.kernels, here.latency_us)
        if not self._models:
            raise InputError(
                f"no lane has {FEWEST} measured convolutions or matrix products of one type to"
                f" calibrate with, of {len(samples)} kernels; measure more"
            )

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        latency_us, std_us = np.zeros(len(kernels)), np.zeros(len(kernels))
        for key, indices in by_lane_and_type(kernels).items():
            here = [kernels[index] for index in indices]
            model = self._models.get(key, self._base)
            latency_us[indices], std_us[indices] = model.predict(here)
        return latency_us, std_us

    def _priors(self, lane: Lane, dtype: str) -> list[LearnedModel]:
        learned = self.target.learned.get(lane)
        if learned is not None and dtype in learned.models:
            return [LearnedModel.load(learned.models[dtype])]
        return [LearnedModel.load(TRAINED / f"{device.name}.npz") for device in SHIPPED]


def read_calibration(path: Path, target: Target) -> InNetwork:
    """The target's cost model, corrected by the kernels in a file (:meth:`Dataset.read`).

    Its samples are of kernels alone; the lanes' ``network_bias`` comes on top. Raises InputError where
    the file is none, has too few kernels, or lines that are no samples.
    """
    if target.is_host:
        raise InputError("--calibrate: target 'host' measures its kernels; leave the flag out")
    samples = Dataset.read(path)
    if samples.dropped:
        raise InputError(f"--calibrate: {next(iter(samples.dropped))}; correct or remove the line")
    try:
        alone = CalibratedModel(target, samples, cost_model_of(target).alone)
    except InputError as error:
        raise InputError(f"--calibrate {path}: {error}") from error
    return InNetwork(alone, target)
