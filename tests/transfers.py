"""The transfers between lanes that a compiled model calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm

from syncnas_tvm.passes.insert_transfers import DEVICE_TYPE, TRANSFER
from syncnas_tvm.work import Lane


def move(tensor: Any, lane: Lane) -> Any:
    """A tensor on a lane."""
    return tvm.get_global_func(TRANSFER)(tensor, DEVICE_TYPE[lane], 0)


def to_gpu(values: np.ndarray) -> Any:
    """An array on the GPU lane."""
    return move(tvm.runtime.tensor(values), "gpu")


def to_cpu(tensor: Any) -> Any:
    """A tensor for the CPU lane."""
    return move(tensor, "cpu")
