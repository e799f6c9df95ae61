"""What a learned cost model sees of a kernel: numbers derived from its shapes and type.

``VERSION`` is written into every saved model, and changes with whatever changes a number here.
Sizes are base-2 logarithms. After the plain sizes come those that explain how well a tuned
schedule can fit: tiles are divisors of an extent, vectors are 4 or 8 floats wide.

====================  =============================================================================
in, out, pixels       input channels of a group (1 for depthwise), output channels, output pixels
columns, rows         of the output
in_pixels             of the input
window, stride        pixels of the window; its stride
pad, tall             padding (larger of top and left, in pixels); window higher (1) or wider (-1)
depthwise, dense      1 for a depthwise convolution, for a matrix product
stem, pointwise       1 for a convolution of at most 4 channels, for a window of one pixel
winograd              1 where the kernel is computed with Winograd's transform
flops, bytes          of the main operator, each operand once; intensity = flops / bytes
reduction             multiply-adds per output value
data, weight, result  elements of the operands and of the output
parallel              vectors of 16 results
ratio                 output over input channels
two_X                 largest power of two (up to 64 channels, 16 pixels) that divides X
to_N_X                largest divisor of X that is at most N
divisors_X            how many divisors X has among 1 to 64
waste_N_X             X rounded up to a multiple of N, over X; not a logarithm
tiles                 Winograd's 4 x 4 output tiles, over the pixels they cover; not a logarithm
odd_in, odd_out       1 where channels are no multiple of 4
====================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.work import DTYPE_BYTES, Kernel

VERSION = 1
ALGORITHM = "algorithm"
"""Kernel attribute: how a measured convolution was computed, ``direct`` or ``winograd``."""
WINOGRAD_CHANNELS = 32
"""The compiler takes Winograd on the CPU lane from so many channels on, in and out."""
LIMIT = 1 << 16

Matrix = NDArray[np.float64]
COLUMNS = [
    "kind",
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
]
CONV, DEPTHWISE, DENSE = 0, 1, 2


def is_learnable(kernel: Kernel) -> bool:
    """Whether features are defined for ``kernel``: convolutions and matrix products of batch 1."""
    return kernel.op == "nn.conv2d" or kernel.op == "matmul"


def features(kernels: Sequence[Kernel]) -> dict[str, NDArray[np.float64]]:
    """Every feature by name, one entry a kernel; raises ValueError for a kernel without."""
    rows = np.array([_row(kernel) for kernel in kernels], np.float64).reshape(-1, len(COLUMNS))
    raw = dict(zip(COLUMNS, rows.T, strict=True))
    found = _sizes(raw)
    found.update(_tiles(raw))
    return found


def is_winograd(kernel: Kernel) -> bool:
    """Whether ``kernel`` is computed with Winograd's transform: what was measured says so itself, a
    kernel of the compiler is where its CPU schedule (``schedule/packed.py``) does."""
    attrs = dict(kernel.attrs)
    if ALGORITHM in attrs:
        return attrs[ALGORITHM] == "winograd"
    if kernel.op != "nn.conv2d" or kernel.lane != "cpu":
        return False
    out, into, *window = kernel.shapes[1]
    small = min(out, into) < WINOGRAD_CHANNELS
    return window == [3, 3] and not small and _strides(kernel, attrs)[1] == 1


def _row(kernel: Kernel) -> tuple[float, ...]:
    shapes = kernel.shapes
    size = DTYPE_BYTES[kernel.dtype]
    if kernel.op == "matmul":
        (*_, into), (*outer, out) = shapes[0], shapes[-1]
        rows = prod(outer)
        return (DENSE, into, out, 1, rows, 1, 1, 1, 0, 1, rows, 0, kernel.macs, size)
    if kernel.op != "nn.conv2d":
        raise ValueError(f"no features are defined for {kernel.op}")
    _, _, h, w = shapes[0]
    out, into, kh, kw = shapes[1]
    _, _, rows, columns = shapes[-1]
    attrs = dict(kernel.attrs)
    stride = _strides(kernel, attrs)[1]
    padding = attrs.get("padding")
    if padding is None:
        pad = max(0, (columns - 1) * stride + kw - w + 1) // 2
    else:
        pad = max(padding[0], padding[1])  # type: ignore[index]
    kind = DEPTHWISE if kernel.is_depthwise else CONV
    return (kind, into, out, h, w, kh, kw, stride, pad, rows, columns,
            is_winograd(kernel), kernel.macs, size)  # fmt: skip


def _strides(kernel: Kernel, attrs: dict[str, object]) -> tuple[int, int]:
    """The strides, guessed from the widths where the kernel does not say."""
    if "strides" in attrs:
        return attrs["strides"]  # type: ignore[return-value]
    guess = max(1, round(kernel.shapes[0][3] / kernel.out_shape[3]))
    return guess, guess


def _sizes(raw: dict[str, Matrix]) -> dict[str, Matrix]:
    depthwise, into, out = raw["kind"] == DEPTHWISE, raw["in"], raw["out"]
    pixels, window = raw["rows"] * raw["columns"], raw["kh"] * raw["kw"]
    data = raw["h"] * raw["w"] * np.where(depthwise, out, into)
    reduction = into * window
    weight, result = out * reduction, out * pixels
    flops = 2.0 * np.maximum(raw["macs"], 1)
    moved = (data + weight + result) * raw["size"]
    logs = {
        "in": into,
        "out": out,
        "pixels": pixels,
        "columns": raw["columns"],
        "rows": raw["rows"],
        "in_pixels": raw["h"] * raw["w"],
        "window": window,
        "flops": flops,
        "bytes": moved,
        "intensity": flops / moved,
        "reduction": reduction,
        "data": data,
        "weight": weight,
        "result": result,
        "parallel": result / 16 + 1,
        "ratio": out / into,
    }
    found = {name: np.log2(values) for name, values in logs.items()}
    found |= {name: raw[name] for name in ("stride", "pad", "winograd")}
    found["tall"] = np.sign(raw["kh"] - raw["kw"])
    found["depthwise"] = depthwise.astype(float)
    found["dense"] = (raw["kind"] == DENSE).astype(float)
    found["stem"] = ((into <= 4) & (raw["kind"] == CONV)).astype(float)
    found["pointwise"] = (window == 1).astype(float)
    return found


def _tiles(raw: dict[str, Matrix]) -> dict[str, Matrix]:
    names = {"in": "in", "out": "out", "rows": "rows", "columns": "columns"}
    extents = {name: np.minimum(raw[key], LIMIT).astype(np.intp) for name, key in names.items()}
    # A depthwise convolution's channels are cut as its output's are.
    extents["in"] = np.where(raw["kind"] == DEPTHWISE, extents["out"], extents["in"])
    pixels = raw["rows"] * raw["columns"]
    found = {}
    for name, most in (("in", 64), ("out", 64), ("columns", 16), ("rows", 16)):
        found[f"two_{name}"] = np.log2(np.minimum(extents[name] & -extents[name], most))
    for most, name in ((16, "in"), (8, "out"), (16, "out"), (64, "out"), (8, "columns"), (16, "columns"), (8, "rows")):  # fmt: skip
        found[f"to_{most}_{name}"] = np.log2(_largest_divisor(most)[extents[name]])
    for name in ("in", "out", "columns"):
        found[f"divisors_{name}"] = np.log2(_divisors()[extents[name]])
    for multiple, values, name in ((4, raw["columns"], "columns"), (8, raw["columns"], "columns"), (8, raw["out"], "out"), (4, pixels, "pixels")):  # fmt: skip
        found[f"waste_{multiple}_{name}"] = np.ceil(values / multiple) * multiple / values
    covered = 16 * np.ceil(raw["rows"] / 4) * np.ceil(raw["columns"] / 4)
    found["tiles"] = np.where(raw["winograd"] > 0, covered / pixels, 1.0)
    for name in ("in", "out"):
        found[f"odd_{name}"] = (extents[name] % 4 != 0).astype(float)
    return found


@lru_cache
def _largest_divisor(most: int) -> NDArray[np.intp]:
    """By number: its largest divisor up to ``most``."""
    table = np.ones(LIMIT + 1, np.intp)
    for divisor in range(2, most + 1):
        table[::divisor] = divisor
    return table


@lru_cache
def _divisors(most: int = 64) -> NDArray[np.intp]:
    """By number: how many divisors it has among 1 to ``most``."""
    table = np.zeros(LIMIT + 1, np.intp)
    for divisor in range(1, most + 1):
        table[::divisor] += 1
    return table
