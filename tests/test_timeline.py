"""The timeline's data and the simulator behind predicted ones."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import any_costs, candidate, candidates, costs, kernel_us, phase

from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.planner import Candidate
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.timeline import Span, Timeline
from syncnas_tvm.trace import chrome_trace

EPSILON = 1e-6


def spans_of(timeline: Timeline, *kinds: str) -> list[tuple[str, str, float, float]]:
    return [(s.lane, s.kind, s.start_us, s.end_us) for s in timeline.spans if s.kind in kinds]


def moves(timeline: Timeline) -> list[str]:
    return [s.name for s in timeline.spans if s.kind == "transfer"]


def predict(*plan: Candidate, **options: Any) -> Timeline:
    found = costs(**options)
    timeline = Simulator(found, kernel_us).timeline(plan)
    assert Simulator(found, kernel_us).score(plan) == pytest.approx(timeline.latency_us)
    return timeline


class TestHandComputed:
    def test_cpu_alone_costs_its_kernels_and_nothing_else(self) -> None:
        timeline = predict(candidate(phase(cpu=[30, 40])), candidate(phase(cpu=[5])))
        assert timeline.latency_us == 75
        assert {s.lane for s in timeline.spans} == {"cpu"}

    def test_gpu_alone_pays_input_enqueue_wait_and_output(self) -> None:
        timeline = predict(candidate(phase(gpu=[50])))
        # input of 2000 B at 1 GB/s: 102 us; enqueue 10; kernel 50; output of 1000 B: 101
        assert spans_of(timeline, "transfer", "enqueue", "kernel", "wait") == [
            ("host", "transfer", 0, 102),
            ("host", "enqueue", 102, 112),
            ("host", "wait", 112, 162),
            ("gpu", "kernel", 112, 162),
            ("host", "transfer", 162, 263),
        ]

    def test_gpu_regions_in_a_row_pay_the_transfers_once(self) -> None:
        one = predict(candidate(phase(gpu=[50])))
        two = predict(candidate(phase(gpu=[50])), candidate(phase(gpu=[60])))
        assert two.latency_us - one.latency_us == 60
        assert two.count("transfer") == 2

    def test_short_gpu_kernels_wait_for_the_host_to_enqueue_them(self) -> None:
        timeline = predict(candidate(phase(gpu=[1] * 5)))
        assert timeline.latency_us == 102 + 5 * 10 + 1 + 101

    def test_cpu_kernels_start_when_the_gpus_are_enqueued(self) -> None:
        timeline = predict(candidate(phase([100], [100, 100], "copy")))
        first = timeline.lane_spans("cpu")[0]
        assert (first.start_us, first.end_us) == (102 + 20, 222)
        assert timeline.overlap_us == 100

    def test_a_sum_ends_on_the_cpu_with_one_transfer_and_one_join(self) -> None:
        timeline = predict(candidate(phase([100], [300], "sum", 500, 700, join=[7])))
        # input 102, enqueue 10, GPU until 412, 700 B back, join
        assert timeline.latency_us == pytest.approx(412 + 100.7 + 7)
        assert spans_of(timeline, "sync") == [
            ("cpu", "sync", pytest.approx(512.7), pytest.approx(519.7))
        ]

    def test_what_moves_for_nothing_is_waited_for_all_the_same(self) -> None:
        """On a chip whose lanes share memory and caches, say: the GPU still has to be done."""
        free = costs(latency_us=0.0, gbytes_per_s=float("inf"), enqueue_us=0.0)
        halves = candidate(phase([100], [300], "sum", 500, 700))
        timeline = Simulator(free, kernel_us).timeline([halves, candidate(phase(cpu=[10]))])
        assert timeline.latency_us == pytest.approx(310, abs=0.01)

    def test_a_place_after_a_split_needs_one_direction(self) -> None:
        halves = candidate(phase([100], [100], "sum", 500, 700, join=[7]))
        to_cpu = predict(halves, candidate(phase(cpu=[10])))
        assert moves(to_cpu) == ["cpu to gpu 2000 B", "gpu to cpu 700 B"]
        to_gpu = predict(halves, candidate(phase(gpu=[10])))
        assert moves(to_gpu) == [
            "cpu to gpu 2000 B",
            "cpu to gpu 500 B",
            "gpu to cpu 1000 B",
        ]
        assert [s.lane for s in to_gpu.spans if s.kind == "sync"] == ["gpu"]

    def test_a_split_after_a_split_joins_on_both_lanes(self) -> None:
        halves = candidate(phase([100], [100], "sum", 500, 700, join=[7]))
        timeline = predict(halves, halves)
        assert sorted(s.lane for s in timeline.spans if s.kind == "sync") == ["cpu", "cpu", "gpu"]
        assert timeline.count("transfer") == 1 + 2 + 1

    def test_a_value_whole_on_both_lanes_is_not_moved(self) -> None:
        timeline = predict(
            candidate(phase([10], [10], "copy")), candidate(phase([10], [10], "copy"))
        )
        assert timeline.count("transfer") == 1  # the input

    def test_a_phase_without_kernels_passes_the_value_on(self) -> None:
        alone = predict(candidate(phase(gpu=[50])), candidate(phase(gpu=[50])))
        between = predict(
            candidate(phase(gpu=[50])), candidate(phase()), candidate(phase(gpu=[50]))
        )
        assert between == alone

    def test_nothing_at_all_takes_no_time(self) -> None:
        assert predict(candidate(phase())) == Timeline((), "predicted")

    def test_contention_slows_both_lanes_while_both_are_busy(self) -> None:
        free = {"latency_us": 0.0, "gbytes_per_s": 1e9, "enqueue_us": 0.0}
        timeline = predict(candidate(phase([100], [200], "copy")), contention=(1.5, 1.25), **free)
        cpu, gpu = timeline.lane_spans("cpu")[0], timeline.lane_spans("gpu")[0]
        assert cpu.us == pytest.approx(150)
        # in those 150 us the GPU does 150 / 1.25 = 120 us of its work; 80 are left
        assert gpu.us == pytest.approx(150 + 80)

    def test_contention_ends_with_the_gpus_queue(self) -> None:
        free = {"latency_us": 0.0, "gbytes_per_s": 1e9, "enqueue_us": 0.0}
        timeline = predict(
            candidate(phase([300], [40, 40], "copy")), contention=(2.0, 1.25), **free
        )
        first, second = timeline.lane_spans("gpu")
        assert (first.us, second.us) == pytest.approx((50, 50))
        assert timeline.lane_spans("cpu")[0].us == pytest.approx(100 + 250)


class TestProperties:
    @given(candidates, any_costs)
    @settings(max_examples=300, deadline=None)
    def test_fast_score_is_the_timelines_latency(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        simulator = Simulator(found, kernel_us)
        timeline = simulator.timeline(plan)
        assert simulator.score(plan) == pytest.approx(timeline.latency_us, rel=1e-9, abs=EPSILON)

    @given(candidates, any_costs)
    @settings(deadline=None)
    def test_latency_lies_between_the_busiest_lane_and_the_sum_of_all(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        timeline = Simulator(found, kernel_us).timeline(plan)
        for lane in ("cpu", "gpu", "host"):
            assert timeline.busy_us(lane) <= timeline.latency_us + EPSILON  # type: ignore[arg-type]
        assert (
            timeline.latency_us <= sum(s.us for s in timeline.spans if s.kind != "wait") + EPSILON
        )
        busy = timeline.busy_us("cpu") + timeline.busy_us("gpu") - timeline.overlap_us
        assert busy <= timeline.latency_us + EPSILON

    @given(candidates, any_costs)
    @settings(deadline=None)
    def test_every_kernel_is_there_and_no_lane_does_two_things_at_once(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        timeline = Simulator(found, kernel_us).timeline(plan)
        kernels = sum(len(c.work.kernels("cpu")) + len(c.work.kernels("gpu")) for c in plan)
        assert timeline.count("kernel") == kernels
        for lanes in (("host", "cpu"), ("gpu",)):  # the CPU lane's kernels run on the host thread
            spans = sorted(
                (s for s in timeline.spans if s.lane in lanes), key=lambda s: (s.start_us, s.end_us)
            )
            assert all(a.end_us <= b.start_us + EPSILON for a, b in pairwise(spans))

    @given(candidates, any_costs)
    @settings(deadline=None)
    def test_no_gpu_kernel_starts_before_it_is_enqueued(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        timeline = Simulator(found, kernel_us).timeline(plan)
        enqueued = [s.end_us for s in timeline.spans if s.kind == "enqueue"]
        started = [s.start_us for s in timeline.lane_spans("gpu")]
        assert len(enqueued) == len(started)
        assert all(a <= b + EPSILON for a, b in zip(enqueued, started, strict=True))

    @given(
        candidates, any_costs, st.floats(0, 500), st.sampled_from(["to_gpu", "to_cpu", "enqueue"])
    )
    @settings(max_examples=300, deadline=None)
    def test_dearer_syncs_never_make_a_plan_faster(
        self, plan: list[Candidate], found: TargetCosts, more_us: float, what: str
    ) -> None:
        if what == "enqueue":
            dearer = replace(found, enqueue_us=found.enqueue_us + more_us)
        else:
            move = getattr(found, what)
            dearer = replace(found, **{what: replace(move, latency_us=move.latency_us + more_us)})
        before = Simulator(found, kernel_us).score(plan)
        assert Simulator(dearer, kernel_us).score(plan) >= before - EPSILON

    @given(candidates, any_costs)
    @settings(deadline=None)
    def test_contention_never_makes_a_plan_faster(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        free = replace(found, cpu_contention=1.0, gpu_contention=1.0)
        assert (
            Simulator(found, kernel_us).score(plan)
            >= Simulator(free, kernel_us).score(plan) - EPSILON
        )

    @given(candidates, any_costs)
    @settings(deadline=None)
    def test_json_round_trip(self, plan: list[Candidate], found: TargetCosts) -> None:
        timeline = Simulator(found, kernel_us).timeline(plan)
        assert Timeline.from_json(json.loads(json.dumps(timeline.to_json()))) == timeline


class TestTimeline:
    SPANS = (
        Span("cpu", "a", 10, 30, "kernel", "r0"),
        Span("cpu", "b", 20, 40, "kernel", "r0"),
        Span("gpu", "c", 35, 60, "kernel", "r0"),
        Span("gpu", "d", 60, 90, "wait"),
    )

    def test_measured_spans_may_overlap_and_start_late(self) -> None:
        timeline = Timeline(self.SPANS, "measured")
        assert timeline.latency_us == 80
        assert timeline.busy_us("cpu") == 30
        assert timeline.busy_us("gpu") == 25
        assert timeline.overlap_us == 5

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            ([], "JSON object"),
            ({"source": "guessed", "spans": []}, "JSON object"),
            ({"source": "measured", "format": 99, "spans": []}, "format 99"),
            ({"source": "measured"}, "damaged"),
            ({"source": "measured", "spans": [{"lane": "cpu"}]}, "damaged"),
            ({"source": "measured", "spans": [{**vars(SPANS[0]), "lane": "tpu"}]}, "damaged"),
            ({"source": "measured", "spans": [{**vars(SPANS[0]), "end_us": 1}]}, "damaged"),
            ({"source": "measured", "spans": [{**vars(SPANS[0]), "end_us": "soon"}]}, "damaged"),
        ],
    )
    def test_what_is_no_timeline_is_refused(self, data: Any, found: str) -> None:
        with pytest.raises(ArtifactError, match=found):
            Timeline.from_json(data)


def test_chrome_trace_has_a_row_per_lane_and_an_arrow_per_sync() -> None:
    halves = candidate(phase([100], [100], "sum", 500, 700, join=[7]))
    timeline = predict(halves, halves)
    trace = json.loads(json.dumps(timeline.to_chrome_trace()))
    events = trace["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == len(timeline.spans)
    for event, span in zip(slices, timeline.spans, strict=True):
        assert (names[event["tid"]], event["ts"], event["dur"]) == (
            span.lane,
            span.start_us,
            span.us,
        )
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    # the input comes from nowhere; the three others join the lanes
    assert starts.keys() == ends.keys()
    assert len(starts) == 3
    for key, start in starts.items():
        assert names[start["tid"]] != names[ends[key]["tid"]]
        assert start["ts"] <= ends[key]["ts"]


def test_predicted_and_measured_go_into_one_trace() -> None:
    timeline = predict(candidate(phase([100], [100], "copy")))
    events = chrome_trace([timeline, replace(timeline, source="measured")])["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {"predicted", "measured"}
    assert {e["pid"] for e in events} == {0, 1}
