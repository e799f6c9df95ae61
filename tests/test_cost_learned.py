"""Learned cost models: features, members, physics, files, what ships, a few kernels of a new device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import RK3399, add, conv, dense, depthwise, kernels

from syncnas_tvm.cost_models import LearnedModel, Roofline, TargetModel, cost_model_of
from syncnas_tvm.cost_models.bands import distinct, squared
from syncnas_tvm.cost_models.calibration import Uncertainty
from syncnas_tvm.cost_models.cleaning import WINOGRAD_GAIN
from syncnas_tvm.cost_models.columns import columns_of, is_learnable, is_winograd, numbers_of
from syncnas_tvm.cost_models.dataset import Dataset, Sample, workload
from syncnas_tvm.cost_models.devices import SHIPPED
from syncnas_tvm.cost_models.evaluation import Accuracy, cross_validate
from syncnas_tvm.cost_models.features import features
from syncnas_tvm.cost_models.few_shot import FewShotModel, choose_kernels
from syncnas_tvm.cost_models.gaussian_process import GaussianProcess
from syncnas_tvm.cost_models.ladders import _each_with_each, _on_a_grid, monotone
from syncnas_tvm.errors import InputError, TargetError
from syncnas_tvm.targets import load_target
from syncnas_tvm.targets.loader import TRAINED
from syncnas_tvm.work import Epilogue, Kernel, Lane

BARE = replace(RK3399.cpu_peak, efficiency={})


def shipped(name: str) -> LearnedModel:
    return LearnedModel.load(TRAINED / f"{name}.npz")


@pytest.fixture(scope="module")
def samples() -> Dataset:
    """A device of our own: smooth in the shape, slower where channels fit no vector, 2 % noise."""
    random = np.random.default_rng(1)
    found: dict[Kernel, float] = {}
    for _ in range(160):
        into, out = (int(8 * random.integers(1, 60)) for _ in range(2))
        side, window = int(random.choice([7, 14, 28, 56])), int(random.choice([1, 1, 3]))
        kernel = conv(into, out, side=side, window=window)
        if random.random() < 0.3:
            kernel = depthwise(into, side=side)
        gflops = 20 * into / (into + 30) * (1.0 if out % 16 == 0 else 0.8)
        gflops *= 0.2 if kernel.is_depthwise else 1.0
        found[kernel] = kernel.flops / gflops / 1e3 * float(np.exp(random.normal(0, 0.02)))
    return Dataset(tuple(Sample(kernel, "device", us) for kernel, us in found.items()))


def band(kernel: Kernel, rows: int) -> Kernel:
    """So many rows of a convolution with stride 1, with the halo that its window needs."""
    data, weight, out = kernel.shapes
    height = min(data[2], rows + weight[2] - 1)
    shapes = ((*data[:2], height, data[3]), weight, (*out[:2], rows, out[3]))
    return replace(kernel, shapes=shapes)


class TestFeatures:
    def test_of_a_convolution(self) -> None:
        found = {k: float(v[0]) for k, v in features([conv(24, 144, side=14)]).items()}
        assert found["pixels"] == pytest.approx(np.log2(196))
        assert found["flops"] == pytest.approx(np.log2(2 * 24 * 144 * 196))
        assert found["bytes"] == pytest.approx(np.log2(4 * (24 * 196 + 24 * 144 + 144 * 196)))
        assert found["intensity"] == pytest.approx(found["flops"] - found["bytes"])
        assert (found["two_out"], found["two_in"], found["to_8_columns"]) == (4, 3, np.log2(7))
        assert found["waste_4_columns"] == pytest.approx(16 / 14)
        assert found["pointwise"] == 1

    def test_halves_move_half_the_bytes(self) -> None:
        wide, half = conv(24, 144), replace(conv(24, 144), dtype="float16")
        found = features([wide, half])
        assert found["bytes"][0] - found["bytes"][1] == 1
        assert found["flops"][0] == found["flops"][1]

    def test_a_depthwise_convolution_has_one_channel_in_and_its_outputs_tiles(self) -> None:
        found = {k: float(v[0]) for k, v in features([depthwise(96)]).items()}
        assert (found["in"], found["depthwise"], found["two_in"]) == (0, 1, 5)

    @pytest.mark.parametrize(
        ("kernel", "expected"),
        [
            (conv(64, 96, window=3), True),
            (conv(64, 96, "gpu", window=3), False),
            (conv(16, 96, window=3), False),
            (conv(64, 96, window=1), False),
            (depthwise(96), False),
            (dense(64, 96), False),
        ],
    )
    def test_winograd_is_what_the_compilers_schedule_takes(
        self, kernel: Kernel, expected: bool
    ) -> None:
        assert is_winograd(kernel) == expected

    @given(st.lists(kernels.filter(is_learnable), max_size=8))
    @settings(deadline=None)
    def test_many_kernels_have_the_columns_of_each(self, wanted: list[Kernel]) -> None:
        found = columns_of(wanted)
        for index, kernel in enumerate(wanted):
            one = columns_of([kernel])
            assert {name: one[name][0] for name in one} == {n: found[n][index] for n in found}
            assert one["macs"] == kernel.macs

    def test_attributes_are_read_or_guessed(self) -> None:
        bare = replace(conv(64, 64, side=28, window=3), attrs=())
        shapes = (*bare.shapes[:2], (1, 64, 14, 14))
        told = (("strides", (2, 2)), ("padding", (3, 2, 3, 2)), ("nonzero", 0.5))
        measured = (("algorithm", "winograd"), ("strides", (2, 2)))
        given = [replace(bare, shapes=shapes, attrs=a) for a in ((), told, measured)]
        found = columns_of([bare, *given])
        assert found["stride"].tolist() == [1, 2, 2, 2]
        assert found["pad"].tolist() == [1, 1, 3, 1]
        assert found["winograd"].tolist() == [1, 0, 0, 1]
        assert (found["macs"] / found["macs"][1]).tolist() == [4, 1, 0.5, 1]

    def test_other_operators_have_none(self) -> None:
        with pytest.raises(ValueError, match="no features are defined for add"):
            columns_of([conv(8, 8), add(8)])

    def test_bands_of_rows_keep_what_they_share_with_the_whole(self) -> None:
        whole = replace(conv(16, 32, window=3), attrs=(("strides", (1, 1)), ("padding", (1,) * 4)))
        shapes = ((1, 16, 9, 14), whole.shapes[1], (1, 32, 7, 14))
        band = replace(whole, shapes=shapes, attrs=(("strides", (1, 1)), ("padding", (0, 1, 0, 1))))
        found = features([whole, band])
        for name in ("pad", "stride", "columns", "window", "in", "out"):
            assert found[name][0] == found[name][1], name


@pytest.mark.parametrize("matern", [True, False])
class TestGaussianProcess:
    def test_follows_a_smooth_function_of_one_of_its_inputs(self, matern: bool) -> None:
        random = np.random.default_rng(0)
        x = random.normal(size=(80, 4))
        y = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
        found = GaussianProcess.fit(x[:60], x[:60, 1:2], y[:60], matern=matern)
        mean, far = found.predict(x[60:], x[60:, 1:2])
        assert np.abs(mean - y[60:]).mean() < 0.05
        assert ((far >= 0) & (far <= 1)).all()
        lengths = found.scale
        assert lengths[0] < lengths[2:].min()  # inputs 2 and 3 say nothing
        again = GaussianProcess.from_arrays(found.to_arrays()).predict(x[60:], x[60:, 1:2])
        assert np.array_equal(again[0], mean)

    def test_predicts_what_the_formula_says(self, matern: bool) -> None:
        random = np.random.default_rng(0)
        x, new = random.normal(size=(300, 5)), random.normal(size=(150, 5))
        found = GaussianProcess.fit(x, x[:, :1], np.cos(x[:, 0]), matern=matern, steps=5)
        points = x / found.scale
        squares = ((new[:, None] / found.scale - points) ** 2).sum(2)
        root = np.sqrt(3 * squares)
        near = (1 + root) * np.exp(-root) if matern else 1 / (1 + squares / 2)
        basis = (new[:, :1] - found.basis_center) / found.basis_scale
        wanted = found.signal * near @ found.weights + basis @ found.slopes[1:] + found.slopes[0]
        mean, far = found.predict(new, new[:, :1])
        assert mean == pytest.approx(wanted + found.mean, abs=1e-3)
        assert far == pytest.approx(1 - near.max(1) ** 2, abs=1e-3)

    def test_knows_its_own_points(self, matern: bool) -> None:
        x = np.random.default_rng(0).normal(size=(30, 2))
        found = GaussianProcess.fit(x, x, x[:, 0], matern=matern)
        mean, far = found.predict(x, x)
        assert mean == pytest.approx(x[:, 0], abs=0.05)
        assert far.max() < 1e-3
        assert found.predict(x + 100, x)[1].min() > 0.99


class TestMonotone:
    LADDERS = st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.floats(1, 1e4)),
        min_size=1,
        max_size=25,
    )

    @given(LADDERS)
    @settings(deadline=None)
    def test_no_cut_costs_more_than_what_it_is_cut_from(
        self, rungs: list[tuple[int, int, int, float]]
    ) -> None:
        wanted = [
            Kernel(
                "nn.conv2d",
                ((1, 8 * i, rows, 9), (8 * o, 8 * i, 1, 1), (1, 8 * o, rows, 9)),
                "float32",
                "cpu",
            )
            for i, o, rows, _ in rungs
        ]
        us = np.array([rung[3] for rung in rungs])
        found = monotone(wanted, us)
        for a, x in zip(rungs, found, strict=True):
            for b, y in zip(rungs, found, strict=True):
                if all(p <= q for p, q in zip(a[:3], b[:3], strict=True)):
                    assert x <= y * (1 + 1e-9)
        assert monotone(wanted, found) == pytest.approx(found)
        assert (found >= us.min() * 0.999).all()
        assert (found <= us.max() * 1.001).all()

    @given(st.integers(0, 2**32 - 1), st.integers(1, 60))
    @settings(deadline=None)
    def test_a_grid_finds_what_comparing_each_with_each_does(self, seed: int, count: int) -> None:
        random = np.random.default_rng(seed)
        place = random.integers(0, (3, 8, 5), (count, 3), dtype=np.int16).T
        found = zip(_on_a_grid(place), _each_with_each(place), strict=True)
        assert all(np.array_equal(a, b) for a, b in found)

    def test_large_families_are_monotone_too(self) -> None:
        random = np.random.default_rng(0)
        sizes = random.integers(1, 30, (1000, 2))
        us = random.uniform(1, 2, 1000)
        found = monotone([conv(8 * int(i), 8 * int(o)) for i, o in sizes], us)
        smaller = (sizes[:, None] <= sizes[None]).all(2)
        assert (found[:, None] <= found[None] * (1 + 1e-9))[smaller].all()
        assert found.std() < us.std()

    def test_kernels_that_are_alike_take_the_same(self) -> None:
        found = monotone([conv(8, 8)] * 3, np.array([1.0, 2.0, 4.0]))
        assert found == pytest.approx(2.0)

    def test_other_widths_and_windows_are_left_alone(self) -> None:
        wanted = [conv(64, 32), conv(64, 64, side=7), conv(64, 64, window=3), depthwise(64)]
        us = np.array([40.0, 30.0, 20.0, 10.0])
        assert np.array_equal(monotone(wanted, us), us)

    def test_lanes_are_apart(self) -> None:
        """A lane may compute with Winograd's transform what the other one computes as it is."""
        wanted = [conv(64, 64, lane, window=3) for lane in ("cpu", "gpu")]
        us = np.array([10.0, 40.0])
        assert np.array_equal(monotone(wanted, us), us)

    def test_a_step_back_is_levelled_between_both(self) -> None:
        wanted = [conv(64, out) for out in (32, 64, 96)]
        assert monotone(wanted, np.array([10.0, 40.0, 10.0])) == pytest.approx([10, 20, 20])


class TestLearnedModel:
    def test_learns_what_a_roofline_cannot(self, samples: Dataset) -> None:
        us, std_us = cross_validate(samples, lambda: LearnedModel(BARE), folds=3)
        found = Accuracy.of(us, std_us, samples.latency_us)
        roof = Roofline(RK3399).predict(samples.kernels)[0]
        assert found.mape < 0.08
        assert found.mape < 0.3 * np.abs(roof / samples.latency_us - 1).mean()
        assert found.spearman > 0.99
        assert 0.8 <= found.covered <= 0.99

    def test_its_deviation_is_of_what_was_measured(self, samples: Dataset) -> None:
        """Labels freed of noise are learned, but intervals still have to hold the noise."""
        noise = np.exp(np.random.default_rng(0).normal(0, 0.3, len(samples)))
        noisy = replace(samples, samples=tuple(
            replace(s, latency_us=s.latency_us * n) for s, n in zip(samples, noise, strict=True)
        ))  # fmt: skip
        true = dict(zip(map(workload, samples.kernels), samples.latency_us, strict=True))

        def labels(data: Dataset) -> np.ndarray:
            return np.array([true[workload(kernel)] for kernel in data.kernels])

        us, std_us = cross_validate(noisy, lambda: LearnedModel(BARE), folds=3, labels=labels)
        assert np.abs(us / samples.latency_us - 1).mean() < 0.08
        assert 0.8 <= Accuracy.of(us, std_us, noisy.latency_us).covered <= 0.97

    def test_is_kept_in_a_file(self, samples: Dataset, tmp_path: Path) -> None:
        model = LearnedModel(BARE, about={"chip": "x"}).fit(samples.kernels, samples.latency_us)
        path = tmp_path / "model.npz"
        model.save(path)
        again = LearnedModel.load(path)
        wanted = [conv(64, 100), depthwise(333), dense(9, 9), add(5)]
        for a, b in zip(model.predict(wanted), again.predict(wanted), strict=True):
            assert np.array_equal(a, b)
        assert (again.peak, again.about) == (model.peak, {"chip": "x"})
        assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]
        model.fit(samples.kernels, samples.latency_us).save(tmp_path / "again.npz")
        assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()

    def test_files_that_are_no_models(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "model.npz"
        for content in (b"", b"text", (TRAINED / "rk3399-cpu-float32.npz").read_bytes()[:5000]):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"model\.npz is no cost model"):
                LearnedModel.load(path)
        monkeypatch.setattr("syncnas_tvm.cost_models.learned.VERSION", 99)
        with pytest.raises(
            InputError, match="trained on features of version 2, this is version 99"
        ):
            shipped("rk3399-cpu-float32")

    def test_too_few_kernels_and_nothing_learned(self, samples: Dataset) -> None:
        with pytest.raises(InputError, match="39 kernels are too few"):
            LearnedModel(BARE).fit(samples.kernels[:39], samples.latency_us[:39])
        with pytest.raises(InputError, match="not learned anything"):
            LearnedModel(BARE).predict([conv(8, 8)])

    @given(wanted=st.lists(kernels, min_size=1, max_size=6))
    @settings(deadline=None, max_examples=60)
    def test_is_never_above_the_peak(self, wanted: list[Kernel]) -> None:
        model = shipped_once("rk3399-cpu-float32")
        us, _ = model.predict(wanted)
        for kernel, latency_us in zip(wanted, us, strict=True):
            gain = WINOGRAD_GAIN if is_winograd(kernel) else 1
            assert 2 * kernel.macs / latency_us <= model.peak.gflops * 1e3 * gain * (1 + 1e-9)

    def test_outside_of_the_training_range_the_roofline_counts(self) -> None:
        model = shipped_once("rk3399-cpu-float32")
        near, far, further = conv(64, 384), conv(20_000, 384), conv(90_000, 90_000)
        shares = model.outside([near, far, further, dense(64, 64), add(8)])
        assert shares[0] == 0
        assert 0 < shares[1] < shares[2] <= 0.5
        assert shares[3:].tolist() == [1, 1]
        (us,), (roof,) = (m([dense(64, 64)])[0] for m in (model.predict, roofline(model).predict))
        assert us == pytest.approx(roof)
        us, std_us = model.predict([near, far, further])
        assert std_us[0] / us[0] < std_us[1] / us[1] < std_us[2] / us[2]

    @pytest.mark.parametrize(("lane", "power"), [("cpu", 0.97), ("gpu", 0.88)])
    def test_a_band_follows_its_square_kernel_by_the_law(self, lane: Lane, power: float) -> None:
        """No data have bands: whatever else the features of a band are, they are not asked."""
        model = TargetModel(RK3399)
        whole = [conv(96, 576, lane, side=14), depthwise(144, lane, side=56)]
        for rows in (1, 5, 13):
            bands = [band(kernel, rows) for kernel in whole]
            us, std_us = model.predict(bands)
            square_us, square_std_us = model.predict(whole)
            share = np.array([rows / k.out_shape[2] for k in whole])
            assert us == pytest.approx(square_us * share**power)
            assert (std_us / us > square_std_us / square_us).all()

    def test_kernels_that_are_alike_are_asked_for_once(self) -> None:
        zeros = replace(conv(96, 96, window=3), attrs=(("nonzero", 0.5),))
        wanted = [conv(96, 96), band(conv(96, 96), 5), conv(96, 88), conv(96, 96, window=3), zeros]
        wanted += [conv(96, 96, "gpu"), replace(conv(96, 96), epilogue=()), dense(96, 96)]
        first, place = distinct(squared(columns_of(wanted)))
        groups = [sorted(np.flatnonzero(place == n).tolist()) for n in range(len(first))]
        assert sorted(groups) == [[0, 1, 6], [2], [3], [4], [5], [7]]
        assert all(place[f] == n for n, f in enumerate(first))

    def test_numbers_beyond_those_of_a_machine(self) -> None:
        columns = [np.array([0.0, 2.0**31, 2.0**31, 7.0])] * 3 + [np.array([0.0, 1.0, 1.0, 1.0])]
        assert len(set(numbers_of(columns).tolist())) == 3
        assert numbers_of(columns)[1] == numbers_of(columns)[2]

    def test_learns_from_bands_too(self, samples: Dataset) -> None:
        """Half of the kernels as bands that keep to the law: the others are predicted as without."""
        kernels, us = samples.kernels, samples.latency_us.copy()
        plain = LearnedModel(BARE).fit(kernels, us)
        cut = [k.op == "nn.conv2d" and k.out_shape[2] % 2 == 0 for k in kernels]
        mixed = [
            band(k, k.out_shape[2] // 2) if c else k for k, c in zip(kernels, cut, strict=True)
        ]
        us[cut] *= 0.5**0.97
        found = LearnedModel(BARE).fit(mixed, us)
        assert found.predict(kernels)[0] == pytest.approx(plain.predict(kernels)[0], rel=1e-3)

    def test_a_fused_residual_takes_its_bytes_and_other_epilogues_nothing(self) -> None:
        model = shipped_once("rk3399-cpu-float32")
        bare = replace(conv(64, 384), epilogue=())
        residual = replace(bare, epilogue=(Epilogue("add", (bare.out_shape,)),))
        one, clipped, added = (model.predict([k])[0][0] for k in (bare, conv(64, 384), residual))
        assert clipped == one
        assert added - one == pytest.approx(4e-3 * 384 * 196 / model.peak.gbytes_per_s)


MODELS: dict[str, LearnedModel] = {}


def shipped_once(name: str) -> LearnedModel:
    if name not in MODELS:
        MODELS[name] = shipped(name)
    return MODELS[name]


def roofline(model: LearnedModel) -> Roofline:
    return Roofline(replace(RK3399, cpu_peak=model.peak))


def test_intervals_hold_nine_of_ten_errors_whatever_their_distribution() -> None:
    random = np.random.default_rng(0)
    far = random.uniform(0, 1, 4000)
    off = random.standard_t(3, 4000) * np.sqrt(0.02**2 + far * 0.2**2)
    found = Uncertainty.of(off[:2000], far[:2000])
    inside = np.abs(off[2000:]) <= 1.645 * found.std(far[2000:])
    assert inside.mean() == pytest.approx(0.9, abs=0.03)
    near, distant = (inside[(far[2000:] > 0.5) == half].mean() for half in (False, True))
    assert abs(near - distant) < 0.1


class TestWhatShips:
    @pytest.mark.parametrize("device", SHIPPED, ids=lambda d: d.name)
    def test_a_model_and_a_card_that_belong_together(self, device: object) -> None:
        model = shipped(device.name)  # type: ignore[attr-defined]
        card = (TRAINED / f"{device.name}.md").read_text()  # type: ignore[attr-defined]
        assert f"on {model.about['kernels']} distinct kernels" in card
        assert model.about["data_sha256"][:16] in card
        assert all(word in card for word in ("| pointwise |", "| all |", "trained 20"))
        assert model.peak.gflops == device.peak.gflops  # type: ignore[attr-defined]

    def test_measured_convolutions_of_the_rk3399(self) -> None:
        # TopHub: 1x1, 64 to 384 channels at 14x14, on the CPU and the Mali; depthwise, Mali
        cpu, gpu = shipped_once("rk3399-cpu-float32"), shipped_once("mali-t860-float32")
        assert cpu.predict([conv(64, 384)])[0] == pytest.approx([504], rel=0.05)
        wanted = [conv(64, 384, "gpu"), depthwise(384, "gpu")]
        assert gpu.predict(wanted)[0] == pytest.approx([748, 389], rel=0.1)

    @pytest.mark.parametrize("name", ["rk3399", "android-adreno", "android-mali"])
    def test_targets_take_them(self, name: str) -> None:
        target = load_target(name)
        model = cost_model_of(target)
        assert isinstance(model.alone, TargetModel)
        for lane in ("cpu", "gpu"):
            learned = target.learned[lane]  # type: ignore[index]
            alone = LearnedModel.load(learned.models["float32"])
            wanted = [conv(64, 384, lane), depthwise(96, lane)]  # type: ignore[arg-type]
            us, std_us = alone.predict(wanted)
            factor = learned.network_bias / learned.speed
            found = model.predict(wanted)
            assert found[0] == pytest.approx(us * factor)
            assert found[1] == pytest.approx(std_us * factor)
            assert model.alone.predict(wanted)[0] == pytest.approx(us / learned.speed)
        half = replace(conv(64, 384, "gpu"), dtype="float16")
        assert model.alone.outside([half, conv(64, 384), add(4)]).tolist() == [0, 0, 1]
        assert model.predict([half])[0] < model.predict([replace(half, dtype="float32")])[0]
        assert "1 of 2 kernels lie outside" in model.describe([conv(64, 384), dense(8, 8), add(4)])

    def test_a_type_without_a_model_has_the_roofline_and_the_lanes_bias(self) -> None:
        target = load_target("android-adreno")
        half = replace(conv(64, 384), dtype="float16")
        roof = Roofline(target).predict([half])[0]
        bias = target.learned["cpu"].network_bias
        assert cost_model_of(target).predict([half])[0] == pytest.approx(roof * bias)

    def test_the_host_measures_and_has_its_roofline(self) -> None:
        assert isinstance(cost_model_of(load_target("host")), Roofline)

    def test_a_target_of_ones_own(self, tmp_path: Path) -> None:
        path = tmp_path / "my.toml"
        path.write_text(
            'inherits = "rk3399"\n[learned.cpu]\nfloat32 = "mine.npz"\nnetwork_bias = 2\n'
        )
        with pytest.raises(
            TargetError, match=r"'learned.cpu.float32': .*mine.npz is no cost model"
        ):
            cost_model_of(load_target(path))
        (tmp_path / "mine.npz").write_bytes((TRAINED / "kirin970-cpu-float32.npz").read_bytes())
        found = cost_model_of(load_target(path)).predict([conv(64, 384)])[0]
        expected = shipped_once("kirin970-cpu-float32").predict([conv(64, 384)])[0]
        assert found == pytest.approx(2 * expected)

    @pytest.mark.parametrize(
        ("line", "message"),
        [("float23 = 'x'", "did you mean 'float32'"), ("speed = 0", "must be a number from 0.001")],
    )
    def test_wrong_keys(self, tmp_path: Path, line: str, message: str) -> None:
        path = tmp_path / "my.toml"
        path.write_text(f'inherits = "rk3399"\n[learned.cpu]\n{line}\n')
        with pytest.raises(TargetError, match=message):
            load_target(path)


class TestFewShot:
    def device(self, wanted: list[Kernel]) -> np.ndarray:
        """A device like the RK3399's CPU: twice as fast, but not in depthwise convolutions."""
        us, _ = shipped_once("rk3399-cpu-float32").predict(wanted)
        return us * [1.0 if k.is_depthwise else 0.5 for k in wanted]

    WANTED = (
        *(
            conv(i, o, side=s)
            for i in (16, 64, 256)
            for o in (24, 96, 384)
            for s in (7, 14, 28, 56)
        ),
        *(depthwise(c, side=s) for c in (32, 96, 384) for s in (7, 14, 28, 56)),
    )

    def test_twenty_kernels_are_enough(self) -> None:
        priors = [shipped_once(f"{n}-cpu-float32") for n in ("snapdragon835", "kirin970", "rk3399")]
        wanted = list(self.WANTED)
        chosen = choose_kernels(wanted, 20, priors, seed=1)
        assert len(set(chosen)) == 20
        assert any(wanted[i].is_depthwise for i in chosen)
        few = [wanted[i] for i in chosen]
        model = FewShotModel(priors).fit(few, self.device(few))
        us, std_us = model.predict(wanted)
        off = np.abs(us / self.device(wanted) - 1)
        assert off.mean() < 0.1
        assert (std_us > 0).all()
        plain = np.exp(np.mean([np.log(p.predict(wanted)[0]) for p in priors], axis=0))
        assert off.mean() < 0.25 * np.abs(plain / self.device(wanted) - 1).mean()

    def test_all_kernels_where_fewer_are_wanted(self) -> None:
        priors = [shipped_once("kirin970-cpu-float32")]
        assert sorted(choose_kernels(self.WANTED[:5], 20, priors)) == [0, 1, 2, 3, 4]
        assert choose_kernels([], 20, priors) == []

    def test_chosen_kernels_tell_more_than_random_ones(self) -> None:
        """A device unlike its priors: what a kernel costs depends on the share of its channels."""
        priors = [shipped_once(f"{n}-cpu-float32") for n in ("snapdragon835", "kirin970")]
        wanted = list(self.WANTED)
        us = self.device(wanted) * [k.shapes[1][0] ** 0.2 for k in wanted]

        def off(chosen: list[int]) -> float:
            few = [wanted[i] for i in chosen]
            found, _ = FewShotModel(priors).fit(few, us[chosen]).predict(wanted)
            return float(np.abs(np.log(found / us)).mean())

        random = [np.random.default_rng(seed).permutation(len(wanted)) for seed in range(8)]
        blind = [off(order[:8].tolist()) for order in random]
        assert off(choose_kernels(wanted, 8, priors)) < np.median(blind)

    def test_devices_that_are_unlike_do_not_count(self) -> None:
        """The most alike half of the priors: a GPU's model beside a CPU's changes nothing."""
        cpu, gpu = (shipped_once(f"{n}-float32") for n in ("kirin970-cpu", "mali-t860"))
        wanted = list(self.WANTED)
        us, few = self.device(wanted), slice(0, None, 3)
        alone, both = (
            FewShotModel(priors).fit(wanted[few], us[few]).predict(wanted)[0]
            for priors in ([cpu], [gpu, cpu])
        )
        assert both == pytest.approx(alone)

    def test_its_deviation_is_what_the_measured_kernels_show(self) -> None:
        prior = shipped_once("rk3399-cpu-float32")
        wanted = list(self.WANTED)
        noise = np.exp(np.random.default_rng(0).normal(0, 0.3, len(wanted)))
        us = prior.predict(wanted)[0]
        near, far = (
            FewShotModel([prior]).fit(wanted, given).predict(wanted) for given in (us, us * noise)
        )
        assert (near[1] / near[0]).max() < 0.06
        assert 0.2 < (far[1] / far[0]).min() < 0.45

    def test_other_operators_get_the_devices_speed(self) -> None:
        prior = shipped_once("rk3399-cpu-float32")
        wanted = list(self.WANTED[:36:3])
        model = FewShotModel([prior]).fit(wanted, prior.predict(wanted)[0] / 3)
        assert model.predict([add(99)])[0] == pytest.approx(
            prior.predict([add(99)])[0] / 3, rel=0.02
        )

    def test_too_few(self) -> None:
        with pytest.raises(InputError, match="2 kernels and 1 models"):
            FewShotModel([shipped_once("rk3399-cpu-float32")]).fit(
                list(self.WANTED[:2]), np.ones(2)
            )
