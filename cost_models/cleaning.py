"""What measured kernels have to be for a cost model to learn from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import isfinite

import numpy as np

from syncnas_tvm.cost_models.columns import ALGORITHM, is_learnable, is_winograd
from syncnas_tvm.cost_models.dataset import Dataset, Sample, workload

WINOGRAD_GAIN = 4.0
"""Winograd's F(4 x 4, 3 x 3) multiplies 36 times for 16 outputs, not 144 times."""
FLOAT_TYPES = ("float32", "float16")


def clean(data: Dataset, peak_gflops: float = float("inf")) -> Dataset:
    """``data`` without what cannot be right, and one sample a kernel and device.

    Dropped, and counted by reason: what is no time; types other than floats; operators that have no
    features; batches; what is faster than ``peak_gflops``, in multiply-adds that Winograd saves four
    times. Of several measurements of a kernel the fastest stays: each is of the best schedule that was
    found till then, and a compiler takes the faster algorithm, where there are two (the kernel then
    does not say any more which). Noise becomes the spread between measurements, where that is larger.
    """
    dropped = Counter(data.dropped)
    best: dict[tuple[object, ...], list[Sample]] = {}
    for sample in data:
        reason = _fault(sample, peak_gflops)
        if reason:
            dropped[reason] += 1
        else:
            kernel = sample.kernel
            key = (sample.device, kernel.lane, kernel.dtype, workload(kernel))
            best.setdefault(key, []).append(sample)
    samples = []
    for several in best.values():
        algorithms = len({sample.kernel for sample in several}) - 1
        dropped["slower algorithm"] += algorithms
        dropped["measured again"] += len(several) - 1 - algorithms
        samples.append(_fastest(several))
    return Dataset(tuple(samples), +dropped)


def _fault(sample: Sample, peak_gflops: float) -> str:
    """Why ``sample`` is not used; empty where it is."""
    kernel, us = sample.kernel, sample.latency_us
    if not (isfinite(us) and us > 0 and isfinite(sample.noise_us) and sample.noise_us >= 0):
        return "no time"
    if kernel.dtype not in FLOAT_TYPES:
        return f"type {kernel.dtype}"
    if not is_learnable(kernel):
        return f"operator {kernel.op}"
    if kernel.op == "nn.conv2d" and kernel.out_shape[0] != 1:
        return f"batch {kernel.out_shape[0]}"
    if 2e-3 * kernel.macs / us > peak_gflops * (WINOGRAD_GAIN if is_winograd(kernel) else 1):
        return f"faster than {peak_gflops:g} GFLOP/s"
    return ""


def _fastest(several: list[Sample]) -> Sample:
    best = min(several, key=lambda sample: sample.latency_us)
    kernel = best.kernel
    if len({sample.kernel for sample in several}) > 1:
        attrs = tuple(attr for attr in kernel.attrs if attr[0] != ALGORITHM)
        kernel = replace(kernel, attrs=attrs)
    same = [sample.latency_us for sample in several if sample.kernel == best.kernel]
    return replace(best, kernel=kernel, noise_us=max(best.noise_us, float(np.std(same))))
