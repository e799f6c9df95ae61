"""What a learned cost model sees of a kernel: numbers derived from its shapes and type.

``VERSION`` is written into every saved model, and changes with whatever changes a number here, or what
the saved numbers of a member of the ensemble mean.
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

import numpy as np
from numpy.typing import NDArray

from syncnas_tvm.cost_models.columns import ALGORITHM as ALGORITHM
from syncnas_tvm.cost_models.columns import CONV, DENSE, DEPTHWISE, Columns, columns_of
from syncnas_tvm.work import Kernel

VERSION = 2
LIMIT = 1 << 16

Matrix = NDArray[np.float64]


def features(kernels: Sequence[Kernel]) -> dict[str, Matrix]:
    """Every feature by name, one entry a kernel; raises ValueError for a kernel without."""
    return features_of(columns_of(kernels))


def features_of(columns: Columns) -> dict[str, Matrix]:
    """The features of the kernels that ``columns`` describe."""
    return _sizes(columns) | _tiles(columns)


def _sizes(raw: Columns) -> dict[str, Matrix]:
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


def _tiles(raw: Columns) -> dict[str, Matrix]:
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
