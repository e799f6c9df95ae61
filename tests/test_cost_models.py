"""Cost models: what all of them keep to, the roofline, the measured table."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import RK3399, add, conv, dense, depthwise, kernels, mean

from syncnas_tvm.cost_models import (
    CostModel,
    MeasuredTable,
    Roofline,
    TargetModel,
    kind_of,
)
from syncnas_tvm.cost_models.siblings import Ladder, family
from syncnas_tvm.targets import KERNEL_KINDS, load_target
from syncnas_tvm.work import Kernel


def table(*measured: tuple[Kernel, float], fallback: CostModel | None = None) -> MeasuredTable:
    found = MeasuredTable(fallback or Roofline(RK3399))
    for kernel, us in measured:
        found.add(kernel, us, us / 50)
    return found


def predicted(model: CostModel, *wanted: Kernel) -> list[float]:
    latency_us, _ = model.predict(wanted)
    return [float(us) for us in latency_us]


MODELS: dict[str, Callable[[], CostModel]] = {
    "roofline": lambda: Roofline(RK3399),
    "empty table": table,
    "table": lambda: table((conv(64, 384), 700.0), (conv(64, 96), 200.0), (depthwise(96), 90.0)),
}
for _target in ("rk3399", "android-adreno", "android-mali"):
    MODELS[_target] = partial(cache(TargetModel), load_target(_target))
every_model = pytest.mark.parametrize("name", MODELS)


class TestEveryModel:
    """What every cost model has to keep to."""

    @every_model
    @given(wanted=st.lists(kernels, max_size=6))
    @settings(max_examples=60, deadline=None)
    def test_predictions_are_times_one_per_kernel_in_order(
        self, name: str, wanted: list[Kernel]
    ) -> None:
        model = MODELS[name]()
        latency_us, std_us = model.predict(wanted)
        assert latency_us.shape == std_us.shape == (len(wanted),)
        assert latency_us.dtype == std_us.dtype == np.float64
        assert np.isfinite(latency_us).all()
        assert np.isfinite(std_us).all()
        assert (latency_us > 0).all()
        assert (std_us >= 0).all()
        backwards = list(reversed(latency_us.tolist()))
        # A row of a matrix product depends a little, in single precision, on where it stands.
        close = 1e-4 if isinstance(model, TargetModel) else 0
        assert predicted(model, *reversed(wanted)) == pytest.approx(backwards, rel=close, abs=0)

    @every_model
    def test_table_names_every_kernel(self, name: str) -> None:
        model = MODELS[name]()
        wanted = [conv(8, 16), conv(64, 384), conv(8, 16), add(5)]
        found = model.table(wanted)
        assert list(found) == [conv(8, 16), conv(64, 384), add(5)]
        assert list(found.values()) == predicted(model, *found)

    @every_model
    def test_a_cut_never_costs_more_than_the_whole(self, name: str) -> None:
        model = MODELS[name]()
        for ladder in (
            [conv(64, out) for out in range(8, 385, 8)],
            [conv(into, 64) for into in range(8, 385, 8)],
            [depthwise(width) for width in range(8, 385, 8)],
        ):
            assert np.diff(predicted(model, *ladder)).min() >= 0


class TestRoofline:
    @given(kernels)
    @settings(deadline=None)
    def test_is_never_above_the_lanes_peak(self, kernel: Kernel) -> None:
        (us,) = predicted(Roofline(RK3399), kernel)
        peak = RK3399.peak(kernel.lane)
        assert kernel.flops / us <= peak.gflops * 1e3
        assert kernel.bytes_moved / us <= peak.gbytes_per_s * 1e3
        assert us >= peak.launch_us

    def test_compute_bound_and_memory_bound(self) -> None:
        heavy, light = conv(256, 256, window=3), add(1000)
        heavy_us, light_us = predicted(Roofline(RK3399), heavy, light)
        peak = RK3399.cpu_peak
        reached = peak.gflops * peak.efficiency["conv"] * 1e3
        assert heavy_us == pytest.approx(heavy.flops / reached + peak.launch_us)
        assert light_us == pytest.approx(
            light.bytes_moved / (peak.gbytes_per_s * 1e3) + peak.launch_us
        )

    def test_agrees_with_measured_convolutions_of_the_rk3399(self) -> None:
        # TopHub: 1x1, 64 to 384 channels at 14x14, on the CPU and the Mali; depthwise, Mali
        wanted = conv(64, 384), conv(64, 384, "gpu"), depthwise(384, "gpu")
        assert predicted(Roofline(RK3399), *wanted) == pytest.approx([504, 748, 389], rel=0.15)

    @pytest.mark.parametrize(
        ("kernel", "kind"),
        [
            (conv(16, 32), "pointwise"),
            (conv(16, 32, window=3), "conv"),
            (conv(3, 32, window=3), "stem"),
            (conv(3, 32), "stem"),
            (depthwise(32), "depthwise"),
            (depthwise(1), "stem"),
            (dense(16, 32), "matmul"),
            (mean(16), "reduce"),
            (Kernel("nn.max_pool2d", ((1, 8, 4, 4), (1, 8, 2, 2)), "float32", "cpu"), "reduce"),
            (add(16), "elementwise"),
            (Kernel("nn.silu", ((1, 8), (1, 8)), "float32", "cpu"), "elementwise"),
        ],
    )
    def test_kind_of(self, kernel: Kernel, kind: str) -> None:
        assert kind_of(kernel) == kind
        assert kind in KERNEL_KINDS


class TestMeasuredTable:
    LADDER = ((conv(64, 384), 800.0), (conv(64, 192), 420.0), (conv(64, 96), 230.0))

    def test_a_measured_kernel_gets_its_own_latency_and_noise(self) -> None:
        latency_us, std_us = table(*self.LADDER).predict([conv(64, 192)])
        assert (latency_us[0], std_us[0]) == (420, 8.4)

    def test_a_cut_between_two_is_linear_in_multiply_adds(self) -> None:
        model = table(*self.LADDER)
        assert predicted(model, conv(64, 288), conv(64, 144)) == pytest.approx([610, 325])
        _, std_us = model.predict([conv(64, 288)])
        assert std_us[0] > 10

    def test_a_cut_beyond_the_measured_ones_is_in_proportion_to_the_nearest(self) -> None:
        model = table(*self.LADDER)
        assert predicted(model, conv(64, 48), conv(64, 768)) == pytest.approx([115, 1600])
        _, std_us = model.predict([conv(64, 48), conv(64, 288)])
        assert std_us[0] / 115 > std_us[1] / 610

    def test_cuts_of_the_input_and_depthwise_cuts(self) -> None:
        model = table((conv(384, 64), 800.0), (conv(192, 64), 420.0), (depthwise(384), 300.0))
        assert predicted(model, conv(288, 64), depthwise(192)) == pytest.approx([610, 150])

    def test_kernels_without_multiply_adds_go_by_bytes(self) -> None:
        model = table((add(100), 10.0), (add(300), 20.0))
        assert predicted(model, add(200)) == pytest.approx([15])

    def test_relatives_with_the_same_input_come_before_others(self) -> None:
        """96 -> 144 has the multiply-adds of 64 -> 216, but is no cut of 64 -> 384."""
        model = table(*self.LADDER, (conv(96, 72), 9000.0), (conv(96, 576), 99000.0))
        assert predicted(model, conv(64, 288)) == pytest.approx([610])

    def test_noise_that_makes_a_cut_slower_than_the_whole_is_levelled(self) -> None:
        model = table((conv(64, 384), 400.0), (conv(64, 192), 420.0), (conv(64, 96), 230.0))
        assert predicted(model, conv(64, 288)) == pytest.approx([420])

    @pytest.mark.parametrize(
        "stranger",
        [
            conv(64, 288, "gpu"),
            conv(64, 288, side=7),
            conv(64, 288, window=3),
            Kernel(**{**vars(conv(64, 288)), "epilogue": ()}),
            Kernel(**{**vars(conv(64, 288)), "dtype": "float16"}),
            Kernel(**{**vars(conv(64, 288)), "attrs": (("groups", 2),)}),
            Kernel(**{**vars(conv(64, 288)), "layout": "NCHW4c"}),
        ],
    )
    def test_other_kernels_are_no_cuts(self, stranger: Kernel) -> None:
        assert family(stranger) != family(conv(64, 384))
        roofline = Roofline(RK3399)
        (ratio,) = {
            round(a / b, 6)
            for a, b in zip(
                predicted(table(*self.LADDER), stranger), predicted(roofline, stranger), strict=True
            )
        }
        assert ratio != 1 or stranger.lane == "gpu"

    def test_fallback_is_scaled_by_the_median_of_its_kind_on_its_lane(self) -> None:
        roofline = Roofline(RK3399)
        others = [conv(32, 16, side=28), conv(48, 16, side=28), conv(8, 800, side=7), depthwise(7)]
        known = predicted(roofline, *others)
        factors = (2.0, 3.0, 40.0, 0.5)
        model = table(*((k, us * f) for k, us, f in zip(others, known, factors, strict=True)))
        wanted = [conv(64, 64, side=56), depthwise(64, side=56), mean(64), conv(64, 64, "gpu")]
        plain = predicted(roofline, *wanted)
        scales = np.array(predicted(model, *wanted)) / plain
        # the median of the kind; for a kind never measured, of the lane; else as it is
        assert scales == pytest.approx([3.0, 0.5, 2.5, 1.0])
        _, std_us = model.predict(wanted)
        assert (std_us >= 0.4 * np.array(plain) * scales * 0.999).all()

    def test_later_measurements_count(self) -> None:
        model = table((conv(64, 384), 800.0), (conv(64, 96), 200.0))
        assert predicted(model, conv(64, 240)) == pytest.approx([500])
        model.add(conv(64, 384), 400.0)
        assert predicted(model, conv(64, 384), conv(64, 240)) == pytest.approx([400, 300])
        assert len(model) == 2

    @pytest.mark.parametrize("us", [0.0, -1.0, float("nan"), float("inf")])
    def test_what_is_no_latency_is_refused(self, us: float) -> None:
        with pytest.raises(ValueError, match="not a latency"):
            table().add(conv(1, 1), us)

    @given(st.dictionaries(st.integers(1, 500), st.floats(1, 1e4), min_size=1), st.data())
    def test_a_ladder_never_falls(self, rungs: dict[int, float], data: st.DataObject) -> None:
        ladder = Ladder.of([(float(x), us) for x, us in rungs.items()])
        xs = sorted(data.draw(st.lists(st.floats(0.5, 1000), min_size=2, max_size=8)))
        values = [ladder.at(x) for x in xs]
        assert all(a <= b * (1 + 1e-12) for a, b in pairwise(values))
