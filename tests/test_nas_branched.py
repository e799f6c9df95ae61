"""Branched configurations and their torch modules; strategies and their names."""

import json
from pathlib import Path

import pytest
import torch
from nas_models import little_config, two_branches

from syncnas_tvm.errors import ConfigError, InputError
from syncnas_tvm.nas import ZOO
from syncnas_tvm.nas.branched import branched
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import (
    config_from_json,
    config_to_json,
    read_config,
    write_config,
)
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.strategy import SyncStrategy, strategies

# Not part of the project: SyncNAS's own files, where somebody has put them beside it.
PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "syncnas"
MACS = {"mobilenet_v2": 489e6, "mnasnet_b1": 496e6, "fbnet_c": 551e6}


@pytest.mark.parametrize("name", MACS)
def test_multiply_adds_of_the_published_models(name):
    path = PUBLISHED / f"syncnas_{name}_100.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not in ../shared/data/syncnas")
    config = read_config(path)
    assert count(BranchedModel(config)).macs == pytest.approx(MACS[name], rel=0.005)
    assert str(SyncStrategy(config.sync)) == config.name
    assert config_to_json(config) == json.loads(path.read_text())


def example(kinds="annnana", base="mobilenet_v2"):
    """A configuration as published: three quarters of the base's channels, and half of them."""
    found = two_branches(
        ZOO[base],
        kinds,
        lambda b: round(b.expand * 0.75 / 4) * 4,
        lambda b: round(b.expand / 8) * 4,
    )
    return config_to_json(found)


def test_multiply_adds_by_hand():
    config = config_from_json(example("cnnnana"))
    macs = 3 * 32 * 9 * 112**2 + 320 * 1280 * 7**2 + 1280 * 1000
    for *_, row in config.rows():
        expand = row.inputs * row.expand * row.size**2 if row.inputs != row.expand else 0
        macs += expand + row.expand * (row.kernel**2 + row.out) * row.out_size**2
    assert count(BranchedModel(config)).macs == macs
    assert config.stages[0][0][0].out == 8


def test_a_configuration_survives_writing(tmp_path):
    config = config_from_json(example("cnnnana"))
    write_config(config, tmp_path / "a.json")
    assert read_config(tmp_path / "a.json") == config
    assert json.loads((tmp_path / "a.json").read_text()) == example("cnnnana")


def test_state_dict_has_the_published_names(tmp_path):
    model = BranchedModel(config_from_json(example()))
    names = list(model.state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = ["stem_conv.0.weight", *(f"stem_conv.1.{n}" for n in norm)]
    for s, blocks in enumerate((1, 2, 3, 4, 3, 3, 1), 1):
        for b in (1, 2):
            for i in range(blocks):
                for part in ("pw1", "dw", "pw2"):
                    at = f"stage{s}.branch{b}.{i}.{part}"
                    expected += [f"{at}.0.weight", *(f"{at}.1.{n}" for n in norm)]
    expected += ["head_conv.0.weight", *(f"head_conv.1.{n}" for n in norm)]
    expected += ["classifier.1.weight", "classifier.1.bias"]
    assert names == expected
    assert model.state_dict()["stage7.branch2.0.pw1.0.weight"].shape == (480, 160, 1, 1)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    other = BranchedModel(model.config)
    other.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True))


def test_a_block_that_does_not_expand_has_no_first_convolution():
    data = example("nnnnaaa", "fbnet_c")
    data["0"]["0"][0][4], data["0"]["1"][0][4] = 20, 16  # expanded channels; 16 go in
    names = set(BranchedModel(config_from_json(data)).state_dict())
    assert "stage1.branch1.0.pw1.0.weight" in names
    assert "stage1.branch2.0.pw1.0.weight" not in names


@pytest.mark.parametrize("kinds", ["nnnnnna", "cacacac", "annnanc"])
def test_branches_meet_as_the_kinds_say(kinds):
    base = ZOO["mobilenet_v2"].scaled(0.25)
    config = two_branches(base, kinds, lambda b: b.expand, lambda b: max(4, b.expand // 2), size=32)
    model = BranchedModel(config, classes=5).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        x = y = model.stem_conv(image)
        for s, kind in enumerate(kinds, 1):
            stage = model.get_submodule(f"stage{s}")
            x, y = stage.branch1(x), stage.branch2(y)
            if kind == "a":
                x = y = x + y
            elif kind == "c":
                x = y = torch.cat([x, y], 1)
        expected = model.classifier(model.head_conv(x).mean((2, 3)))
        assert torch.allclose(model(image), expected, atol=1e-5)


def change(data, *path_and_value):
    *path, last, value = path_and_value
    at = data
    for key in path:
        at = at[key]
    at[last] = value
    return data


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("0", "0", 0, 3, 31), "stage 0, branch 0, block 0 takes 31 channels, but gets 32"),
        (("2", "1", 1, 5, 36), "stage 2, branch 1, block 2 takes 32 channels, but gets 36"),
        (("4", "1", 2, 5, 100), "stage 4: branches of 96 and 100 channels cannot be added"),
        (("3", "0", 1, 0, 28), "stage 3, branch 0, block 1 takes 28 x 28 pixels, but gets 14 x 14"),
        (("sync", 4, "c"), "stage 5, branch 0, block 0 takes 96 channels, but gets 192"),
        (("stem", 2, 4), "'stem' has kernel size 4, which is even"),
        (("head", 2, 2), "'head' has kernel size 2, which is even"),
        (("head", 0, 321), "'head' takes 321 channels, the last stage gives 320"),
        (("sync", 6, "n"), "last stage has to be synchronized"),
        (("sync", 2, "x"), "'sync' has to be a list with 'n', 'a' or 'c'"),
        (("1", "0", 0, [1, 2]), "stage '1', branch '0', block 0 has to be \\[size"),
        (("act", "Swish7"), "'act' has to be one of ReLU"),
        (("0", {"0": []}), "stage '0' has to have two branches"),
        (("colour", "red"), "'colour' is not part of a configuration"),
        (("bn_momentum", "high"), "'bn_momentum' has to be a number"),
    ],
)
def test_what_is_wrong_is_named(edit, message, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(change(example(), *edit)))
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_configuration(tmp_path):
    (tmp_path / "cut.json").write_text(json.dumps(example())[:300])
    for name, message in (("cut.json", "is not JSON"), ("none.json", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            read_config(tmp_path / name)


def test_bases_that_cannot_be_branched():
    for name in ("efficientnet_b0", "mixnet_m", "rexnet_1_0", "mobilenet_v3_large"):
        with pytest.raises(ConfigError, match=f"'{name}' cannot be branched: stage"):
            branched(ZOO[name], ("a",) * 7, (), name)


def test_scaled_models_keep_their_ratios():
    base = ZOO["mobilenet_v2"]
    config = config_from_json(example())
    little = config.scaled(0.5, 32, stem_stride=1)
    assert little.size == 32
    half = base.scaled(0.5, 2)
    for (s, b, i, row), (*_, big) in zip(little.rows(), config.rows(), strict=True):
        old, new = base.stages[s][i].expand, half.stages[s][i].expand
        assert row.expand / new == pytest.approx(big.expand / old, abs=0.51 / new), (s, b, i)
        assert row.out == half.stages[s][i].out
    BranchedModel(little, classes=10, inputs=1)(torch.zeros(2, 1, 32, 32))


def test_a_configuration_of_no_network_keeps_its_own_channels():
    """Other stem, head and channels between the blocks than any network of the zoo."""
    data = example("nnnnnna")
    for branch in "01":
        data["0"][branch][0][3] = 40
        data["6"][branch][0][5] = 400
    data["stem"][1], data["head"][:2] = 40, [400, 640]
    config = config_from_json(data)
    assert config.scaled(1.0) == config
    assert config.scaled(1.0, 32, stem_stride=1).scaled(1.0, 224, stem_stride=2) == config
    half = config.scaled(0.5)
    assert (half.stem.out, half.head.inputs, half.head.out) == (20, 200, 640)
    first, last = half.stages[0][0][0], half.stages[6][1][0]
    assert (first.inputs, first.out, last.out) == (20, 8, 200)
    assert last.expand / last.inputs == data["6"]["1"][0][4] / data["6"]["1"][0][3]


def test_branches_of_other_widths_stay_so():
    """Where branches run on apart, they need not give the same."""
    data = example("nnnnnna")
    data["5"]["1"][-1][5] = data["6"]["1"][0][3] = 100
    config = config_from_json(data)
    half = config.scaled(0.5)
    assert [branch[-1].out for branch in half.stages[5]] == [80, 50]
    assert config.scaled(1.0) == config


def test_halves_that_are_none_are_named():
    data = example("nnnnnnc")
    for branch, out in ("0", 100), ("1", 220):
        data["6"][branch][0][5] = out
    with pytest.raises(ConfigError, match=r"stage 6: branches of 100 and 220 .* be concatenated"):
        config_from_json(data)


@pytest.mark.parametrize("width", [0.01, 1000])
def test_widths_out_of_range(width):
    with pytest.raises(InputError, match=f"width {width} of 'sync3_046_aaa' is not between"):
        little_config().scaled(width)


def test_the_base_of_a_configuration():
    config = little_config("cnnnana")
    assert config.is_of(ZOO["mobilenet_v2"])
    assert config.scaled(0.5).is_of(ZOO["mobilenet_v2"].scaled(0.5, 2))
    assert not config.is_of(ZOO["mnasnet_b1"])
    assert not config.is_of(ZOO["mobilenet_v2"].scaled(0.5, 2))


@pytest.mark.parametrize("width", [0.05, 0.1, 0.35, 1.0])
def test_concatenations_can_be_scaled(width):
    config = config_from_json(example("ccccccc"))
    little = config.scaled(width, 32, stem_stride=1)
    for stage, base in zip(little.stages, ZOO["mobilenet_v2"].scaled(width, 2).stages, strict=True):
        assert 2 * stage[0][-1].out == base[-1].out


def test_1458_strategies_and_their_names():
    found = list(strategies(7))
    assert len(found) == len(set(found)) == 1458
    names = [str(s) for s in found]
    assert len(set(names)) == 1458
    assert [SyncStrategy.parse(name) for name in names] == found
    assert SyncStrategy.parse("sync3_046_aaa").kinds == tuple("annnana")
    assert str(SyncStrategy(tuple("nnnnnnc"))) == "sync1_6_c"


@pytest.mark.parametrize("stages", [1, 3, 12])
def test_other_numbers_of_stages(stages):
    found = list(strategies(stages)) if stages < 8 else [SyncStrategy(("n", "a") * 5 + ("n", "c"))]
    assert stages > 8 or len(found) == 2 * 3 ** (stages - 1)
    for strategy in found:
        assert SyncStrategy.parse(str(strategy), stages) == strategy


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sync3_046", "is not a strategy"),
        ("sync2_046_aaa", "the number of syncs"),
        ("sync3_406_aaa", "have to rise"),
        ("sync2_04_aa", "end with the last one, 6"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(InputError, match=message):
        SyncStrategy.parse(name)
