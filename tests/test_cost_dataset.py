"""Training data of cost models: importers, cleaning, files, parts that do not leak."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernels import add, conv, depthwise

from syncnas_tvm.cost_models.cleaning import clean
from syncnas_tvm.cost_models.columns import ALGORITHM, is_winograd
from syncnas_tvm.cost_models.dataset import Dataset, Sample, workload
from syncnas_tvm.cost_models.importers import import_metaschedule, import_tophub
from syncnas_tvm.cost_models.two_types import denoised
from syncnas_tvm.errors import InputError

CPU = "llvm -device=arm_cpu -model=rk3399 -mtriple=aarch64-linux-gnu"
GPU = "opencl -keys=adreno,opencl,gpu -device=adreno -max_num_threads=256"


def row(
    target: str,
    template: str,
    us: tuple[float, ...] = (100.0,),
    dtype: str = "float32",
    failed: int = 0,
    stride: int = 1,
) -> str:
    """A log's row: 3 x 3, 64 to 96 channels, 14 x 14 pixels in."""
    depth = template.startswith("depthwise")
    arguments: list[Any] = [["TENSOR", [1, 64, 14, 14], dtype]]
    arguments.append(["TENSOR", [64 if depth else 96, 1 if depth else 64, 3, 3], dtype])
    arguments += [[stride, stride], [1, 1, 1, 1], [1, 1], dtype]
    if template.startswith("dense"):
        arguments = [["TENSOR", [1, 512], dtype], ["TENSOR", [1000, 512], dtype], None, dtype]
    result = [[u * 1e-6 for u in us], failed, 1.0, 1535933156.9]
    return json.dumps({"input": [target, template, arguments, {}], "result": result})


def log(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "some.log"
    path.write_text("\n".join(["# a comment", "", *rows]))
    return path


class TestTopHub:
    def test_rows_become_samples(self, tmp_path: Path) -> None:
        data = import_tophub(
            [
                log(
                    tmp_path,
                    row(CPU, "conv2d_nchw_spatial_pack.arm_cpu", (90.0, 110.0), stride=2),
                    row(CPU, "depthwise_conv2d_nchw.arm_cpu"),
                    row(GPU, "conv2d_nchw_winograd.image2d", dtype="float16"),
                    row(GPU, "dense_small_batch.gpu"),
                )
            ]
        )
        first, depth, half, dense = data
        assert first.kernel.shapes == ((1, 64, 14, 14), (96, 64, 3, 3), (1, 96, 7, 7))
        assert dict(first.kernel.attrs)["strides"] == (2, 2)
        assert dict(first.kernel.attrs)["padding"] == (1, 1, 1, 1)
        assert (first.latency_us, first.noise_us) == (pytest.approx(100), pytest.approx(10))
        assert (first.device, first.source, first.date) == ("rk3399", "some.log", "2018-09-03")
        assert depth.kernel.is_depthwise
        assert depth.kernel.lane == "cpu"
        assert (half.device, half.kernel.lane, half.kernel.dtype) == ("adreno", "gpu", "float16")
        assert [is_winograd(s.kernel) for s in data] == [False, False, True, False]
        assert dense.kernel.shapes == ((1, 512), (512, 1000), (1, 1000))

    def test_what_is_left_out_is_counted(self, tmp_path: Path) -> None:
        data = import_tophub(
            [
                log(
                    tmp_path,
                    row(CPU, "conv2d_nchw_spatial_pack.arm_cpu", failed=4),
                    row(CPU, "conv2d_nchw_spatial_pack.arm_cpu", dtype="int8"),
                    row(CPU, "conv2d_transpose_nchw.arm_cpu"),
                    row(GPU, "conv2d_nchw.cuda"),
                    row(GPU, "conv2d_nchw.cuda"),
                )
            ]
        )
        assert not len(data)
        assert data.dropped == Counter(
            {"failed": 1, "type int8": 1, "transposed convolution": 1, "CUDA template": 2}
        )

    @pytest.mark.parametrize("line", ["{", "[]", '{"input": [3]}', "text"])
    def test_what_is_no_log(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(InputError, match=r"some\.log: not a TopHub log"):
            import_tophub([log(tmp_path, line)])


class TestCleaning:
    def test_reasons(self) -> None:
        good = Sample(conv(64, 96), "d", 100.0)
        bad = [
            replace(good, latency_us=float("nan")),
            replace(good, latency_us=-1.0),
            replace(good, kernel=replace(conv(64, 96), dtype="int8")),
            replace(good, kernel=add(64)),
            replace(good, latency_us=0.01),
        ]
        data = clean(Dataset((good, *bad)), peak_gflops=100)
        assert data.samples == (good,)
        assert sum(data.dropped.values()) == len(bad)
        assert data.dropped["faster than 100 GFLOP/s"] == 1
        assert data.dropped["no time"] == 2

    def test_winograd_may_be_four_times_as_fast(self) -> None:
        kernel = conv(64, 96, "gpu", window=3)
        us = 2e-3 * kernel.macs / 300  # 300 GFLOP/s
        for algorithm, kept in (("winograd", 1), ("direct", 0)):
            marked = replace(kernel, attrs=(*kernel.attrs, (ALGORITHM, algorithm)))
            assert len(clean(Dataset((Sample(marked, "d", us),)), peak_gflops=100)) == kept

    def test_of_several_measurements_the_fastest_counts_and_the_spread_is_its_noise(self) -> None:
        samples = tuple(Sample(conv(64, 96), "d", us, 1.0) for us in (110.0, 90.0, 100.0))
        data = clean(Dataset((*samples, Sample(conv(64, 96), "other", 7.0))))
        assert [s.latency_us for s in data] == [90.0, 7.0]
        assert data.samples[0].noise_us == pytest.approx(np.std([110, 90, 100]))
        assert data.dropped == Counter({"measured again": 2})

    def test_of_two_algorithms_the_faster_counts_without_its_name(self) -> None:
        kernels = [
            replace(conv(64, 96, "gpu", window=3), attrs=((ALGORITHM, a),))
            for a in ("winograd", "direct")
        ]
        samples = [Sample(k, "d", us) for k, us in zip(kernels, (90.0, 100.0), strict=True)]
        data = clean(Dataset(tuple(samples)))
        assert [(s.latency_us, s.kernel.attrs) for s in data] == [(90.0, ())]
        assert data.dropped == Counter({"slower algorithm": 1})
        alone = clean(Dataset((samples[0],)))
        assert alone.samples[0].kernel == kernels[0]


class TestDataset:
    DATA = Dataset(
        tuple(
            Sample(kernel, device, 10.0 + n, 0.5, "file", "2018-09-02")
            for n, kernel in enumerate([*(conv(64, out) for out in range(8, 264, 8)), depthwise(9)])
            for device in ("a", "b")
        )
    )

    def test_written_and_read(self, tmp_path: Path) -> None:
        path = tmp_path / "data.jsonl"
        self.DATA.write(path)
        assert Dataset.read(path) == self.DATA
        assert [p.name for p in tmp_path.iterdir()] == ["data.jsonl"]

    def test_a_broken_line_is_named_and_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "data.jsonl"
        self.DATA.write(path)
        lines = path.read_text().splitlines()
        lines[3] = lines[3][:40]
        path.write_text("\n".join(lines))
        data = Dataset.read(path)
        assert len(data) == len(self.DATA) - 1
        ((reason, _),) = data.dropped.items()
        assert reason.startswith(f"{path}:4 is no measurement")

    @pytest.mark.parametrize("text", ["", "{}\n", '{"format": "syncnas kernels", "version": 0}\n'])
    def test_other_files_are_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "data.jsonl"
        path.write_text(text)
        with pytest.raises(InputError, match="no file of measured kernels"):
            Dataset.read(path)

    def test_parts_never_share_a_workload(self) -> None:
        parts = self.DATA.folds(10, seed=3)
        assert sorted(np.concatenate(parts)) == list(range(len(self.DATA)))
        groups = [{workload(self.DATA.samples[i].kernel) for i in part} for part in parts]
        assert sum(map(len, groups)) == len(set().union(*groups)) == 33
        assert {len(g) for g in groups} == {3, 4}
        assert not all(
            np.array_equal(a, b) for a, b in zip(parts, self.DATA.folds(10, 4), strict=True)
        )

    def test_one_lane_of_one_device(self) -> None:
        assert len(self.DATA.of("a", "cpu", "float32")) == 33
        assert not len(self.DATA.of("a", "gpu", "float32"))


class TestTwoTypes:
    """Kernels twice as fast with halves, the more so the more channels; each type with its own noise."""

    @staticmethod
    def measured(dtype: str, seed: int) -> tuple[Dataset, np.ndarray]:
        random, samples, true = np.random.default_rng(seed), [], []
        for into in range(8, 88, 8):
            for out in range(8, 88, 8):
                kernel = replace(conv(into, out, "gpu"), dtype=dtype)
                us = kernel.macs / 1e3 / (1 if dtype == "float32" else 1.5 + into / 100)
                true.append(us)
                samples.append(Sample(kernel, "mali", us * float(np.exp(random.normal(0, 0.04)))))
        return Dataset(tuple(samples)), np.array(true)

    def test_noise_that_only_one_type_has_is_less(self) -> None:
        half, true = self.measured("float16", 1)
        single, _ = self.measured("float32", 2)
        found = denoised(half, single)
        before, after = (np.abs(np.log(us / true)).mean() for us in (half.latency_us, found))
        assert after < 0.9 * before

    def test_learns_nothing_of_other_workloads(self) -> None:
        half, _ = self.measured("float16", 1)
        single, _ = self.measured("float32", 2)
        here = half.take(range(60))
        there = replace(single, samples=single.samples[:60])
        assert np.array_equal(denoised(here, single), denoised(here, there))

    def test_few_pairs_are_left_as_they_are(self) -> None:
        half, _ = self.measured("float16", 1)
        single, _ = self.measured("float32", 2)
        few = replace(single, samples=single.samples[:20])
        assert np.array_equal(denoised(half, few), half.latency_us)


def test_metaschedule_databases_become_samples(tmp_path: Path) -> None:
    """Written by TVM's own database; a packed layout of ours is no plain convolution."""
    import tvm
    from tvm import te, topi
    from tvm.s_tir import meta_schedule as ms
    from tvm.s_tir.meta_schedule.database import TuningRecord

    def function(*shape: int, pads: int = 1) -> tvm.IRModule:
        data = te.placeholder(shape, "float32", "data")
        if len(shape) == 4:
            weight = te.placeholder((24, shape[1], 3, 3), "float32", "weight")
            out = topi.nn.conv2d_nchw(data, weight, 1, pads, 1)
        else:
            weight, out = None, te.compute(shape, lambda *i: data[*i] * 2)
        arguments = [t for t in (data, weight, out) if t is not None]
        return tvm.IRModule({"main": te.create_prim_func(arguments)})

    database = ms.database.JSONDatabase(
        str(tmp_path / "database_workload.json"), str(tmp_path / "database_tuning_record.json")
    )
    cpu, gpu = tvm.target.Target({"kind": "llvm"}), tvm.target.Target({"kind": "opencl"})
    for mod, seconds, target in (
        (function(1, 16, 14, 14), [1e-4, 3e-4, 2e-4], cpu),
        (function(1, 16, 14, 14), [4e-4], gpu),
        (function(2, 49, 8), [1e-4], cpu),
        (function(1, 16, 14, 14), [1e10], cpu),
    ):
        trace = tvm.s_tir.Schedule(mod).trace
        found = database.commit_workload(mod)
        arguments = ms.arg_info.ArgInfo.from_entry_func(mod, remove_preproc=False)
        database.commit_tuning_record(TuningRecord(trace, found, seconds, target, arguments))
    data = import_metaschedule(tmp_path, "board", "cpu")
    (sample,) = data
    assert sample.kernel.shapes == ((1, 16, 14, 14), (24, 16, 3, 3), (1, 24, 14, 14))
    assert (sample.device, sample.latency_us) == ("board", pytest.approx(200))
    assert data.dropped["of another lane"] == data.dropped["failed"] == 1
    assert data.dropped["workload that is no plain convolution or matrix product"] == 1
