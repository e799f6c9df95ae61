"""``cost_models.train`` and ``cost_models.report`` on a log of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from syncnas_tvm.cost_models import LearnedModel
from syncnas_tvm.cost_models.report import main as report
from syncnas_tvm.cost_models.train import main as train

TARGET = "llvm -device=arm_cpu -model=rk3399 -mtriple=aarch64-linux-gnu"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pointwise and 6 depthwise convolutions at about 20 and 4 GFLOP/s, and an int8 one."""
    random = np.random.default_rng(0)
    lines = []
    shapes = [(i, o, s) for i in (16, 48, 96, 192) for o in (24, 64, 160, 320) for s in (7, 14, 28)]
    for into, out, side in [*shapes, *((c, 0, 14) for c in (32, 64, 96, 144, 192, 384))]:
        weight = [out or into, into if out else 1, *([1, 1] if out else [3, 3])]
        flops = 2 * side * side * int(np.prod(weight))
        seconds = flops / (20e9 if out else 4e9) * float(np.exp(random.normal(0, 0.03)))
        pads = [0] * 4 if out else [1] * 4
        tensors = [["TENSOR", [1, into, side, side], "float32"], ["TENSOR", weight, "float32"]]
        arguments = [*tensors, [1, 1], pads, [1, 1], "float32"]
        template = f"{'conv2d' if out else 'depthwise_conv2d'}_nchw.arm_cpu"
        row = {"input": [TARGET, template, arguments, {}], "result": [[seconds], 0, 1, 1.6e9]}
        lines.append(json.dumps(row))
    lines.append(lines[0].replace("float32", "int8"))
    path = tmp_path_factory.mktemp("log") / "board.log"
    path.write_text("\n".join(lines))
    return path


ONE = ("--models", "rk3399-cpu-float32")


def test_train_writes_a_model_and_its_card(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    data = tmp_path / "data.jsonl"
    assert train([str(log), "--output", str(out), *ONE, "--json", "--export", str(data)]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["dropped"] == {"type int8": 1}
    assert found["samples"] == found["models"]["rk3399-cpu-float32"]["all"]["kernels"] == 54
    assert found["models"]["rk3399-cpu-float32"]["all"]["mape"] < 0.1
    model = LearnedModel.load(out / "rk3399-cpu-float32.npz")
    assert model.about["measured"] == ["2020-09-13", "2020-09-13"]
    card = (out / "rk3399-cpu-float32.md").read_text()
    assert "54 distinct kernels of board.log" in card
    assert "| pointwise | 48 |" in card
    # The exported data are the same data.
    again = tmp_path / "again"
    assert train([str(data), "--output", str(again), *ONE, "--json"]) == 0
    first, second = (f / "rk3399-cpu-float32.npz" for f in (out, again))
    assert first.read_bytes() == second.read_bytes()


def test_report_has_a_table_and_pictures(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert report([str(log), "--output", str(tmp_path), *ONE]) == 0
    printed = capfd.readouterr().out
    assert printed == (tmp_path / "report.md").read_text()
    assert "| rk3399-cpu-float32 | pointwise | 48 |" in printed
    for name in ("rk3399-cpu-float32.png", "table.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", [train, report])
def test_mistakes_are_one_line(
    command: object, log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = ("--output", str(tmp_path / "out"))
    for arguments, message in (
        ((str(tmp_path / "none.log"), *out), "none.log: not a TopHub log"),
        ((str(tmp_path / "none.jsonl"), *out), "none.jsonl is no file of measured kernels"),
    ):
        assert command(arguments) == 2  # type: ignore[operator]
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    other = ("--models", "adreno-730-float32")
    assert command([str(log), *out, *other]) == 2  # type: ignore[operator]
    assert "no kernels of adreno (float32) are in the data" in capfd.readouterr().err
