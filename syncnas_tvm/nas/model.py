"""The torch module of a network of the zoo."""

from __future__ import annotations

from torch import Tensor, nn

from syncnas_tvm.nas.description import STEM_STRIDE, Network
from syncnas_tvm.nas.layers import MBConv, activation, classifier, conv_norm, initialise
from syncnas_tvm.nas.zoo import network as by_name


class Mobile(nn.Module):
    """A network built from its description: (N, inputs, H, W) images to (N, classes) logits.

    Any image of at least 32 pixels runs; ``stem_stride`` 1 suits images of 32 pixels. Raises InputError
    for fewer than two classes.
    """

    def __init__(
        self,
        network: Network,
        classes: int = 1000,
        *,
        inputs: int = 3,
        stem_stride: int = STEM_STRIDE,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.network = network
        act = network.act
        self.stem_conv = conv_norm(inputs, network.stem, (3,), stem_stride, network.stem_act or act)
        stages = network.shapes(stem_stride=stem_stride)
        self.stages = nn.Sequential(*(_Stage(stage, network) for stage in stages))
        last = stages[-1][-1].block.out
        self.head_conv = conv_norm(last, network.head, act=act)
        self.hidden: nn.Module = nn.Identity()
        if network.hidden:
            self.hidden = nn.Sequential(nn.Linear(network.head, network.hidden), activation(act))
        self.pool = nn.AdaptiveAvgPool2d(1)
        width = network.hidden or network.head
        self.classifier = classifier(width, classes, dropout)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.head_conv(self.stages(self.stem_conv(x)))
        return self.classifier(self.hidden(self.pool(x).flatten(1)))


class _Stage(nn.Module):
    """Blocks in a row; named so that state dicts have the published names."""

    def __init__(self, shapes: tuple, network: Network) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.blocks = nn.Sequential(*(MBConv(shape, network) for shape in shapes))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.blocks(x)


def build(
    network: Network | str,
    width: float = 1.0,
    classes: int = 1000,
    *,
    inputs: int = 3,
    stem_stride: int = STEM_STRIDE,
    dropout: float = 0.2,
    multiple: int = 8,
) -> Mobile:
    """The network, by description or name, with fresh weights; see :meth:`Network.scaled`.

    Raises InputError for an unknown name, a width out of range, or fewer than two classes.
    """
    if isinstance(network, str):
        network = by_name(network)
    found = network.scaled(width, multiple)
    return Mobile(found, classes, inputs=inputs, stem_stride=stem_stride, dropout=dropout)
