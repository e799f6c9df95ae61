"""Which kernels are timed together."""

from dataclasses import dataclass

import pytest

from syncnas_tvm.kernel_timer import BATCH, _batches
from syncnas_tvm.work import Kernel


@dataclass(frozen=True)
class OnlyKernel:
    """As much of a group as batches ask for."""

    kernel: Kernel


def pointwise(channels: int) -> OnlyKernel:
    shapes = ((1, channels, 7, 7), (channels, channels, 1, 1), (1, channels, 7, 7))
    return OnlyKernel(Kernel("nn.conv2d", shapes, "float32", "cpu"))


@pytest.mark.parametrize(
    ("channels", "most_bytes", "sizes"),
    [
        ([64, 64, 64], 3 * 64 * 64 * 4, [3]),
        ([64, 64, 64], 3 * 64 * 64 * 4 - 1, [2, 1]),
        ([256, 64, 64], 64 * 64 * 4, [1, 1, 1]),  # one that is larger has a batch of its own
        ([8] * (BATCH + 1), 1 << 30, [BATCH, 1]),
        ([], 1, []),
    ],
)
def test_batches(channels: list[int], most_bytes: int, sizes: list[int]) -> None:
    groups = [pointwise(count) for count in channels]
    batches = list(_batches(groups, most_bytes))  # type: ignore[arg-type]
    assert [len(batch) for batch in batches] == sizes
    assert [group for batch in batches for group in batch] == groups
