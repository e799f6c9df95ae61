"""Border rows that are computed first, and travel while the rest of a band is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import MadeStudy, any_costs, candidate, costs, kernel, kernel_us, phases, times

from syncnas_tvm.additive import Additive
from syncnas_tvm.flows import flows
from syncnas_tvm.lane_types import LaneTypes
from syncnas_tvm.planner import Candidate
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.timeline import Span, Timeline
from syncnas_tvm.work import Interval, Phase, Seam, Sync, Work

Reads = tuple[Interval, Interval]
EPSILON = 1e-6
SLOW = {"latency_us": 200.0, "gbytes_per_s": float("inf")}
HALO: Reads = ((0, 8), (4, 16))
"""Two rows of the other lane's band, either way."""


def bands(
    cpu: Sequence[int],
    gpu: Sequence[int],
    early: tuple[int, int] | None = None,
    reads: Reads | None = HALO,
    cut: int = 6,
) -> Phase:
    """A phase that ends with bands of a map of 16 rows, of 1000 bytes each."""
    kernels = tuple(kernel(us, "cpu") for us in cpu), tuple(kernel(us, "gpu", 2000) for us in gpu)
    joined = (kernel(5, "cpu"),)
    seam = Seam(cut, 16, 1000, early)
    return Phase(*kernels, Sync("concat", cut * 1000, (16 - cut) * 1000, joined, seam), reads)


def plan_of(*found: Phase) -> list[Candidate]:
    return [candidate(phase, region=f"r{number}") for number, phase in enumerate(found)]


def late(plan: Sequence[Candidate]) -> list[Candidate]:
    """The same kernels, with no rows that leave before all are computed."""

    def phase(found: Phase) -> Phase:
        seam = found.output.seam
        return replace(found, output=replace(found.output, seam=seam and replace(seam, early=None)))

    return [replace(c, work=Work(tuple(map(phase, c.work.phases)))) for c in plan]


def predict(plan: Sequence[Candidate], found: TargetCosts) -> Timeline:
    simulator = Simulator(found, kernel_us)
    timeline = simulator.timeline(plan)
    assert simulator.score(plan) == pytest.approx(timeline.latency_us, rel=1e-9, abs=EPSILON)
    return timeline


def shown(spans: Sequence[Span]) -> list[tuple[str, str, float, float]]:
    return [(s.name, s.region, round(s.start_us, 6), round(s.end_us, 6)) for s in spans]


class TestHandComputed:
    PLAN = plan_of(bands([50, 100, 100], [60, 100, 50], (2, 2)), bands([70], [80]))

    def test_rows_travel_during_the_rest(self) -> None:
        timeline = predict(self.PLAN, costs(**SLOW, enqueue_us=10.0))
        # The first phase's input is there at 200; its GPU kernels end at 270, 370 and 420.
        assert shown(timeline.lane_spans("host")[4:]) == [
            ("cpu to gpu 2000 B", "r0", 380, 390),  # a: handed over; there at 590
            ("enqueue gpu to cpu 2000 B", "r0", 390, 400),
            ("enqueue add", "r1", 400, 410),  # b
            ("gpu to cpu 2000 B", "r0", 510, 570),  # d: left at 370, under way for 200
            ("wait for gpu", "r1", 640, 670),
            ("gpu to cpu 10000 B", "r1", 670, 870),
        ]
        assert shown(timeline.lane_spans("cpu")) == [
            ("add", "r0", 230, 280),
            ("add", "r0", 280, 380),
            ("add", "r0", 410, 510),  # c
            ("add", "r1", 570, 640),
        ]
        assert shown(timeline.lane_spans("gpu"))[2:] == [
            ("add", "r0", 370, 420),
            ("add", "r1", 590, 670),  # b: not before the CPU's rows are there
        ]

    def test_what_the_rest_takes_stretches_the_gpus_rows(self) -> None:
        plan = plan_of(bands([5, 5, 60], [60, 100, 200], (2, 2)), bands([10], [80]))
        timeline = predict(plan, costs(**SLOW, enqueue_us=10.0, contention=(2.0, 2.0)))
        # Done at 380 when the border rows are; from 280 to 400 the GPU does but 60 of its work.
        assert shown(timeline.lane_spans("host")[6:9]) == [
            ("enqueue add", "r1", 270, 280),
            ("wait for gpu", "r0", 400, 440),
            ("gpu to cpu 2000 B", "r0", 440, 640),
        ]
        assert timeline.lane_spans("gpu")[-1].end_us == pytest.approx(730)
        assert timeline.lane_spans("cpu")[-1].end_us == pytest.approx(660)

    def test_rows_that_are_there_are_not_waited_for(self) -> None:
        plan = plan_of(bands([50, 100, 300], [60, 100, 300], (2, 2)), bands([70], [80]))
        timeline = predict(plan, costs(**SLOW, enqueue_us=10.0))
        moved = next(s for s in timeline.spans if s.name == "gpu to cpu 2000 B")
        assert (moved.start_us, moved.us, moved.ready_us) == (710, 0, 370)

    def test_one_direction_costs_one_command(self) -> None:
        first = bands([50, 100], [60, 100, 50], (0, 2))
        timeline = predict(
            plan_of(first, bands([70], [80], reads=((0, 8), (6, 16)))), costs(**SLOW)
        )
        assert [s.name for s in timeline.lane_spans("host") if "cpu" in s.name][1:-1] == [
            "enqueue gpu to cpu 2000 B",
            "gpu to cpu 2000 B",
        ]

    def test_it_pays(self) -> None:
        """Two transfers of 200 us, hidden behind kernels of 300 us."""
        run = bands([100, 300], [100, 300], (2, 2))
        plan = plan_of(run, run, run)
        found = costs(**SLOW, enqueue_us=10.0)
        gained = predict(late(plan), found).latency_us - predict(plan, found).latency_us
        assert gained > 2 * 300  # an exchange: both transfers, but for what is enqueued


def test_arrows_go_from_the_border_rows_to_their_readers() -> None:
    first = bands([50, 101, 301], [60, 102, 302], (2, 2))
    plan = plan_of(first, bands([71, 103, 303], [81, 104, 304], (2, 2)), bands([72], [82]))
    timeline = predict([*plan, *plan_of(bands([9], ()))], costs(**SLOW))
    ends = [(made.lane, made.us, read.lane, read.us) for made, read in flows(timeline)]
    assert ends == [
        ("cpu", 101, "gpu", 81),
        ("gpu", 102, "cpu", 71),
        ("cpu", 103, "gpu", 82),
        ("gpu", 104, "cpu", 72),
        ("gpu", 82, "cpu", 9),
    ]


def test_reads_that_are_covered() -> None:
    seam = Seam(6, 16, 1000, (2, 1))
    assert seam.covers(((0, 7), (4, 16)))
    assert seam.covers(((0, 5), (9, 16)))  # nothing is missing
    assert not seam.covers(((0, 8), (4, 16)))
    assert not seam.covers(((0, 7), (3, 16)))
    assert not seam.covers(None)
    assert not replace(seam, early=None).covers(((0, 7), (4, 16)))


@pytest.mark.parametrize(
    "then",
    [
        bands([70], [80], reads=None),
        bands([70], [80], reads=((0, 9), (4, 16))),
        bands([70], [80], reads=((0, 8), (3, 16))),
        bands([70], []),
        bands([], [80]),
        None,
    ],
)
@pytest.mark.parametrize("contention", [(1.0, 1.0), (1.5, 1.25)])
def test_other_readers_get_their_rows_as_ever(
    then: Phase | None, contention: tuple[float, float]
) -> None:
    found = costs(contention=contention)
    plan = plan_of(bands([50, 100, 300], [60, 100, 300], (2, 2)), *((then,) if then else ()))
    early, usual = predict(plan, found), predict(late(plan), found)
    assert early.latency_us == pytest.approx(usual.latency_us)
    assert [shown(early.lane_spans(lane)) for lane in ("host", "cpu", "gpu")] == [  # type: ignore[arg-type]
        shown(usual.lane_spans(lane))  # type: ignore[arg-type]
        for lane in ("host", "cpu", "gpu")
    ]


def test_lane_types_keep_it() -> None:
    (phase,) = LaneTypes("float16", "float16").work(Work((bands([1], [1], (2, 1)),))).phases
    assert phase.output.seam == Seam(6, 16, 500, (2, 1))


def test_what_matters_later_is_in_the_key() -> None:
    scorer = Simulator(costs(), kernel_us)

    def key(cpu: Sequence[int], gpu: Sequence[int], early: tuple[int, int] | None) -> object:
        return scorer.key(scorer.step(scorer.start, plan_of(bands(cpu, gpu, early))[0]))

    usual = key([400, 30], [40, 50], (2, 2))
    assert key([400, 30], [40, 50], (2, 2)) == usual
    assert key([400, 31], [40, 50], (2, 2)) != usual
    assert key([400, 30], [40, 51], (2, 2)) != usual
    assert key([400, 30], [40, 50], (2, 1)) != usual
    # The GPU's rows have been at the CPU for long: when they left does not matter.
    assert key([900, 30], [40, 50], (2, 2)) == key([800, 30], [40, 50], (2, 2))


two = st.lists(st.integers(1, 500), min_size=2, max_size=4)
some_reads = st.none() | st.tuples(
    st.tuples(st.just(0), st.integers(1, 16)), st.tuples(st.integers(0, 15), st.just(16))
)
earlies = st.tuples(st.integers(0, 4), st.integers(0, 4))
either = (
    st.builds(bands, two, two, st.none() | earlies, st.just(HALO) | some_reads)
    | st.builds(bands, times, times, reads=some_reads)
    | phases
)
plans = st.lists(
    st.lists(either, min_size=1, max_size=3).map(lambda found: candidate(*found)),
    min_size=1,
    max_size=6,
)


class TestProperties:
    @given(plans, any_costs)
    @settings(max_examples=400, deadline=None)
    def test_score_is_the_timelines_latency(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        timeline = predict(plan, found)
        assert Timeline.from_json(timeline.to_json()) == timeline
        assert timeline.count("kernel") == sum(
            len(c.work.kernels(lane))
            for c in plan
            for lane in ("cpu", "gpu")  # type: ignore[arg-type]
        )

    @given(plans, any_costs)
    @settings(max_examples=200, deadline=None)
    def test_phase_by_phase_is_the_same(self, plan: list[Candidate], found: TargetCosts) -> None:
        simulator = Simulator(found, kernel_us)
        steps = [candidate(phase) for c in plan for phase in c.work.phases]
        assert simulator.score(steps) == pytest.approx(simulator.score(plan), rel=1e-9)

    @given(plans, any_costs)
    @settings(max_examples=200, deadline=None)
    def test_no_lane_does_two_things_at_once(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        timeline = predict(plan, found)
        for lanes in (("host", "cpu"), ("gpu",)):
            spans = sorted(
                (s for s in timeline.spans if s.lane in lanes), key=lambda s: (s.start_us, s.end_us)
            )
            assert all(a.end_us <= b.start_us + EPSILON for a, b in pairwise(spans))

    @given(plans, any_costs)
    @settings(max_examples=200, deadline=None)
    def test_arrows_go_forward(self, plan: list[Candidate], found: TargetCosts) -> None:
        for made, read in flows(predict(plan, found)):
            assert made.end_us <= read.start_us + EPSILON

    @given(plans, any_costs)
    @settings(max_examples=200, deadline=None)
    def test_never_slower_if_commands_are_free_and_lanes_do_not_contend(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        free = replace(found, enqueue_us=0.0, cpu_contention=1.0, gpu_contention=1.0)
        simulator = Simulator(free, kernel_us)
        assert simulator.score(plan) <= simulator.score(late(plan)) + EPSILON

    @given(plans, any_costs)
    @settings(max_examples=100, deadline=None)
    def test_modes_without_overlap_do_not_see_it(
        self, plan: list[Candidate], found: TargetCosts
    ) -> None:
        for scorer in (Additive(found, kernel_us), MadeStudy(300.0)):
            states = [scorer.start, scorer.start]
            for pair in zip(plan, late(plan), strict=True):
                states = [scorer.step(*both) for both in zip(states, pair, strict=True)]
                assert states[0][0] == states[1][0]
                assert scorer.key(states[0]) == scorer.key(states[1])
            assert scorer.score(plan) == scorer.score(late(plan))
            assert scorer.timeline(plan) == scorer.timeline(late(plan))
