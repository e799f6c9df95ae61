"""The packed layout that both lanes share: ``[C/V, H, W, V]`` with V channels in a vector.

Channels are padded with zeros to a multiple of V. What a padded channel holds after an activation
does not matter: the weights that read it are zero.
"""

from __future__ import annotations

import numpy as np

from syncnas_tvm.work import Shape

PACKED_ROWS = 1
"""The dimension of a packed tensor that rows are."""
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


def input_step(channels: int, vector: int) -> int:
    """Input channels that a dense convolution takes at a time: a power of two up to a vector.

    Smaller where whole vectors would be padded a lot: 24 channels are three steps of 8, not two
    vectors of 16.
    """
    steps = [vector >> i for i in range(vector.bit_length()) if vector >> i >= min(4, vector)]
    return min(steps, key=lambda step: (blocks(channels, step) * step, -step))


def pack_dense_weight(weight: np.ndarray, vector: int, step: int) -> np.ndarray:
    """OIHW to ``[O/V, I/S, H, W, S in, V out]`` with S = ``step``."""
    padded = _pad(_pad(weight, 0, vector), 1, step)
    out, into, height, width = padded.shape
    grouped = padded.reshape(out // vector, vector, into // step, step, height, width)
    return np.ascontiguousarray(grouped.transpose(0, 2, 4, 5, 3, 1))


def pack_stem_weight(weight: np.ndarray, vector: int) -> np.ndarray:
    """OIHW to ``[O/V, I, H, W, V out]``, for inputs that are not packed."""
    padded = _pad(weight, 0, vector)
    out = padded.reshape(-1, vector, *padded.shape[1:])
    return np.ascontiguousarray(np.moveaxis(out, 1, -1))


def pack_matrix(weight: np.ndarray, columns: int, vector: int) -> np.ndarray:
    """``[K, N]`` to ``[N/CV, K, C, V]`` with C = ``columns``: a group of outputs reads one stream."""
    padded = _pad(weight, 1, columns * vector)
    grouped = padded.reshape(len(weight), -1, columns, vector)
    return np.ascontiguousarray(np.moveaxis(grouped, 0, 1))


def pack_depthwise_weight(weight: np.ndarray, vector: int) -> np.ndarray:
    """``[C, 1, H, W]`` to ``[C/V, H, W, V]``."""
    return pack(weight[:, 0][None], vector)


def _pad(array: np.ndarray, axis: int, multiple: int) -> np.ndarray:
    missing = -array.shape[axis] % multiple
    if not missing:
        return array
    widths = [(0, missing if i == axis else 0) for i in range(array.ndim)]
    return np.pad(array, widths)
