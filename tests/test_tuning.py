"""Tuning: spaces around the rules' own choices, records of them, and compiles that use records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import graph_nets
import numpy as np
import pytest
import tvm_ffi
from cli_tools import tiny_model
from graph_nets import graph_of
from hypothesis import given
from hypothesis import strategies as st
from test_schedule import KERNELS
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

import syncnas_tvm
from syncnas_tvm.cost_models import machine_key
from syncnas_tvm.cost_models.importers import import_metaschedule
from syncnas_tvm.errors import InputError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.fusion import Group, groups_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import LaneTypes
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.schedule import packed_tile
from syncnas_tvm.schedule.opencl_half import POSTPROCESS
from syncnas_tvm.schedule.packed import define
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import Target, load_target
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.tuning.record_files import RECORDS, WORKLOADS
from syncnas_tvm.tuning.records import target_json
from syncnas_tvm.tuning.tune import tune_kernels
from syncnas_tvm.tuning.tuner import opened_tuner, spaces_of

pytestmark = pytest.mark.alone

TOLERANCE = 1e-5
HOST = load_target("host")
TUNABLE = ["pointwise", "dense 3x3", "stem", "depthwise 3x3", "depthwise 9x9", "max pooling", "winograd", "classifier", "swish", "grouped pointwise, as zeros"]  # fmt: skip


class Fixed:
    """Records that say ``index`` (of each space's tilings, around the end) for every kernel."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.asked: list[TuningSpace] = []

    def tiling(self, space: TuningSpace) -> Tiling:
        self.asked.append(space)
        return space.tilings[self.index % len(space.tilings)]


def groups(name: str, lane: str) -> list[Group]:
    body, net = KERNELS[name]
    graph = graph_of(body, **net)
    return [g for region in graph.names for g in groups_of(graph.function(region), lane)]


def spaces(name: str, lane: str, target: Target = HOST) -> list[TuningSpace]:
    schedules = PackedSchedules.of(target)
    defined = [define(group, schedules.machine(lane)) for group in groups(name, lane)]
    return [s for d in defined if d is not None for s in schedules.spaces(d, lane)]


# The spaces.


@pytest.mark.parametrize("lane", ["cpu", "gpu"])
@pytest.mark.parametrize("name", TUNABLE)
def test_candidates_are_different_and_the_rules_own_comes_first(name: str, lane: str) -> None:
    for target in (HOST, load_target("rk3399"), load_target("android-adreno")):
        schedules = PackedSchedules.of(target)
        limit = schedules.cpu_accumulators if lane == "cpu" else schedules.accumulators
        for group in groups(name, lane):
            definition = define(group, schedules.machine(lane))
            found = schedules.spaces(definition, lane)
            for space in found:
                assert len(set(space.tilings)) == len(space.tilings)
                kernels = [space.scheduled(tiling) for tiling in space.tilings]
                # Numbers that change nothing would be measured for nothing.
                assert len({tvm_ffi.structural_hash(kernel) for kernel in kernels}) == len(kernels)
                assert tvm_ffi.structural_equal(space.scheduled(), kernels[0])
                if space.family not in ("elementwise", "matmul"):
                    assert all(t.pixels * t.channels <= limit for t in space.tilings)
                assert all(t.items <= max(64, schedules.work_items) for t in space.tilings)
            # No records, or the rule's own in them: the same kernel.
            own = replace(schedules, records=Fixed(0)).kernel(definition, lane)
            assert tvm_ffi.structural_equal(schedules.kernel(definition, lane), own)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([8, 12, 14, 24]))
def test_good_tiles(width: int, blocks: int, accumulators: int) -> None:
    tiles = packed_tile.good_tiles(width, blocks, accumulators)
    assert packed_tile.tile_of(width, blocks, accumulators) in tiles
    for pixels, channels in tiles:
        assert width % pixels == blocks % channels == 0
        assert pixels * channels <= accumulators


def most_candidates(name: str, lane: str) -> int:
    return max((len(space.tilings) for space in spaces(name, lane)), default=0)


@pytest.mark.parametrize("lane", ["cpu", "gpu"])
@pytest.mark.parametrize("name", TUNABLE)
def test_every_candidate_computes_the_same(name: str, lane: str) -> None:
    """Up to four candidates of each kernel, evenly spread, against torch."""
    body, net = KERNELS[name]
    graph = graph_of(body, **net)
    inputs = graph_nets.random_inputs(graph.mod)
    expected = graph_nets.evaluate(graph.mod, inputs)
    mod = apply_plan(graph, Plan(graph_nets.placed(graph, lane)))
    count = most_candidates(name, lane)
    for index in sorted({round(i * (count - 1) / 3) for i in range(1, 4)} | {1}):
        records = Fixed(index)
        found = graph_nets.run_compiled(mod, HOST, inputs, records)
        assert records.asked
        for ours, reference in zip(found, expected, strict=True):
            assert graph_nets.relative_error(ours, reference) <= TOLERANCE, f"candidate {index}"


@pytest.mark.parametrize("lane", ["cpu", "gpu"])
def test_a_space_is_a_schedule_function_of_metaschedule(lane: str) -> None:
    """Sampling gives a candidate, and a trace gives its kernel again."""
    (space,) = spaces("pointwise", lane)
    allowed = {tvm_ffi.structural_hash(space.scheduled(t)) for t in space.tilings}
    for seed in range(5):
        sch = s_tir.Schedule(space.workload, seed=seed + 1)
        space(sch)
        assert tvm_ffi.structural_hash(sch.mod["main"]) in allowed
        again = s_tir.Schedule(space.workload)
        sch.trace.apply_to_schedule(again, remove_postproc=False)
        assert tvm_ffi.structural_equal(again.mod["main"], sch.mod["main"])
    last = space.traced(space.tilings[-1])
    assert tvm_ffi.structural_equal(last.mod["main"], space.scheduled(space.tilings[-1]))


# Records.


class Slowest:
    """A runner that measures nothing: the later a candidate comes, the less time it "takes"."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs: list[ms.runner.RunnerInput]) -> list[ms.runner.RunnerFuture]:
        results = []
        for _ in inputs:
            self.runs += 1
            result = ms.runner.RunnerResult([1.0 / self.runs], None)
            results.append(ms.runner.RunnerFuture(lambda: True, lambda result=result: result))
        return results


def runner() -> tuple[Slowest, ms.runner.PyRunner]:
    from tvm.ir.utils import derived_object

    counted = Slowest()

    @derived_object
    class Adapter(ms.runner.PyRunner):
        def run(self, runner_inputs: list) -> list:
            return counted.run(runner_inputs)

    return counted, Adapter()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two kernels, measured on this machine: all of one's candidates, some of another's."""
    folder = tmp_path_factory.mktemp("records") / "new"
    some = groups("max pooling", "cpu") + groups("stem", "gpu")
    results = tune_kernels(some, HOST, folder, trials=3)
    assert [r.measured for r in results] == [min(3, r.candidates) for r in results]
    for r in results:
        assert 0 < r.best_us <= r.rule_us
    return folder


def test_tuning_leaves_records_that_metaschedule_reads(tuned: Path) -> None:
    records = TuningRecords(tuned, HOST)
    database = ms.database.JSONDatabase(work_dir=str(tuned))
    assert len(database) == len(records) > 0
    assert not records.ignored
    (pool,), (stem,) = spaces("max pooling", "cpu"), spaces("stem", "gpu")
    for space in (pool, stem):
        measured = records.measured(space)
        assert measured[0][0] == space.tilings[0]
        # The rule's own twice: first of all, and with the finalists.
        assert [tiling for tiling, _ in measured].count(space.tilings[0]) == 2
    assert records.measured(spaces("stem", "cpu")[0]) == []
    # Both lanes have the same function, but not the same records.
    assert records.tiling(spaces("max pooling", "gpu")[0]) is None


def test_records_become_training_data(tuned: Path) -> None:
    """Which kernels they are is written beside them; packed functions alone do not say it."""
    for lane, name in (("cpu", "max pooling"), ("gpu", "stem")):
        (group,), (space,) = groups(name, lane), spaces(name, lane)
        (sample,) = import_metaschedule(tuned, "this", lane, target_json(HOST, lane))
        assert sample.kernel == group.kernel
        records = TuningRecords(tuned, HOST)
        seconds = dict(records.measured(space))
        assert sample.latency_us == 1e6 * seconds[records.tiling(space) or space.tilings[0]]
    other = import_metaschedule(tuned, "this", "cpu", target_json(load_target("rk3399"), "cpu"))
    assert len(other) == 0
    assert other.dropped["for another target"] > 0


def test_nothing_is_measured_twice(tuned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    shutil.copytree(tuned, folder)
    counted, fake = runner()
    again = groups("max pooling", "cpu") + groups("stem", "gpu")
    tune_kernels(again, HOST, folder, trials=3, runner=fake)
    assert counted.runs == 0
    (space,) = spaces("stem", "gpu")
    (result,) = tune_kernels(again[1:], HOST, folder, trials=5, runner=fake)
    # Two more tilings, and the last comparison: four kernels, three times.
    assert (result.measured, counted.runs) == (5, 2 + 4 * 3)
    assert result.tiling in space.tilings[1:]
    assert TuningRecords(folder, HOST).tiling(space) == result.tiling
    assert TuningRecords(folder, HOST).to_json()["kernels"] == 0  # nobody has asked yet


def test_a_killed_tuning_goes_on(tuned: Path, tmp_path: Path) -> None:
    """Half a line at the end of either file is left out, and removed before the next record."""
    folder = tmp_path / "records"
    shutil.copytree(tuned, folder)
    whole = len(TuningRecords(folder, HOST))
    for name in (RECORDS, WORKLOADS):
        with (folder / name).open("ab") as file:
            file.write((folder / name).read_bytes()[:40])
    assert len(TuningRecords(folder, HOST)) == whole
    _, fake = runner()
    tune_kernels(groups("stem", "gpu"), HOST, folder, trials=4, runner=fake)
    assert len(TuningRecords(folder, HOST)) == whole + 1 + 4
    assert len(ms.database.JSONDatabase(work_dir=str(folder))) == whole + 1 + 4


def test_records_of_others_are_counted_not_used(tuned: Path, tmp_path: Path) -> None:
    records = TuningRecords(tuned, load_target("rk3399"))
    assert len(records) == 0
    assert records.ignored == {"for another target": len(TuningRecords(tuned, HOST))}
    folder = tmp_path / "records"
    shutil.copytree(tuned, folder)
    lines = (folder / RECORDS).read_text().splitlines()
    first, second = json.loads(lines[0]), json.loads(lines[0])
    first[1][0][1] = first[1][0][1][:2]  # fewer decisions than our spaces have
    second[0] = 99
    (folder / RECORDS).write_text("\n".join([*lines, json.dumps(first), json.dumps(second), ""]))
    changed = TuningRecords(folder, HOST)
    assert changed.ignored == {"of another tuner": 1, "of a workload that is not there": 1}
    assert len(changed) == len(lines)


@pytest.mark.parametrize("rule_s, other_s, refined", [(1.0, 0.9, True), (1.0, 0.99, False)])  # noqa: PT006
def test_a_tiling_has_to_be_clearly_faster(
    tuned: Path, tmp_path: Path, rule_s: float, other_s: float, refined: bool
) -> None:
    """What was measured before the rule's last record is not compared with it."""
    (space,) = spaces("max pooling", "cpu")
    records = [json.loads(line) for line in (tuned / RECORDS).read_text().splitlines()]
    ours = [r for r in records if r[0] == records[0][0]]
    own, other = ours[0], next(r for r in ours if r[1][0][1] != ours[0][1][0][1])
    shutil.copytree(tuned, tmp_path / "records")

    def timed(record: list, seconds: float) -> str:
        return json.dumps([record[0], [record[1][0], [seconds], *record[1][2:]]])

    lines = [timed(own, 1.0), timed(other, 0.1), timed(own, rule_s), timed(other, other_s), ""]
    (tmp_path / "records" / RECORDS).write_text("\n".join(lines))
    found = TuningRecords(tmp_path / "records", HOST)
    assert (found.tiling(space) in space.tilings[1:]) is refined
    assert found.to_json()["refined"] == refined


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; give the folder that tuning wrote"):
        TuningRecords(tmp_path / "none", HOST)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"lacks database_workload\.json"):
        TuningRecords(tmp_path / "empty", HOST)
    with pytest.raises(InputError, match="give a runner for its device"):
        tune_kernels([], load_target("rk3399"), tmp_path / "new")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (RECORDS, "{", "database_tuning_record.json:1 is damaged"),
        (RECORDS, "[0, 1]", "database_tuning_record.json:1 is not a tuning record"),
    ],
)
def test_a_damaged_record_is_named_and_skipped(
    tuned: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tuned, folder)
    (folder / name).write_text(f"{text}\n{(folder / name).read_text()}")
    found, whole = TuningRecords(folder, HOST), TuningRecords(tuned, HOST)
    assert found.problems == (f"{folder}/{message}",)
    assert found.ignored == {f"{folder}/{message}": 1}
    assert len(found) == len(whole)
    for space in (*spaces("max pooling", "cpu"), *spaces("stem", "gpu")):
        assert found.measured(space) == whole.measured(space)
    # Tuning goes on beside it.
    _, fake = runner()
    tune_kernels(groups("stem", "gpu"), HOST, folder, trials=4, runner=fake)
    assert len(TuningRecords(folder, HOST)) == len(whole) + 1 + 4


@pytest.mark.parametrize("text", ["\x00", '["1", "AAAA"]'])
def test_a_damaged_workload_takes_its_records_along(tuned: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tuned, folder)
    lines = (folder / WORKLOADS).read_text().splitlines()
    (folder / WORKLOADS).write_text("\n".join([text, *lines[1:], ""]))
    found, whole = TuningRecords(folder, HOST), TuningRecords(tuned, HOST)
    (space,) = spaces("max pooling", "cpu")
    lost = len(whole.measured(space))
    assert lost
    assert found.measured(space) == []
    assert len(found.problems) == 1
    assert found.ignored["of a workload that is not there"] == lost
    (other,) = spaces("stem", "gpu")
    assert found.measured(other) == whole.measured(other)


def test_kernels_with_halves_are_built_as_a_compile_builds_them(tmp_path: Path) -> None:
    """PoCL has no arithmetic of halves."""
    types = LaneTypes(gpu="float16")
    (group,) = groups("pointwise", "gpu")
    (space,) = spaces_of(group, PackedSchedules.of(HOST, types))
    # As in a process that has compiled nothing yet.
    if tvm_ffi.get_global_func(POSTPROCESS, allow_missing=True) is not None:
        tvm_ffi.registry.remove_global_func(POSTPROCESS)
    with opened_tuner(HOST, tmp_path) as tuner:
        assert tuner.search(types.kernel(group.kernel), space, 2) == 2
        assert tuner.failures == []
        assert len(tuner.records.measured(space)) == 2


def test_a_candidate_that_fails_is_kept_as_that(tmp_path: Path) -> None:
    """It is not tried again, and never the best."""
    from tvm.ir.utils import derived_object

    @derived_object
    class SecondFails(ms.runner.PyRunner):
        def run(self, runner_inputs: list) -> list:
            good = ms.runner.RunnerResult([1.0], None)
            bad = ms.runner.RunnerResult(None, "no such memory")
            results = [bad if i == 1 else good for i in range(len(runner_inputs))]
            return [ms.runner.RunnerFuture(lambda: True, lambda r=r: r) for r in results]

    some = groups("stem", "gpu")
    with opened_tuner(HOST, tmp_path, runner=SecondFails()) as tuner:
        (space,) = spaces("stem", "gpu")
        assert tuner.search(some[0].kernel, space, 3) == 3
        (failure,) = tuner.failures
        assert failure.reason == "no such memory"
        assert failure.tiling in tuner.records.tried(space)
        assert failure.tiling not in dict(tuner.records.measured(space))
        assert len(tuner.records.measured(space)) == 2
    # Another reader, TVM's own, and another tuning see the same.
    assert len(ms.database.JSONDatabase(work_dir=str(tmp_path))) == 3
    counted, fake = runner()
    tune_kernels(some, HOST, tmp_path, trials=3, runner=fake)
    assert counted.runs == 2 * 3  # the comparison of the two that run
    database = TuningRecords(tmp_path, HOST)
    assert failure.tiling in database.tried(space)


# Compiles.


@pytest.mark.usefixtures("nothing_measured")
def test_compile_with_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose stem has a record: another kernel, equal outputs; what was used is reported."""
    model = tiny_model(tmp_path / "tiny.onnx")
    folder = tmp_path / "records"
    graph = RegionGraph(import_onnx(model, None).mod, HOST.channel_step)
    first = groups_of(graph.function(graph.names[0]), "cpu")[:1]
    (stem,) = tune_kernels(first, HOST, folder, trials=3, runner=runner()[1])
    assert stem.tiling is not None
    keys = []
    monkeypatch.setattr(
        "syncnas_tvm.host_costs.TableFile.in_folder",
        lambda where, key, real=syncnas_tvm.host_costs.TableFile.in_folder: (
            keys.append(key) or real(where, key)
        ),
    )
    outputs, image = [], np.random.default_rng(0).random((1, 3, 32, 32), "float32")
    for records in (None, folder):
        out = tmp_path / f"out{len(outputs)}"
        result = syncnas_tvm.compile_onnx(
            model, output=out, lanes="cpu", timed=False, tuning_records=records
        )
        outputs.append(syncnas_tvm.load(out)(image))
        told = result.to_json()["tuning"]
    assert told == {
        "folder": str(folder),
        "records": 3 + 3,
        "ignored": {},
        "kernels": 1,
        "refined": 1,
    }
    for name, array in outputs[0].items():
        assert graph_nets.relative_error(outputs[1][name], array) <= TOLERANCE
    # Measured tables of tuned kernels are not those of untuned ones.
    assert keys[1] == {**keys[0], "tuning": TuningRecords(folder, HOST).digest}
    assert machine_key(HOST).items() <= keys[0].items()
    with pytest.raises(InputError, match="does not exist"):
        syncnas_tvm.compile_onnx(model, tuning_records=tmp_path / "none")
