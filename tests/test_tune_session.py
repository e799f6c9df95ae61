"""A whole tuning session with a builder and a runner that are made up, and one with the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import tiny_model
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import PyRunner, RunnerFuture, RunnerResult

from syncnas_tvm import tune
from syncnas_tvm.candidates import decision_space
from syncnas_tvm.cost_models import cost_model_of
from syncnas_tvm.cost_models.tuned import tuned_samples
from syncnas_tvm.errors import DeviceError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import FLOAT32
from syncnas_tvm.planner import Space, single_lane
from syncnas_tvm.planner.cost_mode import kernels_of
from syncnas_tvm.targets import load_target
from syncnas_tvm.tuning.device_runner import LOST
from syncnas_tvm.tuning.kernel_file import read_kernels
from syncnas_tvm.tuning.kernel_source import KernelSource
from syncnas_tvm.tuning.record_files import read_records
from syncnas_tvm.tuning.session import FRUITLESS, State, Summary, TuningSession
from syncnas_tvm.tuning.tuner import opened_tuner

RK3399 = load_target("rk3399")


@derived_object
class Builder(PyBuilder):
    """Builds nothing; without a folder it fails at that."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self._folder, self._count = folder, 0

    def build(self, build_inputs: list[Any]) -> list[BuilderResult]:
        return [self._one() for _ in build_inputs]

    def _one(self) -> BuilderResult:
        if self._folder is None:
            return BuilderResult(None, "no compiler")
        self._count += 1
        place = self._folder / f"candidate{self._count}"
        place.mkdir()
        return BuilderResult(str(place / "kernel.so"), None)


@derived_object
class Runner(PyRunner):
    """Every candidate takes a millisecond, ``left`` of them; then the device has gone."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self._left = left

    def run(self, runner_inputs: list[Any]) -> list[RunnerFuture]:
        return [self._one() for _ in runner_inputs]

    def _one(self) -> RunnerFuture:
        self._left -= 1
        good = RunnerResult([1e-3, 1.1e-3], None)
        result = good if self._left >= 0 else RunnerResult(None, f"{LOST}it has gone")
        return RunnerFuture(lambda: True, lambda: result)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[RegionGraph, Space]:
    path = tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
    graph = RegionGraph(import_onnx(path, None).mod, RK3399.channel_step)
    return graph, decision_space(graph, FLOAT32)


@pytest.fixture
def session(model: tuple[RegionGraph, Space], tmp_path: Path) -> Callable[..., Summary]:
    """Runs a session of the CPU lane on the folder ``records``."""
    graph, space = model
    source = KernelSource(graph, space, RK3399, FLOAT32, ("cpu",))
    built = tmp_path / "built"
    built.mkdir()

    def run(trials: int, left: int = 1 << 30, builds: bool = True, **more: Any) -> Summary:
        builder = Builder(built if builds else None)
        with opened_tuner(RK3399, tmp_path / "records", builder, Runner(left)) as tuner:
            found = TuningSession(
                space, source, tuner, RK3399.costs, trials, ("cpu",), **more
            ).run()
        assert list(built.iterdir()) == []
        return found

    return run


def test_heavy_kernels_of_the_plan_come_first(
    session: Callable[..., Summary], model: tuple[RegionGraph, Space], tmp_path: Path
) -> None:
    states: list[State] = []
    summary = session(24, report=states.append)
    assert summary.trials == 24
    assert summary.measured == len(summary.samples) >= 3
    assert summary.kernels > 50
    assert summary.failures == ()
    assert [s.done for s in states] == sorted(s.done for s in states)
    assert states[-1].stage == "done"
    # What the folder says is what the session knew.
    assert tuned_samples(tmp_path / "records", RK3399) == summary.samples
    assert all(sample.latency_us == pytest.approx(1050) for sample in summary.samples)
    # Cuts are not in the plan of a lane alone, and light kernels have to wait.
    plan = kernels_of(single_lane(model[1], "cpu"))
    usual_us = np.median(cost_model_of(RK3399).predict([k for k in plan if k.lane == "cpu"])[0])
    first = [entry.kernel for entry in read_kernels(tmp_path / "records", [])][:3]
    assert set(first) <= set(plan)
    assert cost_model_of(RK3399).predict(first)[0].mean() > usual_us


def test_another_session_goes_on(session: Callable[..., Summary], tmp_path: Path) -> None:
    first = session(16)
    again = session(16)
    assert (again.trials, again.measured) == (first.trials, first.measured)
    more = session(40)
    assert more.trials == 40
    assert {s.kernel for s in first.samples} <= {s.kernel for s in more.samples}
    records = read_records(tmp_path / "records", [])
    assert len({(r.workload, r.sampled) for r in records}) == 40


def test_a_device_that_has_gone_ends_it(session: Callable[..., Summary], tmp_path: Path) -> None:
    """What it was measuring is not taken for kernels that fail; the next session measures it."""
    with pytest.raises(
        DeviceError, match=r"it has gone; 11 trials are kept \(0 failed\), the same"
    ):
        session(32, left=11)
    records = read_records(tmp_path / "records", [])
    assert len(records) == 11
    assert not any(record.failed for record in records)
    assert session(32).trials == 32


def test_a_device_on_which_nothing_runs(session: Callable[..., Summary], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=rf"{FRUITLESS} kernels in a row .*no compiler"):
        session(64, builds=False)
    records = read_records(tmp_path / "records", [])
    assert records
    assert all(record.failed for record in records)
    assert len(tuned_samples(tmp_path / "records", RK3399)) == 0


def test_this_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command without a tracker: both lanes, what the lanes cost, and records that a compile reads."""
    path, records = tiny_model(tmp_path / "tiny.onnx"), tmp_path / "records"
    assert tune.main([str(path), "--output", str(records), "--trials", "10", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["trials"] == 10
    assert result["failures"] == []
    assert result["costs"]["to_gpu"]["latency_us"] > 0
    assert (records / "costs.json").is_file()
    assert len(tuned_samples(records, load_target("host"))) == result["measured"]
    assert sorted(path.name for path in records.iterdir()) == [
        "costs.json", "database_tuning_record.json", "database_workload.json", "kernels.jsonl", "lock",
    ]  # fmt: skip
