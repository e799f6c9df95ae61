"""A cost model that is learned from measured kernels of one lane and type."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController, threadpool_limits

from syncnas_tvm.cost_models.bands import band_rate, band_std, distinct, squared
from syncnas_tvm.cost_models.base import FittedModel, Microseconds, kind_of
from syncnas_tvm.cost_models.calibration import Uncertainty, calibrate
from syncnas_tvm.cost_models.cleaning import WINOGRAD_GAIN
from syncnas_tvm.cost_models.columns import LEARNABLE, Columns, columns_of, is_learnable
from syncnas_tvm.cost_models.ensemble import Ensemble
from syncnas_tvm.cost_models.features import VERSION, features_of
from syncnas_tvm.cost_models.ladders import monotone_of
from syncnas_tvm.cost_models.roofline import roofline_us
from syncnas_tvm.cost_models.training_range import TrainingRange
from syncnas_tvm.errors import InputError
from syncnas_tvm.targets import LanePeak
from syncnas_tvm.work import Kernel, tensor_bytes

Array = NDArray[Any]
FEWEST = 40
"""Kernels that a model of its own needs; below, a few-shot model on top of others is better."""
ROOFLINE_STD = 0.4
FREE_OCTAVES = 2.0
"""So far outside of the training range the ensemble is still better than a roofline on every device."""
SHARES = np.geomspace(0.003, 1, 300)


@dataclass(frozen=True)
class Learned:
    """What ``fit`` finds: the ensemble, where it holds, and how much it is off."""

    ensemble: Ensemble
    range: TrainingRange
    uncertainty: Uncertainty


@dataclass
class LearnedModel(FittedModel):
    """Learned log GFLOP/s, kept to what is physically possible.

    Never above ``peak`` (Winograd's multiply-adds may be four times that many); monotone in channels
    and rows among the kernels of one call; more than two octaves outside the range of the training
    data the prediction goes towards the geometric mean of the learned one and the roofline, half of the
    way for each further octave, and a kind of kernel that was not in the data gets the roofline alone
    (:meth:`outside` says what share the roofline has). Bands of rows, which no training data have, follow
    their square kernel by a power law (:mod:`~syncnas_tvm.cost_models.bands`). Operators
    other than convolutions and matrix products get the roofline. What is fused behind a kernel is
    free, but for whole tensors that it reads: these take their bytes over the bandwidth.

    ``seed`` is of the training, ``about`` is kept with the model (data, date, device). An ``uncertainty``
    that is given is not looked for, which is four fifths of the training.
    """

    peak: LanePeak
    seed: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    learned: Learned | None = None
    uncertainty: Uncertainty | None = None

    def fit(
        self,
        kernels: Sequence[Kernel],
        latency_us: Microseconds,
        labels_us: Microseconds | None = None,
    ) -> LearnedModel:
        """See :meth:`FittedModel.fit`. The uncertainty is found on parts that are
        held out in turn; the roofline's efficiencies become those that fit best."""
        if len(kernels) < FEWEST:
            raise InputError(f"{len(kernels)} kernels are too few to learn from; give {FEWEST}")
        columns = columns_of(kernels)
        found = features_of(squared(columns))
        labels_us = latency_us if labels_us is None else labels_us
        targets = np.log(_gflops(columns, labels_us)) - band_rate(columns)
        # More threads than cores that are free make matrices of this size hundreds of times slower.
        with threadpool_limits(1):
            self.learned = Learned(
                Ensemble.fit(found, targets, self.seed),
                TrainingRange.of(found),
                self.uncertainty
                or calibrate(found, targets, np.log(latency_us / labels_us), self.seed),
            )
        self.peak = fitted_peak(kernels, labels_us, self.peak)
        return self

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """See :meth:`CostModel.predict`."""
        if kernels and LEARNABLE.issuperset([kernel.op for kernel in kernels]):
            us, share = self._learned_us(kernels)
            return us, us * share
        known = [index for index, kernel in enumerate(kernels) if is_learnable(kernel)]
        latency_us, std_us = self._roofline(kernels, set(known))
        if known:
            us, share = self._learned_us([kernels[index] for index in known])
            latency_us[known], std_us[known] = us, us * share
        return latency_us, std_us

    def outside(self, kernels: Sequence[Kernel]) -> NDArray[np.float64]:
        """The share of each prediction (0 to 1) that is the roofline's; 0 within the training range."""
        found = np.ones(len(kernels))
        known = [index for index, kernel in enumerate(kernels) if is_learnable(kernel)]
        if known and self.learned:
            seen = features_of(squared(columns_of([kernels[index] for index in known])))
            found[known] = 1 - _inside(self.learned.range.octaves_outside(seen))
        return found

    def _roofline(
        self, kernels: Sequence[Kernel], skip: set[int]
    ) -> tuple[Microseconds, Microseconds]:
        latency_us = np.zeros(len(kernels))
        for index, kernel in enumerate(kernels):
            if index not in skip:
                latency_us[index] = roofline_us(kernel, self.peak)
        return latency_us, ROOFLINE_STD * latency_us

    def _learned_us(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, NDArray[np.float64]]:
        """Latencies of convolutions and matrix products, and their relative standard deviation."""
        learned = self._learned()
        columns = columns_of(kernels)
        squares = squared(columns)
        first, place = distinct(squares)
        seen = features_of({name: column[first] for name, column in squares.items()})
        with _blas().limit(limits=1):  # threads wait for one another longer than the work takes
            rates, far = (found[place] for found in learned.ensemble.predict(seen))
        inside = _inside(learned.range.octaves_outside(seen))[place]
        flops = _flops(columns)
        log_us = np.log(flops / 1e3) - rates - band_rate(columns)
        bare = np.where(inside < 1)[0]
        for index in bare:
            kernel = kernels[index]
            whole = replace(kernel, epilogue=()) if kernel.epilogue else kernel
            roof = np.log(roofline_us(whole, self.peak))
            log_us[index] += (1 - inside[index]) * (roof - log_us[index])
        gain = np.where(columns["winograd"] > 0, WINOGRAD_GAIN, 1.0)
        us = monotone_of(
            columns, np.maximum(np.exp(log_us), flops / (1e3 * self.peak.gflops * gain))
        )
        share = learned.uncertainty.std(far)
        return us + self._epilogue_us(kernels), np.sqrt(
            share**2 + band_std(columns) ** 2 + (2 * (1 - inside) * ROOFLINE_STD) ** 2
        )

    def _epilogue_us(self, kernels: Sequence[Kernel]) -> NDArray[np.float64]:
        found = np.zeros(len(kernels))
        epilogues = [kernel.epilogue for kernel in kernels]
        for index in compress(range(len(kernels)), epilogues):
            kernel = kernels[index]
            for step in kernel.epilogue:
                for shape in step.operands:
                    if shape == kernel.out_shape:
                        moved = tensor_bytes(shape, kernel.dtype)
                        found[index] += moved / (self.peak.gbytes_per_s * 1e3)
        return found

    def _learned(self) -> Learned:
        if self.learned is None:
            raise InputError("this cost model has not learned anything; call fit or load")
        return self.learned

    def save(self, path: Path) -> None:
        """See :meth:`FittedModel.save`."""
        learned = self._learned()
        about = {
            "features": VERSION,
            "peak": {**asdict(self.peak), "efficiency": dict(self.peak.efficiency)},
            "range": dict(learned.range.boxes),
            "uncertainty": asdict(learned.uncertainty),
            "about": self.about,
        }
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with aside.open("wb") as file:
            arrays: dict[str, Any] = learned.ensemble.to_arrays()
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
        os.replace(aside, path)

    @classmethod
    def load(cls, path: Path) -> LearnedModel:
        """See :meth:`FittedModel.load`."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("about")))
            if about["features"] != VERSION:
                raise InputError(
                    f"{path} was trained on features of version {about['features']}, this is version"
                    f" {VERSION}; train it again with 'python -m syncnas_tvm.cost_models.train'"
                )
            learned = Learned(
                Ensemble.from_arrays(arrays),
                TrainingRange({k: tuple(v) for k, v in about["range"].items()}),
                Uncertainty(**about["uncertainty"]),
            )
            return cls(LanePeak(**about["peak"]), about=about["about"], learned=learned)
        except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no cost model ({error}); train it again") from error


@lru_cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _inside(octaves: NDArray[np.float64]) -> NDArray[np.float64]:
    """The learned share of a prediction, in logarithms."""
    near = 0.5 ** np.maximum(octaves - FREE_OCTAVES, 0)
    return np.where(np.isinf(octaves), 0.0, 0.5 + 0.5 * near)


def fitted_peak(kernels: Sequence[Kernel], latency_us: Microseconds, peak: LanePeak) -> LanePeak:
    """``peak`` with the efficiency of each kind of kernel that has the least mean absolute log error.

    Winograd's kernels count with the multiply-adds that they save.
    """
    kinds = np.array([kind_of(kernel) for kernel in kernels])
    flops = np.array([kernel.flops for kernel in kernels], float)[:, None]
    moved = np.array([kernel.bytes_moved for kernel in kernels], float)[:, None]
    roof = np.maximum(flops / (peak.gflops * SHARES), moved / peak.gbytes_per_s) / 1e3
    errors = np.abs(np.log((roof + peak.launch_us) / latency_us[:, None]))
    best = {
        str(kind): float(SHARES[errors[kinds == kind].mean(0).argmin()])
        for kind in np.unique(kinds)
    }
    return replace(peak, efficiency={**peak.efficiency, **best})


def _flops(columns: Columns) -> NDArray[np.float64]:
    return 2 * np.maximum(columns["macs"], 1)


def _gflops(columns: Columns, latency_us: Microseconds) -> NDArray[np.float64]:
    return _flops(columns) / (latency_us * 1e3)
