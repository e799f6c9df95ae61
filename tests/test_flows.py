"""Arrows between the lanes: from the span that made the data to the first one that reads it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import MadeStudy, candidate, costs, kernel_us, phase, times

from syncnas_tvm.additive import Additive
from syncnas_tvm.flows import flows
from syncnas_tvm.planner import Candidate
from syncnas_tvm.scorer import Scorer
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.timeline import Span, Timeline

MODES: dict[str, Scorer] = {
    "timeline": Simulator(costs(), kernel_us),
    "additive": Additive(costs(), kernel_us),
    "study": MadeStudy(300.0),
}
every_mode = pytest.mark.parametrize("mode", MODES)


def ends(timeline: Timeline) -> list[tuple[str, float, str, float]]:
    """Lane and microseconds of what made the data and of the first kernel that reads it, joins apart."""
    found = []
    for made, read in flows(timeline):
        behind = [s for s in timeline.lane_spans(read.lane) if s.start_us >= read.start_us]
        reader = next(s for s in behind if s.kind == "kernel")
        found.append((made.lane, round(made.us), reader.lane, round(reader.us)))
    return found


def halves(cpu: list[int], gpu: list[int]) -> Any:
    return phase(cpu, gpu, "sum", join=[3])


@every_mode
def test_a_kernel_that_waits_in_the_queue_reads_nothing_that_comes_later(mode: str) -> None:
    """When the CPU's share is sent, the GPU has not begun its own region's second kernel."""
    plan = [candidate(halves([100], [800, 900])), candidate(halves([110], [120]), region="r1")]
    found = ends(MODES[mode].timeline([*plan, candidate(phase(cpu=[130]), region="r2")]))
    assert found == [("cpu", 100, "gpu", 120), ("gpu", 900, "cpu", 110), ("gpu", 120, "cpu", 130)]


@every_mode
def test_a_kernel_that_is_done_sooner_than_a_transfer_begins_did_not_make_what_it_moves(
    mode: str,
) -> None:
    """The region's second phase has two kernels done when the CPU gets what the first one made."""
    work = (halves([500], [20]), halves([30], [1, 2, 4]), phase(cpu=[40]))
    found = ends(MODES[mode].timeline([candidate(*work)]))
    assert found == [("cpu", 500, "gpu", 1), ("gpu", 20, "cpu", 30), ("gpu", 4, "cpu", 40)]


made = st.builds(phase, times, times, st.sampled_from(["sum", "concat", "copy"]))
plans = st.lists(st.lists(made, min_size=1, max_size=3).map(lambda p: candidate(*p)), max_size=5)


@every_mode
@given(plan=plans)
@settings(deadline=None)
def test_all_modes_move_the_same_data(mode: str, plan: list[Candidate]) -> None:
    plan = [*plan, candidate(phase(cpu=[7]))]
    timeline = MODES[mode].timeline(plan)
    assert ends(timeline) == ends(MODES["timeline"].timeline(plan))
    for tail, head in flows(timeline):
        assert tail.end_us <= head.start_us + 1e-6


def test_a_measured_run() -> None:
    """Rows of the other lane are copied when the host has waited for them, behind the next kernels;
    what is read through the queue, or handed over, was made by the call before."""
    run = Timeline(
        (
            Span("host", "cpu to gpu", 0, 1, "transfer"),
            Span("host", "gpu_a", 1, 2, "enqueue", "r0"),
            Span("cpu", "cpu_a", 2, 10, "kernel", "r0"),
            Span("host", "cpu to gpu", 10, 11, "transfer"),
            Span("host", "gpu_b", 11, 12, "enqueue", "r1"),
            Span("host", "gpu_c", 12, 13, "enqueue", "r1"),
            Span("gpu", "gpu_a", 3, 14, "kernel", "r0"),
            Span("gpu", "gpu_a", 14, 20, "kernel", "r0"),
            Span("host", "wait", 13, 20, "wait", "r0"),
            Span("gpu", "gpu_b", 20, 21, "kernel", "r1"),
            Span("host", "gpu to cpu", 22, 23, "transfer"),
            Span("cpu", "cpu_b", 23, 30, "kernel", "r1"),
            Span("host", "gpu to cpu", 30, 31, "transfer"),
            Span("host", "gpu_d", 31, 32, "enqueue", "r2"),
            Span("gpu", "gpu_c", 21, 40, "kernel", "r1"),
            Span("cpu", "cpu_d", 41, 50, "kernel", "r2"),
            Span("gpu", "gpu_d", 40, 41, "kernel", "r2"),
        ),
        "measured",
    )
    found = [(made.name, made.end_us, read.name) for made, read in flows(run)]
    assert found == [("cpu_a", 10, "gpu_b"), ("gpu_a", 20, "cpu_b"), ("gpu_c", 40, "cpu_d")]
