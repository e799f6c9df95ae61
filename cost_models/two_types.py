"""Latencies in half precision, freed of some of their noise by those in single precision.

Which schedule a tuner happened to find makes a latency noisy, in either type on its own; how many times
as fast a kernel is with halves is smooth in its shape. What that ratio is off a smooth fit is noise, and
a quarter of it is taken off before a model learns from the latencies. (The quarter was chosen on the
Adreno's kernels, where it does most; on the Mali's, a half does a little more.)
"""

from __future__ import annotations

import numpy as np

from syncnas_tvm.cost_models.base import Microseconds
from syncnas_tvm.cost_models.dataset import Dataset, workload
from syncnas_tvm.cost_models.ensemble import BASIS, FEW, matrix
from syncnas_tvm.cost_models.features import features
from syncnas_tvm.cost_models.gaussian_process import GaussianProcess

SHARE = 0.25
FEWEST = 40
"""Pairs below which a smooth fit says little."""


def denoised(data: Dataset, other: Dataset) -> Microseconds:
    """Latencies of ``data``, one a sample, with ``other`` of the same device in the other type.

    Nothing is learned of workloads that are not in ``data``: a model that is tested on those may be
    trained on the result.
    """
    known = {workload(sample.kernel): sample.latency_us for sample in other}
    latency_us = data.latency_us
    twice = [i for i, kernel in enumerate(data.kernels) if workload(kernel) in known]
    if len(twice) < FEWEST:
        return latency_us
    kernels = [data.kernels[i] for i in twice]
    seen = features(kernels)
    few, basis = matrix(seen, FEW), matrix(seen, BASIS)
    ratio = np.log(latency_us[twice] / [known[workload(kernel)] for kernel in kernels])
    smooth, _ = GaussianProcess.fit(few, basis, ratio).predict(few, basis, nearest=False)
    latency_us[twice] *= np.exp(SHARE * (smooth - ratio))
    return latency_us
