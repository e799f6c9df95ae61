"""Starts a branched model from its base network's weights, by slicing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.layers import MBConv
from syncnas_tvm.nas.model import Mobile


def inherit(model: BranchedModel, base: Mobile) -> int:
    """Copy what fits of ``base`` into ``model``; returns how many numbers were copied.

    Of a block's expanded channels the first branch takes the first ones, the second branch the last
    ones; where branches are concatenated, each takes its half of the output. What is wider than the
    base keeps its own initialisation. Where branches are added, shifts are halved, so that the sum has
    the base's. Classifiers of other numbers of classes are left alone.
    """
    copied = 0
    for own, other in ((model.stem_conv, base.stem_conv), (model.head_conv, base.head_conv)):
        copied += _copy_all(own, other)
    copied += _copy_all(model.classifier, base.classifier)
    for s, kind in enumerate(model.config.sync):
        stage = model.get_submodule(f"stage{s + 1}")
        blocks = base.stages[s].blocks
        for b, branch in enumerate((stage.branch1, stage.branch2)):
            for own, other in zip(branch, blocks, strict=True):
                assert isinstance(own, MBConv)
                assert isinstance(other, MBConv)
                copied += _block(own, other, from_end=b == 1)
            last = branch[-1]
            if kind == "a":
                with torch.no_grad():
                    last.pw2[1].bias.mul_(0.5)
    return copied


def _copy_all(own: nn.Module, other: nn.Module) -> int:
    """Copy parameters and statistics of equal shape."""
    theirs, copied = other.state_dict(), 0
    for name, tensor in own.state_dict().items():
        if name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
            copied += tensor.numel()
    return copied


def _block(own: MBConv, other: MBConv, from_end: bool) -> int:
    theirs, copied = other.state_dict(), 0
    for name, tensor in own.state_dict().items():
        if name in theirs and tensor.ndim:
            copied += _slice(tensor, theirs[name], from_end)
    return copied


def _slice(own: Tensor, other: Tensor, from_end: bool) -> int:
    """Copy the common part of both tensors, from the beginning or the end of each dimension."""
    if own.ndim != other.ndim or own.shape[2:] != other.shape[2:]:
        return 0
    sizes = [min(a, b) for a, b in zip(own.shape, other.shape, strict=True)]
    place = tuple(slice(0, size) for size in sizes)
    taken = tuple(
        slice(full - size, full) if from_end else slice(0, size)
        for size, full in zip(sizes, other.shape, strict=True)
    )
    own[place].copy_(other[taken])
    return own[place].numel()
