"""Convolutions and matrix products as columns of numbers: what features and ladders are made of.

Many kernels are read at once, for a search predicts thousands: shapes go into one array, and attributes,
which many kernels share, are taken apart once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import nan, prod
from operator import is_
from struct import pack

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.work import DTYPE_BYTES, NONZERO, Kernel

ALGORITHM = "algorithm"
"""Kernel attribute: how a measured convolution was computed, ``direct`` or ``winograd``."""
WINOGRAD_CHANNELS = 32
"""The compiler takes Winograd on the CPU lane from so many channels on, in and out."""
CONV, DEPTHWISE, DENSE = 0, 1, 2
COLUMNS = (
    "kind",
    "groups",
    "in",
    "out",
    "h",
    "w",
    "kh",
    "kw",
    "stride",
    "pad",
    "rows",
    "columns",
    "winograd",
    "macs",
    "size",
    "gpu",
)
LEARNABLE = frozenset({"nn.conv2d", "matmul"})
LARGEST_KEY = 1 << 62
UNKNOWN, DIRECT, WINOGRAD = 0, 1, 2

Column = NDArray[np.float64]
Columns = Mapping[str, Column]


def is_learnable(kernel: Kernel) -> bool:
    """Whether there are columns for ``kernel``: convolutions and matrix products."""
    return kernel.op in LEARNABLE


def is_winograd(kernel: Kernel) -> bool:
    """Whether ``kernel`` is computed with Winograd's transform: what was measured says so itself, a
    kernel of the compiler is where its CPU schedule (``schedule/packed.py``) does."""
    return is_learnable(kernel) and bool(columns_of([kernel])["winograd"][0])


def columns_of(kernels: Sequence[Kernel]) -> Columns:
    """:data:`COLUMNS` by name, one entry a kernel; raises ValueError for a kernel that has none.

    ``in`` is per group, ``groups`` 0 for a depthwise convolution; a matrix product has its rows as
    ``columns``, and the product of the dimensions in front of the last two as ``groups``. ``size``: bytes
    of an element; ``macs``: without structural zeros; ``gpu``: 1 on the GPU lane.
    """
    dense = [index for index, kernel in enumerate(kernels) if kernel.op == "matmul"]
    if not dense:
        return _convolutions(kernels)
    rest = [index for index, kernel in enumerate(kernels) if kernel.op != "matmul"]
    found = {name: np.empty(len(kernels)) for name in COLUMNS}
    products = np.array([_product(kernels[index]) for index in dense], np.float64)
    for name, column in zip(COLUMNS, products.T, strict=True):
        found[name][dense] = column
    for name, column in _convolutions([kernels[index] for index in rest]).items():
        found[name][rest] = column
    return found


def _product(kernel: Kernel) -> tuple[float, ...]:
    (*lead, into), (*outer, out) = kernel.shapes[0], kernel.shapes[-1]
    rows = prod(outer)
    last = kernel.macs, DTYPE_BYTES[kernel.dtype], kernel.lane == "gpu"
    return (DENSE, prod(lead[:-1]), into, out, 1, rows, 1, 1, 1, 0, 1, rows, 0, *last)


def _convolutions(kernels: Sequence[Kernel]) -> Columns:
    for op in {kernel.op for kernel in kernels} - {"nn.conv2d"}:
        raise ValueError(f"no features are defined for {op}")
    _, channels, h, w, out, into, kh, kw, batch, _, rows, columns = _shapes(kernels)
    stride, pad, algorithm, nonzero = _attributes_of(kernels)
    stride = np.where(np.isnan(stride), np.maximum(1, np.rint(w / columns)), stride)
    reach = np.maximum(0, (columns - 1) * stride + kw - w + 1)
    depthwise = (into == 1) & (channels > 1)
    gpu = _looked_up([kernel.lane for kernel in kernels], {"cpu": 0.0, "gpu": 1.0})
    small = np.minimum(out, into) < WINOGRAD_CHANNELS
    taken = (gpu == 0) & (kh == 3) & (kw == 3) & ~small & (stride == 1)
    return {
        "kind": depthwise.astype(np.float64),
        "groups": np.where(depthwise, 0, channels // into),
        "in": into,
        "out": out,
        "h": h,
        "w": w,
        "kh": kh,
        "kw": kw,
        "stride": stride,
        "pad": np.where(np.isnan(pad), reach // 2, pad),
        "rows": rows,
        "columns": columns,
        "winograd": np.where(algorithm == UNKNOWN, taken, algorithm == WINOGRAD).astype(np.float64),
        "macs": np.rint(batch * out * rows * columns * (into * kh * kw) * nonzero),
        "size": _looked_up([kernel.dtype for kernel in kernels], DTYPE_BYTES),
        "gpu": gpu,
    }


def _shapes(kernels: Sequence[Kernel]) -> NDArray[np.float64]:
    """The numbers of each convolution's three shapes, ``[12, n]``."""
    shapes = chain.from_iterable([kernel.shapes for kernel in kernels])
    # Packing takes half the time that ``np.fromiter`` does.
    packed = pack(f"{12 * len(kernels)}q", *chain.from_iterable(shapes))
    return np.frombuffer(packed, np.int64).reshape(len(kernels), 12).T.astype(np.float64, "C")


def _looked_up(keys: Sequence[str], table: Mapping[str, float]) -> Column:
    if len(set(keys)) == 1:
        return np.full(len(keys), table[keys[0]], np.float64)
    return np.fromiter(map(table.__getitem__, keys), np.float64, len(keys))


def _attributes_of(kernels: Sequence[Kernel]) -> NDArray[np.float64]:
    """:func:`_attributes` of each kernel, ``[4, n]``."""
    attrs = [kernel.attrs for kernel in kernels]
    # Cuts of one kernel, which come one after the other, share one object.
    again = np.fromiter(map(is_, attrs, chain([None], attrs)), np.bool_, len(attrs))
    first = np.flatnonzero(~again)
    table = np.array([_attributes(attrs[index]) for index in first.tolist()]).reshape(-1, 4)
    return table[np.cumsum(~again) - 1].T


@lru_cache(maxsize=4096)
def _attributes(attrs: tuple[tuple[str, object], ...]) -> tuple[float, float, float, float]:
    """Stride along the columns, padding (NaN where they are not said), algorithm, share of nonzeros."""
    found = dict(attrs)
    strides, padding = found.get("strides"), found.get("padding")
    algorithm: object = found.get(ALGORITHM)
    return (
        nan if strides is None else float(strides[1]),  # type: ignore[index]
        nan if padding is None else float(max(padding[0], padding[1])),  # type: ignore[index]
        UNKNOWN if algorithm is None else WINOGRAD if algorithm == "winograd" else DIRECT,
        float(found.get(NONZERO, 1.0)),  # type: ignore[arg-type]
    )


def numbers_of(columns: Sequence[Column]) -> NDArray[np.intp]:
    """A number for each kernel, the same for those that agree in all ``columns`` of whole numbers."""
    return np.unique(keys_of(columns), return_inverse=True)[1]


def keys_of(columns: Sequence[Column]) -> NDArray[np.int64]:
    """The same, with gaps between the numbers."""
    key, most = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        low, high = column.min(initial=np.inf), column.max(initial=-np.inf)
        if low < high:
            many = int(high - low) + 1
            if most * many > LARGEST_KEY:
                _, key = np.unique(key, return_inverse=True)
                most = len(key)
            key, most = key * many + (column - low).astype(np.int64), most * many
    return key
