"""Predicted against measured timelines: steps, pairs, totals, and samples for the cost models."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import RK3399, conv, depthwise
from spaces import any_costs, candidate, candidates, costs, kernel_us, phase

from syncnas_tvm.comparison import Comparison
from syncnas_tvm.comparison_report import most_off_table, row_table, totals_table
from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.measured_kernels import measured_kernels
from syncnas_tvm.planner import Candidate
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.steps import steps_of
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.timeline import Span, Timeline
from syncnas_tvm.work import Kernel, Lane, Phase, Sync, Work

RUN = Timeline(
    (
        Span("host", "to_device", 0, 10, "transfer"),
        Span("host", "gpu_a", 10, 12, "enqueue", "r0"),
        Span("host", "gpu_a", 12, 14, "enqueue", "r0"),
        Span("host", "gpu_b", 14, 16, "enqueue", "r0"),
        Span("gpu", "gpu_a", 12, 20, "kernel", "r0"),
        Span("gpu", "gpu_a", 20, 22, "kernel", "r0"),
        Span("gpu", "gpu_a", 22, 30, "kernel", "r0"),
        Span("gpu", "gpu_a", 30, 33, "kernel", "r0"),
        Span("gpu", "gpu_b", 40, 60, "kernel", "r0"),
        Span("cpu", "cpu_c", 16, 50, "kernel", "r0"),
        Span("host", "to_device", 50, 75, "transfer"),
    ),
    "measured",
)
PREDICTED = Timeline(
    (
        Span("host", "cpu to gpu 4 B", 0, 5, "transfer", "r0"),
        Span("host", "enqueue a", 5, 7, "enqueue", "r0..r1"),
        Span("gpu", "a", 7, 12, "kernel", "r0..r1", conv(8, 16, "gpu")),
        Span("gpu", "a2", 12, 22, "kernel", "r0..r1", conv(8, 16, "gpu")),
        Span("gpu", "b", 22, 32, "kernel", "r0..r1", depthwise(16, "gpu")),
        Span("cpu", "c", 7, 24, "kernel", "r0..r1", conv(8, 24)),
        Span("host", "gpu to cpu 4 B", 32, 42, "transfer", "r0"),
    ),
    "predicted",
)


def test_steps_of_a_measured_run() -> None:
    """Launches of one call are one step, and a copy's wait for the queue is not the copy's."""
    found = [(s.lane, s.kind, s.name, s.us, s.overlap_us) for s in steps_of(RUN)]
    assert found == [
        ("cpu", "kernel", "cpu_c", 34, 17 + 10),
        ("gpu", "kernel", "gpu_a", 10, 6),
        ("gpu", "kernel", "gpu_a", 11, 11),
        ("gpu", "kernel", "gpu_b", 20, 10),
        ("host", "transfer", "to_device", 10, 0),
        ("host", "enqueue", "gpu_a", 2, 0),
        ("host", "enqueue", "gpu_a", 2, 0),
        ("host", "enqueue", "gpu_b", 2, 0),
        ("host", "wait", "wait for gpu", 10, 0),
        ("host", "transfer", "to_device", 15, 0),
    ]


def test_launches_that_cannot_be_shared_out_stay_apart() -> None:
    spans = tuple(s for s in RUN.spans if (s.lane, s.start_us) != ("gpu", 30))
    gpu = [s.us for s in steps_of(replace(RUN, spans=spans)) if s.lane == "gpu"]
    assert gpu == [8, 2, 8, 20]


def test_pairs_medians_and_what_is_most_off() -> None:
    slower = tuple(
        replace(s, end_us=s.end_us + 6 if s.name == "cpu_c" else s.end_us) for s in RUN.spans
    )
    runs = [RUN, replace(RUN, spans=slower), RUN]
    comparison = Comparison.of(PREDICTED, runs)
    rows = {(r.lane, r.kind, r.name): (r.predicted_us, r.measured_us) for r in comparison.rows}
    assert rows == {
        ("cpu", "kernel", "c"): (17, 34),
        ("gpu", "kernel", "a"): (5, 10),
        ("gpu", "kernel", "a2"): (10, 11),
        ("gpu", "kernel", "b"): (10, 20),
        ("host", "transfer", "cpu to gpu 4 B"): (5, 10),
        ("host", "transfer", "gpu to cpu 4 B"): (10, 15),
        ("host", "enqueue", "3 of enqueue a"): (2, 6),
        ("host", "wait", "wait for gpu"): (0, 10),
    }
    (cpu,) = (r for r in comparison.rows if r.lane == "cpu")
    assert cpu.noise_us == pytest.approx(6 * 2**0.5 / 3)
    assert [r.name for r in comparison.most_off(2)] == ["c", "b"]
    totals = comparison.totals
    assert totals["gpu", "kernel", ""].mean_error == pytest.approx((0.5 + 1 / 11 + 0.5) / 3)
    assert totals["gpu", "kernel", ""].within_10 == pytest.approx(1 / 3)
    assert totals["host", "transfer", "gpu to cpu"].measured_us == 15
    data = json.loads(json.dumps(comparison.to_json()))
    assert data["rows"][0]["ratio"] == 2
    assert data["rows"][0]["shapes"][1] == [24, 8, 1, 1]


def test_transfers_that_say_their_direction() -> None:
    """They are paired by it, whatever their order, and their waits are spans of their own."""
    moves = (
        Span("host", "gpu to cpu", 70, 75, "transfer"),
        Span("host", "cpu to gpu", 0, 10, "transfer"),
        Span("host", "cpu to gpu", 20, 22, "transfer"),
        Span("host", "wait", 60, 70, "wait", "r0"),
    )
    spans = tuple(s for s in RUN.spans if s.kind != "transfer")
    rows = Comparison.of(PREDICTED, [replace(RUN, spans=(*spans, *moves))]).rows
    host = {(r.kind, r.name): (r.direction, r.predicted_us, r.measured_us) for r in rows}
    assert host["transfer", "gpu to cpu 4 B"] == ("gpu to cpu", 10, 5)
    assert host["transfer", "2 of cpu to gpu 4 B"] == ("cpu to gpu", 5, 12)
    assert host["wait", "wait"] == ("", 0, 10)


def test_a_region_with_other_kernels_than_predicted_is_one_row() -> None:
    more = Span("cpu", "cpu_d", 80, 85, "kernel", "r0")
    other = Span("cpu", "cpu_e", 85, 88, "kernel", "r7")
    run = replace(RUN, spans=(*RUN.spans, more, other))
    rows = [r for r in Comparison.of(PREDICTED, [run]).rows if r.lane == "cpu"]
    assert [(r.name, r.region, r.predicted_us, r.measured_us, r.steps) for r in rows] == [
        ("2 of c", "r0", 17, 39, 1),
        ("cpu_e", "r7", 0, 3, 0),
    ]
    assert not measured_kernels(Comparison(tuple(rows)), RK3399, "board", "out")


def test_a_run_that_did_something_else_is_left_out() -> None:
    strange = replace(RUN, spans=RUN.spans[:-2])
    runs = [strange, RUN, RUN]
    assert Comparison.of(PREDICTED, runs).rows == Comparison.of(PREDICTED, runs[1:]).rows


def test_nothing_predicted() -> None:
    with pytest.raises(ArtifactError, match="empty"):
        Comparison.of(Timeline((), "predicted"), [RUN])


def test_tables() -> None:
    comparison = Comparison.of(PREDICTED, [RUN])
    totals = totals_table(comparison, 42, 84).splitlines()
    assert totals[2].split() == ["the", "network", "0.04", "ms", "0.08", "ms", "+100%"]
    assert any(line.startswith("transfers gpu to cpu") for line in totals)
    assert "1x8x14x14 24x8x1x1 1x24x14x14" in most_off_table(comparison, 1)
    assert len(row_table(comparison.rows).splitlines()) == 2 + len(comparison.rows)


@given(candidates, any_costs)
@settings(deadline=None)
def test_a_prediction_is_its_own_measurement(plan: list[Candidate], found: TargetCosts) -> None:
    timeline = Simulator(found, kernel_us).timeline(plan)
    if not timeline.spans:
        return
    comparison = Comparison.of(timeline, [replace(timeline, source="measured")])
    assert [row.off_us for row in comparison.rows] == pytest.approx([0] * len(comparison.rows))
    assert sum(row.steps for row in comparison.rows if row.kind != "wait") == sum(
        span.kind != "wait" for span in timeline.spans
    )


@given(st.lists(st.sampled_from([8, 24, 40]), min_size=1, max_size=5), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_samples_are_of_kernels_alone(widths: list[int], gpu: int) -> None:
    """Contention and the network's bias come off: what a cost model gets is what it would predict."""

    def us(kernel: Kernel) -> float:
        return 10 * kernel.shapes[1][0] + (100 if kernel.lane == "gpu" else 0)

    def lane(kind: Lane, count: int) -> tuple[Kernel, ...]:
        return tuple(conv(16, width, kind) for width in widths[:count])

    work = Work((Phase(lane("cpu", 9), lane("gpu", gpu), Sync("copy", 4, 4)),))
    plan = [replace(candidate(phase([1])), work=work)]
    run = Simulator(RK3399.costs, us).timeline(plan)
    samples = measured_kernels(Comparison.of(run, [run, run]), RK3399, "board", "out", "2026-01-02")
    assert {s.kernel for s in samples} == {*lane("cpu", 9), *lane("gpu", gpu)}
    for sample in samples:
        bias = RK3399.learned[sample.kernel.lane].network_bias
        assert sample.latency_us * bias == pytest.approx(us(sample.kernel))
        assert (sample.device, sample.source, sample.date) == ("board", "out", "2026-01-02")


def test_older_folders_have_no_kernels() -> None:
    plain = replace(PREDICTED, spans=tuple(replace(s, kernel=None) for s in PREDICTED.spans))
    assert Timeline.from_json(json.loads(json.dumps(plain.to_json()))) == plain
    found = Timeline.from_json(json.loads(json.dumps(PREDICTED.to_json())))
    assert found == PREDICTED
    assert not measured_kernels(Comparison.of(plain, [RUN]), RK3399, "board", "out")


def test_costs_without_contention_take_nothing_off() -> None:
    run = Simulator(costs(), kernel_us).timeline([candidate(phase([100], [200], "copy"))])
    assert [s.alone_us(costs()) for s in steps_of(run) if s.lane != "host"] == [100, 200]
