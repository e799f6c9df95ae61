"""Loads weights of timm's and torchvision's checkpoints of the zoo's networks, by a map of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.description import BlockShape, Network

OTHERS = ("timm", "torchvision")
SCHEMES = ("own", *OTHERS)
"""Whose names a checkpoint has; our own are SyncNAS's."""
TORCHVISION = ("mobilenet_v2", "mnasnet_b1", "mobilenet_v3_large", "efficientnet_b0")
"""Networks of the zoo that torchvision has; timm has all but FBNet-B and ProxylessNAS."""
NOT_TIMM = ("fbnet_b", "proxylessnas_r")
TIMM_STAGES = {"mixnet_m": (1, 2, 4, 4, 4, 4)}
"""How timm groups blocks where it differs from the zoo."""
TORCHVISION_EPS = {"mobilenet_v3_large": 1e-3}
"""Batch norms' epsilon where it is not torch's default."""

Pairs = Iterator[tuple[str, str]]


def load_named(
    model: nn.Module, network: Network, state: Mapping[str, Tensor], scheme: str
) -> None:
    """Load a checkpoint of timm or torchvision into a model of the same network.

    Raises InputError naming the first tensor that is missing, unknown or of another shape.
    """
    converted = convert(model, network, state, scheme)
    model.load_state_dict(converted)
    eps = TORCHVISION_EPS.get(network.name) if scheme == "torchvision" else None
    if eps is not None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps


def convert(
    model: nn.Module, network: Network, state: Mapping[str, Tensor], scheme: str
) -> dict[str, Tensor]:
    """``state`` with the names of ``model``'s own state dict; see :func:`load_named`."""
    prefixes = dict(name_map(network, scheme))
    left = dict(state)
    converted = {}
    for own, tensor in model.state_dict().items():
        prefix, _, leaf = own.rpartition(".")
        foreign = f"{prefixes[prefix]}.{leaf}"
        if foreign not in left:
            if leaf == "num_batches_tracked":  # older checkpoints have none
                converted[own] = tensor
                continue
            raise InputError(f"{scheme} checkpoint of {network.name}: '{foreign}' is missing")
        found = left.pop(foreign)
        if tensor.ndim == 2 and found.ndim == 4:  # a 1x1 convolution where there is a dense layer
            found = found.flatten(1)
        if found.shape != tensor.shape:
            raise InputError(
                f"{scheme} checkpoint of {network.name}: '{foreign}' has shape {tuple(found.shape)},"
                f" not {tuple(tensor.shape)}; is it of another width or number of classes?"
            )
        converted[own] = found
    if left:
        raise InputError(
            f"{scheme} checkpoint of {network.name}: '{min(left)}' is not part of the network"
        )
    return converted


def name_map(network: Network, scheme: str) -> Pairs:
    """Pairs (own prefix, foreign prefix) of all modules with weights.

    Raises InputError where there is no such checkpoint.
    """
    if scheme not in OTHERS:
        raise InputError(f"unknown checkpoint scheme '{scheme}'; take one of {', '.join(OTHERS)}")
    known = network.name in TORCHVISION if scheme == "torchvision" else network.name not in NOT_TIMM
    if not known:
        raise InputError(f"{scheme} has no network '{network.name}'; take the other scheme")
    if scheme == "torchvision":
        return _torchvision(network)
    return _timm_rexnet(network) if network.rexnet else _timm(network)


def _blocks(network: Network) -> Iterator[tuple[str, BlockShape]]:
    """Each block's own prefix and its shape."""
    for s, stage in enumerate(network.shapes()):
        for b, shape in enumerate(stage):
            yield f"stages.{s}.blocks.{b}", shape


def _conv(own: str, foreign: str, parts: int) -> Pairs:
    """A convolution, or several side by side."""
    if parts == 1:
        yield own, foreign
    for part in range(parts if parts > 1 else 0):
        yield f"{own}.convs.{part}", f"{foreign}.{part}"


def _timm(network: Network) -> Pairs:
    yield "stem_conv.0", "conv_stem"
    yield "stem_conv.1", "bn1"
    groups = TIMM_STAGES.get(network.name, tuple(map(len, network.stages)))
    places = [(s, b) for s, count in enumerate(groups) for b in range(count)]
    for (own, shape), (s, b) in zip(_blocks(network), places, strict=True):
        to, block = f"blocks.{s}.{b}", shape.block
        convs = ["conv_pw", "conv_dw", "conv_pwl"] if shape.expands else ["conv_dw", "conv_pw"]
        names = ["pw1", "dw", "pw2"] if shape.expands else ["dw", "pw2"]
        parts = {
            "pw1": block.expand_groups,
            "dw": len(block.kernels),
            "pw2": block.project_groups,
        }
        for number, (name, conv) in enumerate(zip(names, convs, strict=True), 1):
            yield from _conv(f"{own}.{name}.0", f"{to}.{conv}", parts[name])
            yield f"{own}.{name}.1", f"{to}.bn{number}"
        if shape.squeezed:
            yield f"{own}.se.reduce", f"{to}.se.conv_reduce"
            yield f"{own}.se.expand", f"{to}.se.conv_expand"
    if network.hidden:
        yield "head_conv.0", f"blocks.{len(groups)}.0.conv"
        yield "head_conv.1", f"blocks.{len(groups)}.0.bn1"
        yield "hidden.0", "conv_head"
    else:
        yield "head_conv.0", "conv_head"
        yield "head_conv.1", "bn2"
    yield "classifier.1", "classifier"


def _timm_rexnet(network: Network) -> Pairs:
    def pair(own: str, foreign: str) -> Pairs:
        yield f"{own}.0", f"{foreign}.conv"
        yield f"{own}.1", f"{foreign}.bn"

    yield from pair("stem_conv", "stem")
    last = 0
    for number, (own, shape) in enumerate(_blocks(network)):
        to, last = f"features.{number}", number + 1
        if shape.expands:
            yield from pair(f"{own}.pw1", f"{to}.conv_exp")
        yield from pair(f"{own}.dw", f"{to}.conv_dw")
        yield from pair(f"{own}.pw2", f"{to}.conv_pwl")
        if shape.squeezed:
            yield f"{own}.se.reduce", f"{to}.se.fc1"
            yield f"{own}.se.norm", f"{to}.se.bn"
            yield f"{own}.se.expand", f"{to}.se.fc2"
    yield from pair("head_conv", f"features.{last}")
    yield "classifier.1", "head.fc"


def _torchvision(network: Network) -> Pairs:
    by_name = {
        "mobilenet_v2": _torchvision_v2,
        "mnasnet_b1": _torchvision_mnasnet,
        "mobilenet_v3_large": _torchvision_v3,
        "efficientnet_b0": _torchvision_efficientnet,
    }
    return by_name[network.name](network)


def _pair(own: str, conv: str, norm: str) -> Pairs:
    yield f"{own}.0", conv
    yield f"{own}.1", norm


def _torchvision_v2(network: Network) -> Pairs:
    yield from _pair("stem_conv", "features.0.0", "features.0.1")
    last = 1
    for number, (own, shape) in enumerate(_blocks(network), 1):
        to, at, last = f"features.{number}.conv", 0, number + 1
        for name in ("pw1", "dw") if shape.expands else ("dw",):
            yield from _pair(f"{own}.{name}", f"{to}.{at}.0", f"{to}.{at}.1")
            at += 1
        yield from _pair(f"{own}.pw2", f"{to}.{at}", f"{to}.{at + 1}")
    yield from _pair("head_conv", f"features.{last}.0", f"features.{last}.1")
    yield "classifier.1", "classifier.1"


def _torchvision_mnasnet(network: Network) -> Pairs:
    yield from _pair("stem_conv", "layers.0", "layers.1")
    yield from _pair("stages.0.blocks.0.dw", "layers.3", "layers.4")
    yield from _pair("stages.0.blocks.0.pw2", "layers.6", "layers.7")
    for s, stage in enumerate(network.stages[1:], 1):
        for b in range(len(stage)):
            own, to = f"stages.{s}.blocks.{b}", f"layers.{s + 7}.{b}.layers"
            for at, name in ((0, "pw1"), (3, "dw"), (6, "pw2")):
                yield from _pair(f"{own}.{name}", f"{to}.{at}", f"{to}.{at + 1}")
    yield from _pair("head_conv", "layers.14", "layers.15")
    yield "classifier.1", "classifier.1"


def _in_block(own: str, to: str, shape: BlockShape) -> Pairs:
    """A block of torchvision's MobileNetV3 and EfficientNet."""
    at = 0
    for name in ("pw1", "dw") if shape.expands else ("dw",):
        yield from _pair(f"{own}.{name}", f"{to}.{at}.0", f"{to}.{at}.1")
        at += 1
    if shape.squeezed:
        yield f"{own}.se.reduce", f"{to}.{at}.fc1"
        yield f"{own}.se.expand", f"{to}.{at}.fc2"
        at += 1
    yield from _pair(f"{own}.pw2", f"{to}.{at}.0", f"{to}.{at}.1")


def _torchvision_v3(network: Network) -> Pairs:
    yield from _pair("stem_conv", "features.0.0", "features.0.1")
    last = 1
    for number, (own, shape) in enumerate(_blocks(network), 1):
        yield from _in_block(own, f"features.{number}.block", shape)
        last = number + 1
    yield from _pair("head_conv", f"features.{last}.0", f"features.{last}.1")
    yield "hidden.0", "classifier.0"
    yield "classifier.1", "classifier.3"


def _torchvision_efficientnet(network: Network) -> Pairs:
    yield from _pair("stem_conv", "features.0.0", "features.0.1")
    for s, stage in enumerate(network.shapes(), 1):
        for b, shape in enumerate(stage):
            yield from _in_block(f"stages.{s - 1}.blocks.{b}", f"features.{s}.{b}.block", shape)
    last = len(network.stages) + 1
    yield from _pair("head_conv", f"features.{last}.0", f"features.{last}.1")
    yield "classifier.1", "classifier.1"
