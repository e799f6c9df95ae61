"""Compares an executable with the ONNX model it was compiled from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from syncnas_tvm.errors import VerificationError
from syncnas_tvm.frontend import ImportedModel

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Deviation:
    """The largest deviations over all inputs and outputs.

    ``max_abs`` is max ``|a - b|``; ``max_rel`` is max ``|a - b|`` / max ``|b|``, per output, with
    ``b`` onnxruntime's; ``output`` is the name of the output with the largest ``max_rel``.
    """

    max_abs: float
    max_rel: float
    output: str

    def check(self, tolerance: float, cause: Callable[[], str] = lambda: "") -> None:
        """Raise VerificationError where ``max_rel`` is above ``tolerance``, or is no number.

        ``cause`` is then asked what is known about it.
        """
        if not self.max_rel <= tolerance:
            raise VerificationError(
                f"output '{self.output}' differs from onnxruntime's by {self.max_rel:.2g} relative "
                f"({self.max_abs:.2g} absolute), more than {tolerance:.2g}; nothing was written. "
                + (cause() or "Raise --tolerance if that is good enough, or report the model")
            )

    def worse(self, other: Deviation) -> Deviation:
        """The larger of both in each figure; of equal ones ``other``'s output."""
        return Deviation(
            max(self.max_abs, other.max_abs),
            max(self.max_rel, other.max_rel),
            other.output if other.max_rel >= self.max_rel else self.output,
        )


def deviation(ours: Arrays, reference: Arrays) -> Deviation:
    """How far ``ours`` is from ``reference``; outputs by name. A NaN on one side only is infinite."""
    worst = Deviation(0.0, 0.0, next(iter(reference), ""))
    for name, expected in reference.items():
        found = np.asarray(ours[name])
        if found.shape != expected.shape:
            return Deviation(np.inf, np.inf, name)
        a, b = found.astype(np.float64), expected.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0.0, np.abs(a - b))
        absolute = float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))
        scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        relative = absolute / scale if scale else (0.0 if absolute == 0 else np.inf)
        worst = worst.worse(Deviation(absolute, relative, name))
    return worst


def compare_with_onnxruntime(
    run: Callable[[Arrays], Arrays], imported: ImportedModel, inputs: Sequence[Arrays]
) -> Deviation:
    """The largest deviation of ``run``, a function of the inputs by name, over all ``inputs``."""
    session = imported.original.session()
    worst = Deviation(0.0, 0.0, "")
    names = [spec.name for spec in imported.outputs]
    for arrays in inputs:
        reference = dict(zip(names, session.run(names, dict(arrays)), strict=True))
        worst = worst.worse(deviation(run(arrays), reference))
    return worst
