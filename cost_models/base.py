"""What every cost model offers: latencies of kernels, with an uncertainty, in one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.work import Kernel

Microseconds = NDArray[np.float64]


class CostModel(ABC):
    """Predicts how long kernels take on the lane that each of them names."""

    @abstractmethod
    def predict(self, kernels: Sequence[Kernel]) -> tuple[Microseconds, Microseconds]:
        """Latency and its standard deviation in microseconds, one entry a kernel.

        Both are finite and not negative; a latency is that of the kernel alone on an idle
        lane, its launch on the lane included, the host thread's enqueue not.
        """

    @property
    def alone(self) -> CostModel:
        """The model of kernels alone on their lane, where this one adds what a network costs them."""
        return self

    def describe(self, kernels: Sequence[Kernel]) -> str:
        """One line that says where the latencies of ``kernels`` come from; may be empty."""
        return ""

    def table(self, kernels: Sequence[Kernel]) -> dict[Kernel, float]:
        """Predicted latency in microseconds of every distinct kernel."""
        distinct = list(dict.fromkeys(kernels))
        latency_us, _ = self.predict(distinct)
        return dict(zip(distinct, latency_us.tolist(), strict=True))


class FittedModel(CostModel):
    """A cost model that learns from measured kernels and can be kept in a file."""

    @abstractmethod
    def fit(
        self,
        kernels: Sequence[Kernel],
        latency_us: Microseconds,
        labels_us: Microseconds | None = None,
    ) -> Self:
        """Learn from kernels and their latencies, in place of what was learned; returns itself.

        Where ``labels_us`` are given, which are freed of noise, these are learned; standard deviations
        are always of what was measured. Raises InputError where they are too few to learn from.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the model to ``path``, at once or not at all."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Self:
        """The model in ``path``; raises InputError where it is none, or of another version."""


def kind_of(kernel: Kernel) -> str:
    """The kernel's kind, one of ``syncnas_tvm.targets.KERNEL_KINDS``.

    ``stem`` is a convolution of at most four input channels (an image), ``conv`` any other that
    is neither pointwise nor depthwise.
    """
    if kernel.op == "nn.conv2d":
        if kernel.is_depthwise:
            return "depthwise"
        if kernel.shapes[0][1] <= 4:
            return "stem"
        return "pointwise" if kernel.shapes[1][2:] == (1, 1) else "conv"
    if kernel.op == "matmul":
        return "matmul"
    if kernel.op in ("mean", "sum", "max", "min", "prod") or "pool" in kernel.op:
        return "reduce"
    return "elementwise"
