"""The packed layout that both lanes share: ``[C/V, H, W, V]`` with V channels in a vector.

Channels are padded with zeros to a multiple of V. What a padded channel holds after an activation
does not matter: the weights that read it are zero.
"""

from __future__ import annotations

import numpy as np

from syncnas_tvm.work import Shape

# Images have fewer channels than a vector; they stay as they are.
MIN_CHANNELS = 5


def is_packable(shape: Shape, dtype: str) -> bool:
    """Whether values of this NCHW shape are kept packed: feature maps of one image."""
    return len(shape) == 4 and shape[0] == 1 and shape[1] >= MIN_CHANNELS and dtype == "float32"


def packed_shape(shape: Shape, vector: int) -> Shape:
    """The packed shape of an NCHW tensor."""
    return (blocks(shape[1], vector), shape[2], shape[3], vector)


def blocks(channels: int, vector: int) -> int:
    """Vectors that hold ``channels``."""
    return -(-channels // vector)


def pack(array: np.ndarray, vector: int) -> np.ndarray:
    """An NCHW array (N = 1) in the packed layout."""
    padded = _pad(array[0], 0, vector)
    grouped = padded.reshape(-1, vector, *padded.shape[1:])
    return np.ascontiguousarray(np.moveaxis(grouped, 1, -1))


def pack_dense_weight(weight: np.ndarray, vector: int, pack_input: bool) -> np.ndarray:
    """OIHW to ``[O/V, I/V, H, W, V in, V out]``, or ``[O/V, I, H, W, V out]`` for a plain input."""
    padded = _pad(weight, 0, vector)
    out = padded.reshape(-1, vector, *padded.shape[1:])
    if not pack_input:
        return np.ascontiguousarray(np.moveaxis(out, 1, -1))
    out = _pad(out, 2, vector)
    shape = out.shape
    out = out.reshape(shape[0], vector, shape[2] // vector, vector, *shape[3:])
    return np.ascontiguousarray(out.transpose(0, 2, 4, 5, 3, 1))


def pack_depthwise_weight(weight: np.ndarray, vector: int) -> np.ndarray:
    """``[C, 1, H, W]`` to ``[C/V, H, W, V]``."""
    return pack(weight[:, 0][None], vector)


def _pad(array: np.ndarray, axis: int, multiple: int) -> np.ndarray:
    missing = -array.shape[axis] % multiple
    if not missing:
        return array
    widths = [(0, missing if i == axis else 0) for i in range(array.ndim)]
    return np.pad(array, widths)
