"""Short digests: what tells data, weights and configurations from others of the same shape."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digest_of(*parts: object) -> str:
    """Twelve hexadecimal digits of the parts: tensors by type, shape and content, others as ``repr`` says."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()[:12]
