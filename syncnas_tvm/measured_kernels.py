"""Kernels that were measured inside a network, as samples that cost models learn from."""

from __future__ import annotations

from datetime import date

import numpy as np

from syncnas_tvm.comparison import Comparison, Row
from syncnas_tvm.cost_models.dataset import Dataset, Sample
from syncnas_tvm.targets import Target
from syncnas_tvm.work import Kernel


def measured_kernels(
    comparison: Comparison, target: Target, device: str, source: str, day: str = ""
) -> Dataset:
    """One sample for every distinct kernel that was measured by itself.

    A sample is of a kernel *alone*, so what is known to slow it down here is taken off: contention for
    as long as the other lane really was busy, and the lane's ``network_bias``, which a cost model puts
    on top again. ``day`` is the day of the measurement (ISO 8601; default today).
    """
    rows: dict[Kernel, list[Row]] = {}
    for row in comparison.rows:
        if row.kernel is not None and row.runs and row.measured_us > 0:
            rows.setdefault(row.kernel, []).append(row)
    day = day or date.today().isoformat()
    samples = []
    for kernel, several in rows.items():
        learned = target.learned.get(kernel.lane)
        bias = learned.network_bias if learned else 1.0
        us = [step.alone_us(target.costs) / bias for row in several for step in row.runs]
        samples.append(Sample(kernel, device, float(np.median(us)), float(np.std(us)), source, day))
    return Dataset(tuple(samples))
