"""Arrays given to a compiled model: checked against what the model takes, or made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from syncnas_tvm.errors import InputError
from syncnas_tvm.frontend import TensorSpec

Array = np.ndarray
Arrays = Mapping[str, Array]


def checked_inputs(
    specs: Sequence[TensorSpec], args: tuple[Array | Arrays, ...], kwargs: Arrays
) -> list[Array]:
    """The arrays in the model's order, contiguous, given by position, by name or in one mapping.

    Raises InputError for a missing, unknown or surplus input, a wrong shape or type.
    """
    names = [spec.name for spec in specs]
    if len(args) == 1 and isinstance(args[0], Mapping):
        kwargs, args = {**args[0], **kwargs}, args[1:]
    if len(args) > len(names):
        raise InputError(f"{len(args)} inputs given; the model takes {', '.join(names)}")
    given: dict[str, Any] = dict(zip(names, args, strict=False))
    for name, array in kwargs.items():
        if name not in names:
            raise InputError(f"no input '{name}'; the model takes {', '.join(names)}")
        if name in given:
            raise InputError(f"input '{name}' is given twice")
        given[name] = array
    return [_checked(spec, given) for spec in specs]


def random_inputs(specs: Sequence[TensorSpec], seed: int = 0) -> dict[str, Array]:
    """Inputs of the right shapes: normal for floats, 0 and 1 for integers."""
    rng = np.random.default_rng(seed)
    made = {}
    for spec in specs:
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            made[spec.name] = rng.standard_normal(spec.shape).astype(spec.dtype)
        else:
            made[spec.name] = rng.integers(0, 2, spec.shape).astype(spec.dtype)
    return made


def _checked(spec: TensorSpec, given: Mapping[str, Array]) -> Array:
    name, shape, dtype = spec.name, spec.shape, spec.dtype
    if name not in given:
        raise InputError(f"input '{name}' is missing; it has shape {shape} and type {dtype}")
    array = np.asarray(given[name])
    if array.shape != shape:
        raise InputError(f"input '{name}' has shape {array.shape}; the model takes {shape}")
    if array.dtype != np.dtype(dtype):
        raise InputError(
            f"input '{name}' has type {array.dtype}; the model takes {dtype}: "
            f"convert it with .astype('{dtype}')"
        )
    return np.ascontiguousarray(array)
