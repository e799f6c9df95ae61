"""A target's cost model that a few measured kernels correct: ``compile --calibrate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kernels import RK3399, add, conv, depthwise
from spaces import scored_us

from syncnas_tvm.compile import main as compile_main
from syncnas_tvm.cost_models import cost_model_of
from syncnas_tvm.cost_models.calibrated import CalibratedModel, read_calibration
from syncnas_tvm.cost_models.dataset import Dataset, Sample
from syncnas_tvm.errors import InputError
from syncnas_tvm.planner import CostMode
from syncnas_tvm.targets import load_target
from syncnas_tvm.work import Kernel, Lane


def wanted(lane: Lane) -> list[Kernel]:
    pointwise = [conv(i, o, lane, s) for i in (16, 96) for o in (32, 192) for s in (7, 28)]
    return [*pointwise, *(depthwise(c, lane, s) for c in (32, 192) for s in (7, 28))]


def measured(lane: Lane, factor: float) -> Dataset:
    """Kernels of a board that takes ``factor`` times as long as the RK3399's models say."""
    kernels = [replace(kernel, epilogue=()) for kernel in wanted(lane)]
    us = cost_model_of(RK3399).alone.predict(kernels)[0]
    return Dataset(tuple(Sample(k, "board", t * factor) for k, t in zip(kernels, us, strict=True)))


def test_the_lane_that_was_measured_is_corrected_and_the_other_is_not() -> None:
    base = cost_model_of(RK3399).alone
    model = CalibratedModel(RK3399, measured("cpu", 1.7), base)
    unseen = [conv(64, 384), conv(48, 96, side=56), depthwise(96), add(64)]
    ratios = model.predict(unseen)[0] / base.predict(unseen)[0]
    assert ratios[:3] == pytest.approx([1.7] * 3, rel=0.03)
    other = [conv(64, 384, "gpu"), add(64, "gpu")]
    assert np.array_equal(model.predict(other)[0], base.predict(other)[0])


def test_a_target_without_learned_models_starts_from_all_that_ship() -> None:
    bare = replace(RK3399, learned={})
    samples = measured("cpu", 1.0)
    model = CalibratedModel(bare, samples, cost_model_of(bare))
    off = model.predict(samples.kernels)[0] / samples.latency_us - 1
    roof = cost_model_of(bare).predict(samples.kernels)[0] / samples.latency_us - 1
    assert np.abs(off).mean() < 0.05 < np.abs(roof).mean()


def test_a_network_is_slower_but_not_in_the_study(tmp_path: Path) -> None:
    """Of the lane that was measured and of the other one, in what ``compile --calibrate`` gets."""
    path = tmp_path / "kernels.jsonl"
    measured("cpu", 1.7).write(path)
    model, alone = read_calibration(path, RK3399), cost_model_of(RK3399).alone
    lanes: dict[Lane, float] = {"cpu": 1.7, "gpu": 1.0}
    for lane, factor in lanes.items():
        kernel = replace(conv(64, 384, lane), epilogue=())
        us = factor * float(alone.predict([kernel])[0][0])
        studied_us = scored_us(kernel, CostMode("study", 500), model, RK3399)
        assert studied_us == pytest.approx(us, rel=0.03)
        bias = RK3399.learned[lane].network_bias
        assert bias > 1.1
        assert scored_us(kernel, CostMode(), model, RK3399) == pytest.approx(bias * studied_us)


def test_what_cannot_be_calibrated_with(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kernels.jsonl"
    measured("cpu", 1.0).take([0, 1]).write(path)
    with pytest.raises(InputError, match=r"kernels.jsonl: no lane has 3 measured .* of 2 kernels"):
        read_calibration(path, RK3399)
    with pytest.raises(InputError, match="target 'host' measures"):
        read_calibration(path, load_target("host"))
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(InputError, match=r"kernels.jsonl:4 is no measurement"):
        read_calibration(path, RK3399)
    common = ["model.onnx", "--target", "rk3399", "--output", str(tmp_path / "out")]
    flags = ["--calibrate", str(path), "--measurements", str(path)]
    assert compile_main([*common, *flags]) == 2
    assert "--calibrate and --measurements: give one of them" in capfd.readouterr().err
