"""The transfers between lanes that a compiled model calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm

from syncnas_tvm.passes.insert_transfers import DEVICE_TYPE, TRANSFER


def to_gpu(values: np.ndarray) -> Any:
    """An array on the GPU lane."""
    tensor = tvm.runtime.tensor(values)
    return tvm.get_global_func(TRANSFER)(tensor, DEVICE_TYPE["gpu"], 0)


def to_cpu(tensor: Any) -> Any:
    """A tensor for the CPU lane."""
    return tvm.get_global_func(TRANSFER)(tensor, DEVICE_TYPE["cpu"], 0)
