"""Scores of untrained models: how good an architecture is likely to be, without data."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


def synflow(model: nn.Module, size: int, inputs: int = 3) -> float:
    """Natural logarithm of SynFlow: the sum over all weights of |weight x its gradient|.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (NeurIPS 2020), as a score of architectures in Abdelfattah et al., "Zero-Cost Proxies for
    Lightweight NAS" (ICLR 2021): weights are replaced by their magnitudes, the image by ones, and the
    sum of the outputs is differentiated. Activations become the identity, which they are on positive
    values except where they saturate; batch norms keep their statistics. Computed in float64.
    """
    linear = copy.deepcopy(model).double().eval()
    for module in linear.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.ReLU6 | nn.SiLU | nn.Hardswish | nn.Dropout):
                setattr(module, name, nn.Identity())
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_()
    linear(torch.ones(1, inputs, size, size, dtype=torch.float64)).sum().backward()
    flow = sum(
        float((p.detach() * p.grad).abs().sum()) for p in linear.parameters() if p.grad is not None
    )
    return math.log(flow)
