"""Checkpoints: written in one step, read without running what is in them, and checked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.errors import CheckpointError

ZIPPED = b"PK\x03\x04"
"""What a file begins with that torch reads as an archive."""
DOS_FOLDER = 0x10


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``; a reader finds the old file or the new one, never a part."""
    with file_written_aside(path) as aside:
        torch.save(dict(state), aside)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's dictionary on the CPU; raises CheckpointError naming the file."""
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is not there") from error
    except Exception as error:  # unpickling damaged bytes can raise anything
        line = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise CheckpointError(
            f"checkpoint {path} is damaged or no checkpoint ({line}); delete it or name another"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} has no state dict in it; name another")
    return state


def _check_sums(path: Path) -> None:
    """Raise BadZipFile where a byte has changed, which torch does not notice; old files have no sums."""
    with path.open("rb") as file:
        zipped = file.read(len(ZIPPED)) == ZIPPED
    if zipped:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            folders = [e.filename for e in archive.infolist() if e.external_attr & DOS_FOLDER]
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        if folders:  # of which torch reads nothing, and takes what is in memory
            raise zipfile.BadZipFile(f"{folders[0]} is marked as a folder")


def weights_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint: our own (averaged, where there are), or a plain state dict.

    Prefixes of wrappers (``module.``) are dropped.
    """
    for key in ("ema", "model", "model_ema", "state_dict"):
        inner = state.get(key)
        if isinstance(inner, Mapping) and inner:
            return weights_of(inner)
    return {
        name.removeprefix("module."): value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor) and name != "n_averaged"
    }


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load the weights from the file ``path``; raises CheckpointError naming it and what does not fit."""
    own = model.state_dict()
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    others = [k for k in weights if k not in own]
    wrong = [k for k in own if k in weights and weights[k].shape != own[k].shape]
    for what, names in (
        ("lacks", missing),
        ("has an unknown", others),
        ("has another shape of", wrong),
    ):
        if names:
            raise CheckpointError(
                f"checkpoint {path} {what} '{names[0]}'"
                + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                + "; is it of another model, width or number of classes?"
            )
    model.load_state_dict(weights, strict=False)
