"""The torch module of a branched configuration, with the published names in its state dict."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from syncnas_tvm.nas.branched import BranchedConfig, Row
from syncnas_tvm.nas.description import Network
from syncnas_tvm.nas.layers import MBConv, classifier, conv_norm, initialise

PLAIN = Network("", 0, (), 0)
"""Blocks of branched models have nothing that depends on the network."""


class BranchedModel(nn.Module):
    """Two branches that meet at syncs: (N, inputs, H, W) images to (N, classes) logits.

    State dict names are those of the published checkpoints: ``stem_conv.0.weight``,
    ``stage1.branch1.0.pw1.0.weight``, ..., ``head_conv``, ``classifier.1``; both stages and branches
    are counted from 1.
    """

    def __init__(
        self,
        config: BranchedConfig,
        classes: int = 1000,
        *,
        inputs: int | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.config = config
        norm = partial(nn.BatchNorm2d, momentum=config.bn_momentum, eps=config.eps)
        stem, head = config.stem, config.head
        self.stem_conv = conv_norm(
            inputs or stem.inputs, stem.out, (stem.kernel,), stem.stride, config.act, norm=norm
        )
        for number, (stage, sync) in enumerate(zip(config.stages, config.sync, strict=True), 1):
            self.add_module(f"stage{number}", _Stage(stage, sync, config.act, norm))
        self.head_conv = conv_norm(
            head.inputs, head.out, (head.kernel,), head.stride, config.act, norm=norm
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(head.out, classes, dropout)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.stem_conv(x)
        both = x, x
        for number in range(1, len(self.config.stages) + 1):
            both = self.get_submodule(f"stage{number}")(*both)
        return self.classifier(self.pool(self.head_conv(both[0])).flatten(1))


class _Stage(nn.Module):
    """A stage of both branches: a value for each goes in, and comes out."""

    def __init__(
        self, stage: tuple[tuple[Row, ...], ...], sync: str, act: str, norm: partial[nn.Module]
    ) -> None:
        super().__init__()
        self.sync = sync
        branches = [[MBConv(row.shape(act), PLAIN, norm) for row in rows] for rows in stage]
        self.branch1, self.branch2 = (nn.Sequential(*blocks) for blocks in branches)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Both values are the same tensor where the stage is synchronized."""
        first, second = self.branch1(first), self.branch2(second)
        if self.sync == "n":
            return first, second
        both = first + second if self.sync == "a" else torch.cat([first, second], 1)
        return both, both
