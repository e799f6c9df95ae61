"""Kernel times out of TopHub logs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spaces import scored_us

from syncnas_tvm.cost_models import Roofline, TopHubTable, read_tophub
from syncnas_tvm.errors import InputError
from syncnas_tvm.planner import CostMode
from syncnas_tvm.targets import load_target
from syncnas_tvm.work import Epilogue, Kernel, Lane

RK3399 = load_target("rk3399")
CPU = "llvm -model=rk3399 -mtriple=aarch64-linux-gnu -mattr=+neon"
GPU = "opencl -model=rk3399 -device=mali"


def row(target: str, into: int, out: int, us: float, dtype: str = "float32", k: int = 1) -> str:
    """A log's row: a k x k convolution of 28 x 28 pixels."""
    arguments = [
        ["TENSOR", [1, into, 28, 28], dtype],
        ["TENSOR", [out, into, k, k], dtype],
        *([1, 1], [k // 2] * 4, [1, 1], dtype),
    ]
    entry: dict[str, Any] = {"input": [target, "conv2d_nchw_spatial_pack.x", arguments, {}]}
    return json.dumps({**entry, "result": [[us * 1e-6], 0, 1, 1]})


def conv(into: int, out: int, lane: Lane = "cpu", rows: int = 28, k: int = 1) -> Kernel:
    """The same as the planner has it; fewer rows are a band at the image's border."""
    shapes = ((1, into, rows + k // 2, 28), (out, into, k, k), (1, out, rows, 28))
    attrs = (("strides", (1, 1)), ("padding", (k // 2, k // 2, 0, k // 2)))
    return Kernel(
        "nn.conv2d", shapes, "float32", lane, attrs, (Epilogue("add", ((1, out, 1, 1),)),)
    )


def table(tmp_path: Path, *lines: str, **options: Any) -> TopHubTable:
    log = tmp_path / "log"
    log.write_text("\n".join(["# a comment", *lines, ""]))
    found = read_tophub([log], RK3399, **options).alone
    assert isinstance(found, TopHubTable)
    return found


def us(found: TopHubTable, kernel: Kernel) -> float:
    return float(found.predict([kernel])[0][0])


LINES = [
    *(row(CPU, 64, out, 10.0 * out**0.95) for out in (64, 96, 384)),
    *(row(CPU, into, 64, 10.0 * into) for into in (96, 384)),
    row(GPU, 64, 384, 9000.0),
    row(GPU, 64, 384, 5000.0, "float16"),
    row(GPU.replace("rk3399", "other"), 64, 96, 1.0),
    row(CPU, 64, 64, 9999.0),
]


def test_rows_are_found_without_epilogue_and_the_fastest_counts(tmp_path: Path) -> None:
    found = table(tmp_path, *LINES)
    assert us(found, conv(64, 384)) == pytest.approx(10 * 384**0.95)
    assert us(found, conv(64, 64)) == pytest.approx(10 * 64**0.95)
    assert us(found, conv(64, 384, "gpu")) == 9000
    assert us(table(tmp_path, *LINES, gpu_dtype="float16"), conv(64, 384, "gpu")) == 5000


def test_half_the_channels_or_rows_take_a_little_more_than_half(tmp_path: Path) -> None:
    f32, f16 = table(tmp_path, *LINES), table(tmp_path, *LINES, gpu_dtype="float16")
    whole = us(f32, conv(64, 384, "gpu"))
    for half in (conv(64, 192, "gpu"), conv(32, 384, "gpu"), conv(64, 384, "gpu", rows=14)):
        assert us(f32, half) / whole == pytest.approx(0.545, abs=0.01)
        assert us(f16, half) / 5000 == pytest.approx(0.59, abs=0.01)


@given(st.lists(st.tuples(*[st.sampled_from([8, 24, 64, 96, 200, 384, 500])] * 2, st.sampled_from([7, 13, 28])), min_size=2, max_size=2), st.sampled_from(["cpu", "gpu"]), st.sampled_from([1, 5]))  # fmt: skip
def test_a_cut_never_takes_longer_than_the_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, ...]], lane: Lane, k: int
) -> None:
    slow = row(CPU, 64, 200, 1e5)  # slower than 384 channels
    found = table(tmp_path_factory.mktemp("log"), *LINES, slow)
    less, more = (tuple(map(pick, *sizes)) for pick in (min, max))
    assert us(found, conv(*less[:2], lane, less[2], k)) <= us(
        found, conv(*more[:2], lane, more[2], k)
    ) * (1 + 1e-9)


def test_kernels_without_relatives_get_the_roofline_at_the_measured_level(tmp_path: Path) -> None:
    roofline = Roofline(RK3399)
    kernel = replace(conv(64, 384, "gpu"), epilogue=(), attrs=())
    twice = 2 * float(roofline.predict([kernel])[0][0])
    found = table(tmp_path, row(GPU, 64, 384, twice))
    unknown = conv(64, 64, "gpu", k=5)
    alone = float(roofline.predict([replace(unknown, epilogue=())])[0][0])
    assert us(found, unknown) == pytest.approx(2 * alone)
    cpu = conv(64, 64)
    assert us(found, cpu) == pytest.approx(
        float(roofline.predict([replace(cpu, epilogue=())])[0][0])
    )


def test_a_network_is_slower_but_not_in_the_study(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(LINES))
    model, kernel = read_tophub([tmp_path / "log"], RK3399), conv(64, 384)
    alone = us(table(tmp_path, *LINES), kernel)
    assert scored_us(kernel, CostMode("study", 500), model, RK3399) == alone
    bias = RK3399.learned["cpu"].network_bias
    assert scored_us(kernel, CostMode(), model, RK3399) == pytest.approx(bias * alone)
    assert "unfused" in model.describe([kernel])
    assert "1 of 2 kernels" in model.describe([kernel, conv(8, 8)])


def test_another_device_by_name(tmp_path: Path) -> None:
    found = table(tmp_path, *LINES, devices=["other"])
    assert us(found, conv(64, 96, "gpu")) == 1
    assert len(found) == 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no float32 kernels of pixel .*there are mali, other, rk3399"
    ):
        table(tmp_path, *LINES, devices=["pixel"])
    with pytest.raises(InputError, match="no type 'int8'"):
        table(tmp_path, *LINES, gpu_dtype="int8")
    for line in ("{", "[]", '{"input": [3]}', "text"):
        with pytest.raises(InputError, match="log: not a TopHub log"):
            table(tmp_path, line)
    with pytest.raises(InputError, match="none: not a TopHub log"):
        read_tophub([tmp_path / "none"], RK3399)
