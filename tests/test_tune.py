"""Tuning without a device: what is measured next, what is kept, and the model that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from kernels import conv
from spaces import costs, kernel_us, place, split

from syncnas_tvm.cost_models import CostModel, cost_model_of
from syncnas_tvm.cost_models.dataset import Dataset, Sample
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.tuned import TRAINED_FROM, train_models, tuned_model
from syncnas_tvm.errors import DeviceError, InputError
from syncnas_tvm.planner import Space
from syncnas_tvm.planner.cost_mode import kernels_of
from syncnas_tvm.targets import load_target
from syncnas_tvm.timeline import Span, Timeline
from syncnas_tvm.tuning import best
from syncnas_tvm.tuning.costs_file import COSTS, read_costs, write_costs
from syncnas_tvm.tuning.device_costs import contention, gaps
from syncnas_tvm.tuning.kernel_file import KernelEntry, append_kernel, read_kernels
from syncnas_tvm.tuning.priorities import Progress, expected_shares, priorities
from syncnas_tvm.tuning.record_files import KERNELS, Record, locked
from syncnas_tvm.work import Kernel

RK3399 = load_target("rk3399")

# What is measured next.


@dataclass
class Known(CostModel):
    """Every kernel's own microseconds; ``unsure`` ones may be off by half of it."""

    unsure: frozenset[Kernel] = frozenset()

    def predict(self, kernels: Sequence[Kernel]) -> tuple[np.ndarray, np.ndarray]:
        us = np.array([kernel_us(kernel) for kernel in kernels])
        return us, us * np.array([0.5 if kernel in self.unsure else 0.01 for kernel in kernels])


def two_regions() -> Space:
    """The first is faster on the CPU, the second on the GPU; splits are hopeless."""
    return Space(
        ("a", "b"),
        (
            (place("a", "cpu", 1000), place("a", "gpu", 5000), split("a", 0.5, 4000, 4000)),
            (place("b", "cpu", 3000), place("b", "gpu", 400), split("b", 0.5, 3500, 3500)),
        ),
    )


def test_shares_are_those_of_the_best_plan() -> None:
    space, model = two_regions(), Known()
    kernels = kernels_of(space.all())
    shares, plan_us = expected_shares(space, costs(), model, kernels, ("cpu", "gpu"), 0)
    found = {(k.lane, kernel_us(k)): share for k, share in shares.items()}
    assert set(found) == {("cpu", 1000.0), ("gpu", 400.0)}
    assert found["cpu", 1000.0] == pytest.approx(1000 / plan_us, rel=0.05)
    assert 1400 < plan_us < 1800  # two copies in between
    alone, cpu_us = expected_shares(space, costs(), model, kernels, ("cpu",), 0)
    assert {kernel_us(k) for k in alone} == {1000.0, 3000.0}
    assert cpu_us == pytest.approx(4000)


def test_a_kernel_that_may_change_the_plan_comes_before_a_heavier_one() -> None:
    space = two_regions()
    kernels = kernels_of(space.all())
    (rival,) = (k for k in kernels if kernel_us(k) == 3000 and k.lane == "cpu")
    # The GPU's kernel is known; the CPU's may be much faster than predicted, as far as is known.
    model = Known(frozenset((rival,)))
    shares, _ = expected_shares(space, costs(), model, kernels, ("cpu", "gpu"), 1)
    found = priorities(shares, model, {}, kernels, 8)
    hopeless = [k for k in kernels if kernel_us(k) in (3500, 4000, 5000)]
    assert min(found[k] for k in kernels if kernel_us(k) in (1000, 400)) > max(
        found[k] for k in hopeless
    )
    assert found[rival] > max(found[k] for k in hopeless)


def test_what_was_measured_through_is_not_measured_again() -> None:
    space, model = two_regions(), Known()
    kernels = kernels_of(space.all())
    shares, _ = expected_shares(space, costs(), model, kernels, ("cpu", "gpu"), 0)
    heaviest = max(shares, key=shares.__getitem__)
    before = priorities(shares, model, {}, kernels, 8)
    assert max(before, key=before.__getitem__) == heaviest
    some = priorities(shares, model, {heaviest: Progress(8, 40)}, kernels, 8)
    assert 0 < some[heaviest] < before[heaviest]
    through = priorities(shares, model, {heaviest: Progress(40, 40)}, kernels, 8)
    assert through[heaviest] == 0


def test_gain_of_further_tilings() -> None:
    assert Progress(1, 30, 0.2).gain(8) > Progress(8, 30, 0.2).gain(8) > 0
    assert Progress(8, 30, 0.4).gain(8) > Progress(8, 30, 0.2).gain(8)
    assert Progress(8, 9, 0.2).gain(8) < Progress(8, 30, 0.2).gain(8)
    # Against a simulation: the least of nine, compared with a single one.
    draws = np.exp(0.2 * np.random.default_rng(0).standard_normal((20000, 9)))
    simulated = 1 - np.median(draws.min(1)) / np.median(draws[:, 0])
    assert Progress(1, 30, 0.2).gain(8) == pytest.approx(simulated, abs=0.03)


# Which measurement counts.


def records(*times: tuple[int, float]) -> list[Record]:
    return [Record(0, {}, (tiling,), (seconds,)) for tiling, seconds in times]


def test_what_a_compile_runs() -> None:
    assert best.compiled_seconds([]) is None
    assert best.compiled_seconds(records((0, 1e10), (1, 1e10))) is None
    # Before the comparison: the fastest of all.
    assert best.compiled_seconds(records((0, 3.0), (1, 2.0), (2, 4.0)))[0] == 2.0
    # After it: what was measured together with the rule's own, which stays unless it is clearly slower.
    compared = records((0, 3.0), (1, 2.0), (2, 4.0), (0, 2.5), (1, 2.2))
    assert best.compiled_seconds(compared)[0] == 2.2
    assert best.is_refined(compared)
    even = records((0, 3.0), (1, 2.0), (0, 2.5), (1, 2.49))
    assert best.compiled_seconds(even)[0] == 2.5
    assert not best.is_refined(even)


def test_what_is_left_to_compare() -> None:
    def is_compared(*times: tuple[int, float]) -> bool:
        return best.is_compared(best.measured(records(*times)), (0,))

    assert not is_compared((0, 3.0), (1, 2.0))
    assert is_compared((0, 3.0), (1, 2.0), (0, 3.0), (1, 2.0))
    # Something new since.
    assert not is_compared((0, 3.0), (1, 2.0), (0, 3.0), (1, 2.0), (2, 1.0))
    assert is_compared((0, 3.0), (1, 2.0), (2, 1.0), (0, 3.0), (2, 1.0))


# Files.


def test_the_kernel_file(tmp_path: Path) -> None:
    entries = [KernelEntry(conv(8, 16), (0,)), KernelEntry(conv(8, 16, "gpu", window=3), (1, 2))]
    with locked(tmp_path):
        for entry in entries:
            append_kernel(tmp_path, entry)
        with pytest.raises(InputError, match="another tuning writes"), locked(tmp_path):
            pass
    path = tmp_path / KERNELS
    with path.open("a") as file:
        file.write('{"workloads": []}\nnothing\n{"half')
    problems: list[str] = []
    assert read_kernels(tmp_path, problems) == entries
    assert problems == [f"{path}:4 is damaged", f"{path}:3 describes no kernel"] or problems == [
        f"{path}:3 describes no kernel",
        f"{path}:4 is damaged",
    ]
    with locked(tmp_path):
        assert path.read_text().endswith("nothing\n")


def test_the_costs_file(tmp_path: Path) -> None:
    assert read_costs(tmp_path, RK3399) is None
    found = costs(12.5, 3.0, 4.0, (1.2, 1.1))
    write_costs(tmp_path, RK3399, found)
    assert read_costs(tmp_path, RK3399) == found
    assert read_costs(tmp_path, load_target("android-mali")) is None
    (tmp_path / COSTS).write_text('{"format": 1, "target": "rk3399"}')
    with pytest.raises(InputError, match=r"costs\.json is damaged"):
        read_costs(tmp_path, RK3399)


# What a device costs.


def run(cpu: tuple[float, float] = (0, 0), gpu: tuple[float, float] = (0, 0)) -> Timeline:
    spans = [
        Span(lane, f"{lane}_kernel", *times, "kernel")
        for lane, times in (("cpu", cpu), ("gpu", gpu))
        if times != (0, 0)
    ]
    return Timeline(tuple(spans), "measured")


@pytest.mark.parametrize(
    ("cpu", "gpu", "expected"),
    [
        ((0, 100), (200, 500), 1.0),  # one after the other
        ((0, 130), (0, 300), 1.3),  # 100 us of work in 130, all of it beside the GPU
        ((0, 115), (50, 115), 1.3),  # 50 alone, the other 50 in 65
        ((0, 90), (0, 90), 1.0),  # faster: noise
        ((0, 900), (0, 900), 2.0),
    ],
)
def test_contention(cpu: tuple[float, float], gpu: tuple[float, float], expected: float) -> None:
    alone = [run(cpu=(0, 200))]  # twice the work
    assert contention(alone, [run(cpu, gpu)], "cpu") == pytest.approx(expected)


def test_transfers_are_the_gaps_between_the_lanes() -> None:
    def span(lane: str, start: float, end: float) -> Span:
        return Span(lane, f"{lane}_x", start, end, "enqueue" if lane == "host" else "kernel")

    host = (span("host", 0, 30), span("host", 55, 90))
    queue = (span("gpu", 40, 50), span("gpu", 50, 70))
    lanes = (span("cpu", 2, 10), span("cpu", 95, 99))
    assert gaps(Timeline(host + queue + lanes, "measured")) == (30, 25)
    assert gaps(Timeline(host + queue, "measured")) == (40, 20)
    with pytest.raises(DeviceError, match="no kernel of its GPU"):
        gaps(Timeline(host + lanes, "measured"))


# The model.


def samples(count: int, factor: float = 2.0) -> Dataset:
    """Kernels of a device that is ``factor`` times as slow as the RK3399's model says."""
    kernels = [conv(8 * (1 + i), 16 + 8 * (i * 7 % 13), side=7 * (1 + i % 4)) for i in range(count)]
    us, _ = cost_model_of(RK3399).predict(kernels)
    return Dataset(
        tuple(Sample(k, "rk3399", float(u) * factor) for k, u in zip(kernels, us, strict=True))
    )


def test_measured_kernels_are_exact_and_others_follow_them() -> None:
    data = samples(12)
    model = tuned_model(RK3399, data)
    assert np.array_equal(model.predict(data.kernels)[0], data.latency_us)
    others = [conv(56, 104, side=14), conv(96, 48, side=21)]
    assert not any(kernel in model for kernel in others)
    us, _ = cost_model_of(RK3399).predict(others)
    assert model.predict(others)[0] == pytest.approx(2 * us, rel=0.15)
    # Nothing was measured on the GPU: its model, and its bias, stay.
    gpu = [conv(56, 104, "gpu")]
    assert np.array_equal(model.predict(gpu)[0], cost_model_of(RK3399).predict(gpu)[0])
    # Below three kernels only those themselves are known.
    few = tuned_model(RK3399, samples(2))
    assert np.array_equal(few.predict(others)[0], us)
    assert np.array_equal(few.predict(samples(2).kernels)[0], samples(2).latency_us)


def test_many_kernels_train_a_model_of_their_own(tmp_path: Path) -> None:
    data = samples(TRAINED_FROM)
    assert train_models(data.take(range(TRAINED_FROM - 1)), RK3399, tmp_path) == []
    (path,) = train_models(data, RK3399, tmp_path)
    assert path == tmp_path / "cpu-float32.npz"
    others = [conv(56, 104, side=14), conv(96, 48, side=21)]
    own, calibrated = LearnedModel.load(path), tuned_model(RK3399, data)
    expected = np.sqrt(own.predict(others)[0] * calibrated.predict(others)[0])
    found = tuned_model(RK3399, data, tmp_path)
    assert np.array_equal(found.predict(data.kernels)[0], data.latency_us)
    assert found.predict(others)[0] == pytest.approx(expected)
    assert expected == pytest.approx(2 * cost_model_of(RK3399).predict(others)[0], rel=0.15)
