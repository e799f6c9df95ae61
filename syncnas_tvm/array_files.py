"""Reads the arrays and plans that flags name, with errors that name the flag and the file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from syncnas_tvm.errors import InputError, PlanError
from syncnas_tvm.frontend import TensorSpec
from syncnas_tvm.frontend.input_shapes import fix_shapes, model_inputs
from syncnas_tvm.frontend.model_file import load_model
from syncnas_tvm.plan import Plan

Array = np.ndarray

_NPY, _ZIP = b"\x93NUMPY", b"PK"
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, KeyError, zipfile.BadZipFile)


def read_plan(flag: str, path: Path) -> Plan:
    """The plan in a JSON file; raises PlanError or InputError."""
    try:
        return Plan.loads(_bytes(flag, path).decode("utf-8"))
    except PlanError as error:
        raise PlanError(f"{flag} {path}: {error}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"{flag} {path}: the plan is not JSON") from error


def input_specs(
    path: Path, input_shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[TensorSpec, ...]:
    """The inputs that the model in ``path`` will have; raises ModelError or InputError."""
    model = load_model(path)
    fix_shapes(path, model, input_shapes)
    return tuple(
        TensorSpec(
            value.name,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in model_inputs(model)
    )


def read_inputs(flag: str, entries: Sequence[str], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrays by input name from ``FILE.npy``, ``NAME=FILE.npy`` and ``FILE.npz`` entries.

    An ``.npy`` file without a name is the next input that has none yet. Raises InputError for what
    is missing, not readable, or not of the input's shape and type.
    """
    given: dict[str, Array] = {}
    for entry in entries:
        name, path = _split(flag, entry, specs)
        for key, array in _arrays(flag, path, name).items():
            where = f"{flag} {path}"
            if key is None:
                key = next((s.name for s in specs if s.name not in given), None)
            spec = next((s for s in specs if s.name == key), None)
            if spec is None:
                what = "one file too many" if key is None else f"the model has no input '{key}'"
                raise InputError(f"{where}: {what}; its inputs are {_names(specs)}")
            if spec.name in given:
                raise InputError(f"{where}: input '{spec.name}' is given twice; give it once")
            _check(where, array, spec)
            given[spec.name] = array
    missing = [s.name for s in specs if s.name not in given]
    if missing:
        raise InputError(
            f"{flag}: input '{missing[0]}' is missing; give each input a file, as NAME=FILE.npy"
        )
    return given


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file that ``numpy.load`` reads; any name is allowed, even ``file``."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _split(flag: str, entry: str, specs: Sequence[TensorSpec]) -> tuple[str | None, Path]:
    """The input's name, where the entry has one, and the file."""
    for spec in specs:
        if entry.startswith(f"{spec.name}="):
            return spec.name, Path(entry.removeprefix(f"{spec.name}="))
    name, equals, _ = entry.partition("=")
    if equals and not Path(entry).exists():
        raise InputError(
            f"{flag} {entry}: the model has no input '{name}'; its inputs are {_names(specs)}"
        )
    return None, Path(entry)


def _arrays(flag: str, path: Path, name: str | None) -> dict[str | None, Array]:
    """The arrays of a file; the key is None where nothing says which input it is."""
    start = _bytes(flag, path, 6)
    where = f"{flag} {path}"
    if not start.startswith((_NPY, _ZIP)):
        raise InputError(f"{where}: is not a .npy or .npz file; write it with numpy.save")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {name: loaded}
        with loaded:
            arrays: dict[str | None, Array] = {key: loaded[key] for key in loaded.files}
    except _UNREADABLE as error:
        if "pickle" in str(error):
            raise InputError(
                f"{where}: holds Python objects, which are not loaded; save an array of numbers"
            ) from error
        raise InputError(f"{where}: is damaged or truncated; write it again") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{where}: '{key}' is not an array; write it with numpy.savez")
    if name is None:
        return arrays
    if len(arrays) != 1:
        raise InputError(
            f"{where}: has {len(arrays)} arrays; give a .npy file for input '{name}', or the .npz "
            "file without a name"
        )
    return {name: next(iter(arrays.values()))}


def _check(where: str, array: Array, spec: TensorSpec) -> None:
    if array.shape != spec.shape:
        unbatched = array[None].shape == spec.shape
        hint = "; add the batch dimension with array[None]" if unbatched else ""
        raise InputError(
            f"{where}: has shape {list(array.shape)}, input '{spec.name}' takes "
            f"{list(spec.shape)}{hint}"
        )
    if array.dtype != np.dtype(spec.dtype):
        raise InputError(
            f"{where}: has type {array.dtype}, input '{spec.name}' takes {spec.dtype}; "
            f"convert it with array.astype('{spec.dtype}')"
        )


def _bytes(flag: str, path: Path, count: int = -1) -> bytes:
    """The first bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError:
        problem = "no such file; check the path"
    except IsADirectoryError:
        problem = "is a folder; name a file"
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise InputError(f"{flag} {path}: {problem}")


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in specs) or "none"
