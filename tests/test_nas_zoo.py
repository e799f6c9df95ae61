"""The networks of the zoo: counts, widths, weights of other libraries, ONNX and the compiler."""

import hashlib

import pytest
import torch
from nas_onnx import against_torch

from syncnas_tvm import compile_onnx
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas import ZOO, network
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.model import build
from syncnas_tvm.nas.names import NOT_TIMM, TORCHVISION, convert, load_named, name_map

COUNTS = {  # parameters, million multiply-adds of an image of 224 x 224
    "mobilenet_v2": (3_504_872, 300.8),
    "mnasnet_a1": (3_887_038, 311.6),
    "mnasnet_b1": (4_383_312, 314.4),
    "fbnet_c": (5_572_200, 385.0),
    "single_path_nas": (4_421_616, 333.5),
    "mobilenet_v3_large": (5_483_032, 216.6),
    "efficientnet_b0": (5_288_548, 385.8),
    "mixnet_m": (5_014_382, 339.2),
    "rexnet_1_0": (4_796_873, 398.4),
    "proxylessnas_r": (4_080_512, 320.4),  # the authors' published model
    "fbnet_b": (4_813_048, 296.6),  # no reference: see the zoo
}
PUBLISHED_WIDTHS = {  # parameters of torchvision's and timm's models of other widths
    ("mobilenet_v2", 0.5): 1_968_680,
    ("mnasnet_b1", 0.5): 2_218_512,
    ("mnasnet_b1", 0.75): 3_170_208,
    ("mnasnet_b1", 1.3): 6_282_256,
}
STATE_DICTS = {  # names and shapes in timm 1.0.31 and torchvision 0.29.1, hashed as `digest` does
    ("timm", "mobilenet_v2"): "9b97d319a1b6986f",
    ("timm", "mnasnet_a1"): "442bd36a529fb6f6",
    ("timm", "mnasnet_b1"): "14830e8394a6e888",
    ("timm", "fbnet_c"): "7e6ef555f557b45f",
    ("timm", "single_path_nas"): "9df747f0d05eca86",
    ("timm", "mobilenet_v3_large"): "c9cae77a0d37db0e",
    ("timm", "efficientnet_b0"): "9311fe3ac4384e5f",
    ("timm", "mixnet_m"): "3ca3a95a8671e42c",
    ("timm", "rexnet_1_0"): "b15c9f18e2cdb6fb",
    ("torchvision", "mobilenet_v2"): "e3eb10f890f74c6e",
    ("torchvision", "mnasnet_b1"): "f0fbbc4775bb6490",
    ("torchvision", "mobilenet_v3_large"): "555a3f5e3bcc126e",
    ("torchvision", "efficientnet_b0"): "98a6d92c040c4bca",
}


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in ZOO}


def test_counts(models):
    assert set(models) == set(COUNTS)
    for name, model in models.items():
        counts = count(model)
        parameters, mega = COUNTS[name]
        assert counts.parameters == parameters, name
        assert counts.macs / 1e6 == pytest.approx(mega, rel=0.005), name


@pytest.mark.parametrize(("name", "width"), PUBLISHED_WIDTHS)
def test_counts_at_other_widths(name, width):
    parameters = sum(p.numel() for p in build(name, width).parameters())
    assert parameters == PUBLISHED_WIDTHS[name, width]


def test_every_network_has_a_source_and_seven_stages():
    for name, found in ZOO.items():
        assert found.source, name
        # MobileNetV3's seventh stage in the readme is what is its head here.
        assert len(found.stages) == (6 if name == "mobilenet_v3_large" else 7), name


def foreign_state(model, name, scheme):
    """A checkpoint as the other library would write it, with other numbers than ``model``'s."""
    prefixes = dict(name_map(ZOO[name], scheme))
    generator = torch.Generator().manual_seed(1)
    state = {}
    for own, tensor in model.state_dict().items():
        prefix, _, leaf = own.rpartition(".")
        value = tensor.clone()
        if value.is_floating_point():
            value.normal_(generator=generator)
        if scheme == "timm" and own == "hidden.0.weight":
            value = value[:, :, None, None]
        state[f"{prefixes[prefix]}.{leaf}"] = value
    return state


def digest(state):
    text = "\n".join(sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_names_are_those_of_the_other_libraries(models):
    covered = {("torchvision", n) for n in TORCHVISION}
    covered |= {("timm", n) for n in ZOO if n not in NOT_TIMM}
    assert covered == set(STATE_DICTS)
    for scheme, name in STATE_DICTS:
        state = foreign_state(models[name], name, scheme)
        assert digest(state) == STATE_DICTS[scheme, name], (scheme, name)


def test_a_few_names_by_hand(models):
    timm = foreign_state(models["mixnet_m"], "mixnet_m", "timm")
    for name in (
        "conv_stem",
        "blocks.1.0.conv_pw.1",
        "blocks.5.3.conv_dw.3",
        "blocks.2.1.se.conv_expand",
    ):
        assert f"{name}.weight" in timm
    vision = foreign_state(models["mobilenet_v2"], "mobilenet_v2", "torchvision")
    for name in (
        "features.1.conv.0.0",
        "features.2.conv.1.0",
        "features.17.conv.2",
        "classifier.1",
    ):
        assert f"{name}.weight" in vision


def test_weights_arrive(models):
    for scheme, name in (("torchvision", "mobilenet_v3_large"), ("timm", "rexnet_1_0")):
        model = build(name)
        state = foreign_state(model, name, scheme)
        load_named(model, ZOO[name], state, scheme)
        prefixes = dict(name_map(ZOO[name], scheme))
        for own, tensor in model.state_dict().items():
            prefix, _, leaf = own.rpartition(".")
            assert torch.equal(tensor.flatten(), state[f"{prefixes[prefix]}.{leaf}"].flatten())


def test_what_is_wrong_with_a_checkpoint_is_named(models):
    name, model = "mnasnet_b1", models["mnasnet_b1"]
    state = foreign_state(model, name, "timm")
    del state["blocks.3.1.conv_dw.weight"]
    with pytest.raises(InputError, match=r"'blocks.3.1.conv_dw.weight' is missing"):
        convert(model, ZOO[name], state, "timm")
    state = foreign_state(model, name, "timm") | {"extra.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"'extra.weight' is not part"):
        convert(model, ZOO[name], state, "timm")
    state = foreign_state(model, name, "timm")
    state["classifier.bias"] = torch.zeros(10)
    with pytest.raises(InputError, match=r"classifier.bias.*\(10,\), not \(1000,\)"):
        convert(model, ZOO[name], state, "timm")
    with pytest.raises(InputError, match="torchvision has no network 'fbnet_c'"):
        dict(name_map(ZOO["fbnet_c"], "torchvision"))


def test_unknown_network_and_width():
    with pytest.raises(
        InputError, match="unknown network 'mobilenet_v9'; take one of mobilenet_v2"
    ):
        network("mobilenet_v9")
    with pytest.raises(InputError, match="width 0 "):
        network("mobilenet_v2", 0.0)


@pytest.mark.parametrize("name", ["mnasnet_a1", "proxylessnas_r"])
def test_onnx_gives_torchs_outputs(name, tmp_path):
    assert against_torch(build(name, 0.5, classes=10), tmp_path / "m.onnx", 64) < 1e-4


def test_compiled_for_the_host(tmp_path, nothing_measured):
    """A network that tests/zoo.py does not have; all networks: benchmarks/nas_zoo.py."""
    against_torch(build("proxylessnas_r", 0.35, classes=10), tmp_path / "m.onnx", 32)
    result = compile_onnx(tmp_path / "m.onnx", timed=False)
    assert result.deviation.max_rel <= 1e-4
