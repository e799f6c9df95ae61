"""Parameters and multiply-adds of a torch module, counted without running it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Counts:
    """Trained numbers, and multiply-adds of one image (convolutions and dense layers)."""

    parameters: int
    macs: int


def count(model: nn.Module, size: int = 224, inputs: int = 3) -> Counts:
    """Counts for one image of ``inputs`` x ``size`` x ``size``.

    The model is left as it is: its shapes are propagated through a copy without memory.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    macs = [0]

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            macs[0] += output[0].numel() * prod(module.weight.shape[1:])
        elif isinstance(module, nn.Linear):
            macs[0] += output[0].numel() * module.in_features

    for module in shadow.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        shadow(torch.empty(1, inputs, size, size, device="meta"))
    return Counts(sum(p.numel() for p in model.parameters()), macs[0])
