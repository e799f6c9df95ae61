"""train, evaluate and export as commands: what they do together, and what they refuse."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import pytest
import torch
from nas_models import little_config

from syncnas_tvm import evaluate, export, search, train
from syncnas_tvm.nas import ZOO, checkpoint, extra
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import config_from_json, config_to_json, read_config, write_config
from syncnas_tvm.nas.model import build
from syncnas_tvm.nas.names import name_map

ONE_EPOCH = ("--epochs", 1, "--warmup-epochs", 0, "--ema", 0)
SHORT = ("--data", "digits", "--images", 64, "--batch", 64, *ONE_EPOCH)


def run(capfd, module, *arguments):
    """A command in this process: exit code, JSON, standard error."""
    code = module.main([*map(str, arguments), "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err


def test_train_evaluate_export(tmp_path, capfd):
    write_config(little_config(share=0.25), tmp_path / "found.json")
    common = ("--data", "digits", "--width", 0.1)
    code, result, _ = run(
        capfd, train, "--config", tmp_path / "found.json", *common, "--epochs", 1, "--batch", 256,
        "--warmup-epochs", 0, "--output", tmp_path / "x.pth", "--test", "--ema", 0,
    )  # fmt: skip
    assert code == 0
    arguments = ("--config", tmp_path / "found.json", "--checkpoint", tmp_path / "x.pth", *common)
    code, evaluated, _ = run(capfd, evaluate, *arguments)
    assert code == 0
    assert evaluated["top1"] == pytest.approx(result["test_top1"])
    assert evaluated["images"] == 297
    code, exported, _ = run(
        capfd, export, tmp_path / "found.json", "--output", tmp_path / "m.onnx", "--size", 64,
        "--drawing", tmp_path / "m.svg",
    )  # fmt: skip
    assert code == 0
    assert exported["parameters"] > 1e6
    assert (tmp_path / "m.onnx").exists()
    assert ET.parse(tmp_path / "m.svg")


def test_a_trained_base_is_evaluated_at_the_same_width(tmp_path, capfd):
    path, width = tmp_path / "base.pth", ("--width", 0.1)
    assert run(capfd, train, *SHORT, *width, "--output", path)[0] == 0
    arguments = ("--base-model", "mobilenet_v2", "--checkpoint", path, *width)
    code, result, _ = run(capfd, evaluate, *arguments, "--data", "digits")
    assert (code, result["images"]) == (0, 297)


def other_config(tmp_path):
    """A configuration of no network of the zoo: more channels at the end, fewer in the head."""
    data = config_to_json(little_config("nnnnnna", 0.1))
    for branch in "01":
        data["6"][branch][0][5] = 400
    data["head"][:2] = 400, 640
    (tmp_path / "other.json").write_text(json.dumps(data))
    return tmp_path / "other.json"


@pytest.mark.parametrize("width", [1.0, 0.1])
def test_what_is_trained_is_what_the_configuration_says(width, tmp_path, capfd):
    """Whatever the base; its checkpoint is evaluated with the same flags."""
    path, flags = other_config(tmp_path), ("--width", width)
    if width == 1.0:
        flags += ("--size", 8)
    weights = tmp_path / "x.pth"
    code, _, err = run(
        capfd, train, "--config", path, *SHORT, *flags, "--base", "fbnet_c", "--output", weights
    )
    assert code == 0, err
    trained = checkpoint.weights_of(checkpoint.read(weights))
    expected = BranchedModel(read_config(path).scaled(width), 10, inputs=1).state_dict()
    assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in expected.items()}
    assert trained["head_conv.0.weight"].shape[0] == 640
    arguments = ("--config", path, "--checkpoint", weights, *flags)
    assert run(capfd, evaluate, *arguments, "--data", "digits")[0] == 0


def test_a_configuration_of_another_base_does_not_start_from_its_weights(tmp_path, capfd):
    torch.save(
        build("mobilenet_v2", 0.1, 10, inputs=1, multiple=2).state_dict(), tmp_path / "b.pth"
    )
    start = ("--base-checkpoint", tmp_path / "b.pth", "--width", 0.1)
    code, _, err = run(
        capfd, train, "--config", other_config(tmp_path), *SHORT, *start, "--output", tmp_path / "x"
    )
    assert code == 2
    assert "'sync1_6_a' is not of 'mobilenet_v2', so it cannot start from" in err


def test_a_model_of_some_classes_is_evaluated(tmp_path, capfd):
    path, flags = tmp_path / "x.pth", ("--width", 0.1, "--classes", 5)
    assert run(capfd, train, *SHORT, *flags, "--output", path)[0] == 0
    arguments = ("--base-model", "mobilenet_v2", "--checkpoint", path)
    code, result, _ = run(capfd, evaluate, *arguments, *flags, "--data", "digits")
    assert (code, result["top5"]) == (0, 1.0)
    assert result["images"] < 200


@pytest.mark.parametrize("scheme", ["own", "timm", "torchvision"])
def test_without_data_a_checkpoint_says_its_classes_and_channels(scheme, tmp_path, capfd):
    model = build("mobilenet_v2", 0.5, 7, inputs=1)
    state = model.state_dict()
    if scheme != "own":
        foreign = dict(name_map(ZOO["mobilenet_v2"], scheme))
        parts = ((own.rpartition("."), tensor) for own, tensor in state.items())
        state = {f"{foreign[prefix]}.{leaf}": tensor for (prefix, _, leaf), tensor in parts}
    torch.save(state, tmp_path / "x.pth")
    arguments = ("--base-model", "mobilenet_v2", "--checkpoint", tmp_path / "x.pth")
    code, result, _ = run(
        capfd, evaluate, *arguments, "--scheme", scheme, "--width", 0.5, "--multiple", 8
    )
    assert code == 0
    assert result["parameters"] == sum(p.numel() for p in model.parameters())


def test_the_drawing_is_of_what_is_exported(tmp_path, capfd):
    write_config(little_config(share=0.25), tmp_path / "a.json")
    code, exported, _ = run(
        capfd, export, tmp_path / "a.json", "--output", tmp_path / "m.onnx", "--size", 64,
        "--width", 0.25, "--classes", 10, "--drawing", tmp_path / "m.svg",
    )  # fmt: skip
    assert code == 0
    assert exported["parameters"] < 5e5
    last = little_config(share=0.25).scaled(0.25).stages[6][0][0]
    assert f"({last.inputs}, {last.expand}, {last.out}) 3, 1" in (tmp_path / "m.svg").read_text()


def test_a_configuration_is_exported_at_its_own_size(tmp_path, capfd):
    data = config_to_json(little_config(share=0.25).scaled(0.1, 48, stem_stride=1))
    data["stem"][0] = 1
    write_config(config_from_json(data), tmp_path / "a.json")
    assert run(capfd, export, tmp_path / "a.json", "--output", tmp_path / "m.onnx")[0] == 0
    (shape,) = (i.type.tensor_type.shape for i in onnx.load(tmp_path / "m.onnx").graph.input)
    assert [d.dim_value for d in shape.dim] == [1, 1, 48, 48]


def test_counts_on_the_command_line(capfd):
    code, result, _ = run(capfd, evaluate, "--base-model", "mobilenet_v2")
    assert (code, result) == (0, {"parameters": 3_504_872, "macs": 300_774_272})


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (evaluate, (), "give either --base-model NAME or a configuration"),
        (evaluate, ("--base-model", "vgg"), "unknown network 'vgg'"),
        (evaluate, ("--config", "nowhere.json"), "configuration nowhere.json cannot be read"),
        (evaluate, ("--base-model", "fbnet_c", "--checkpoint", "no.pth"), "no.pth is not there"),
        (evaluate, ("--path", "x", "--data", "digits"), "give either --path FOLDER or --data NAME"),
        (
            evaluate,
            ("--config", "a.json", "--width", "1000"),
            "width 1000 of 'sync3_046_aaa' is not",
        ),
        (evaluate, ("--config", "a.json", "--classes", "1"), "needs at least 2 classes, not 1"),
        (
            evaluate,
            ("--base-model", "mobilenet_v2", "--checkpoint", "bad.pth", "--scheme", "timm"),
            "checkpoint bad.pth: timm checkpoint of mobilenet_v2: 'conv_stem.weight' is missing",
        ),
        (
            evaluate,
            ("--config", "a.json", "--checkpoint", "bad.pth", "--scheme", "timm"),
            "timm has no branched networks",
        ),
        (export, ("--output", "m.onnx"), "give either --base-model NAME or a configuration"),
        (export, ("a.json", "--output", "m.onnx", "--classes", "1"), "at least 2 classes, not 1"),
        (export, ("a.json", "--output", "m.onnx", "--drawing", "."), "--drawing .: is a folder"),
        (
            export,
            ("--base-model", "fbnet_c", "--output", "m.onnx", "--drawing", "m.svg"),
            "--drawing is of a configuration",
        ),
        (train, ("--data", "digits", "--width", "1000"), "width 1000 of 'mobilenet_v2' is not"),
        (train, ("--data", "digits", "--distil", "0.5"), "--distil needs the base's weights"),
        (search, ("--data", "mnist"), "--data mnist: unknown data set"),
        (search, ("--base", "mixnet_m", "--data", "digits"), "'mixnet_m' cannot be branched"),
        (search, ("--target", "nokia", "--data", "digits"), "unknown target 'nokia'"),
        (search, ("--data", "digits", "--measure", "1"), "--measure needs --target host"),
        (search, ("--devices", "cuda:99", "--data", "digits"), "--devices cuda:99"),
    ],
)
def test_errors_on_the_command_line(module, arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_config(little_config(), tmp_path / "a.json")
    torch.save({"x": torch.zeros(1)}, tmp_path / "bad.pth")
    code, result, err = run(capfd, module, *arguments)
    assert (code, result) == (2, None)
    assert not (tmp_path / "m.onnx").exists()
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--target", "--budget", "--step", "--cap", "--measurements"])
def test_a_training_has_no_flags_of_a_search(flag, capsys):
    with pytest.raises(SystemExit):
        train.main([flag, "7"])
    assert f"unrecognized arguments: {flag} 7" in capsys.readouterr().err


@pytest.mark.parametrize("module", [search, train, evaluate, export])
def test_without_the_extra(module, monkeypatch, capsys):
    monkeypatch.setattr(extra, "NEEDED", ("torch", "no_such_package"))
    with pytest.raises(SystemExit) as caught:
        module.main([])
    assert caught.value.code == 2
    expected = "error: no_such_package is not installed; pip install 'syncnas-tvm[nas]'\n"
    assert capsys.readouterr().err == expected


def test_descriptions_need_no_torch():
    code = (
        "import sys, syncnas_tvm.nas, syncnas_tvm.nas.allocate; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_flags_are_documented():
    text = (Path(__file__).resolve().parent.parent / "docs" / "nas.md").read_text()
    for module in (search, train, evaluate, export):
        for action in module.make_parser()._actions:
            for flag in action.option_strings:
                if flag != "-h":
                    assert f"`{flag}" in text, (module.__name__, flag)
