"""Checkpoints: written in one step, read without running what is in them, and checked."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.errors import CheckpointError


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``; a reader finds the old file or the new one, never a part."""
    with file_written_aside(path) as aside:
        torch.save(dict(state), aside)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's dictionary on the CPU; raises CheckpointError naming the file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is not there") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, KeyError,
            zipfile.BadZipFile) as error:  # fmt: skip
        line = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise CheckpointError(
            f"checkpoint {path} is damaged or no checkpoint ({line}); delete it or name another"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} has no state dict in it; name another")
    return state


def weights_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint: our own (averaged, where there are), or a plain state dict.

    Prefixes of wrappers (``module.``) are dropped.
    """
    for key in ("ema", "model", "model_ema", "state_dict"):
        inner = state.get(key)
        if isinstance(inner, Mapping) and inner:
            return weights_of(inner)
    weights = {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and k != "n_averaged"}
    return {k.removeprefix("module."): v for k, v in weights.items()}


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights in a checkpoint; raises CheckpointError naming what does not fit."""
    weights = weights_of(read(path))
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
