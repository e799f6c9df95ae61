"""The torch modules that networks and branched models are made of.

Names of submodules are those of SyncNAS's published checkpoints: ``pw1``, ``dw`` and ``pw2`` in a
block, each a convolution ``0`` and a batch norm ``1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.description import BlockShape, Network, shares

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hard_swish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hard_sigmoid": nn.Hardsigmoid,
}


def activation(name: str) -> nn.Module:
    """A new activation; raises InputError naming those that there are."""
    if name not in ACTIVATIONS:
        raise InputError(f"unknown activation '{name}'; take one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class SharedConv(nn.Module):
    """Convolutions side by side, each on its share of the channels: (N, C, H, W) in and out."""

    def __init__(
        self, inputs: int, outputs: int, kernels: tuple[int, ...], stride: int, depthwise: bool
    ) -> None:
        super().__init__()
        self.shares = shares(inputs, len(kernels))
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, stride, k // 2, groups=i if depthwise else 1, bias=False)
            for i, o, k in zip(self.shares, shares(outputs, len(kernels)), kernels, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        parts = torch.split(x, self.shares, 1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)


def conv_norm(
    inputs: int,
    outputs: int,
    kernels: tuple[int, ...] = (1,),
    stride: int = 1,
    act: str = "",
    *,
    depthwise: bool = False,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Convolution, batch norm and, where ``act`` names one, activation."""
    conv: nn.Module
    if len(kernels) > 1:
        conv = SharedConv(inputs, outputs, kernels, stride, depthwise)
    else:
        groups = inputs if depthwise else 1
        pad = kernels[0] // 2
        conv = nn.Conv2d(inputs, outputs, kernels[0], stride, pad, groups=groups, bias=False)
    return nn.Sequential(conv, norm(outputs), *([activation(act)] if act else []))


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int, act: str, gate: str, norm: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.norm = nn.BatchNorm2d(squeezed) if norm else nn.Identity()
        self.act = activation(act)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = activation(gate)

    def forward(self, x: Tensor) -> Tensor:
        """Shape in and out: (N, C, H, W)."""
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.norm(self.reduce(means)))))


class MBConv(nn.Module):
    """An inverted residual block (Sandler et al., CVPR 2018) with all that the zoo's have more."""

    def __init__(
        self,
        shape: BlockShape,
        network: Network,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        block, wide = shape.block, shape.block.expand
        self.inputs, self.residual = shape.inputs, shape.residual
        self.partial = shape.residual and shape.inputs != block.out
        self.pw1: nn.Module = nn.Identity()
        if shape.expands:
            groups = (1,) * block.expand_groups
            self.pw1 = conv_norm(shape.inputs, wide, groups, act=block.act, norm=norm)
        act = "" if network.rexnet else block.act
        self.dw = conv_norm(wide, wide, block.kernels, block.stride, act, depthwise=True, norm=norm)
        self.se: nn.Module = nn.Identity()
        if shape.squeezed:
            se_act = network.se_act or block.act
            self.se = SqueezeExcite(wide, shape.squeezed, se_act, network.gate, network.rexnet)
        self.act = nn.ReLU6() if network.rexnet else nn.Identity()
        self.pw2 = conv_norm(wide, block.out, (1,) * block.project_groups, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, out, H / stride, W / stride)."""
        y: Tensor = self.pw2(self.act(self.se(self.dw(self.pw1(x)))))
        if self.partial:
            return torch.cat([y[:, : self.inputs] + x, y[:, self.inputs :]], 1)
        return x + y if self.residual else y


def classifier(inputs: int, classes: int, dropout: float) -> nn.Sequential:
    """A dense layer behind dropout; raises InputError for fewer than two classes."""
    if classes < 2:
        raise InputError(f"a classifier needs at least 2 classes, not {classes}")
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, classes))


def initialise(model: nn.Module) -> None:
    """He's initialisation of convolutions by fan-out, a small normal one of dense layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)
