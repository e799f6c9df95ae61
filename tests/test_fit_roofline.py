"""Fitting the targets' efficiencies to a log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kernels import dense

from syncnas_tvm.cost_models import (
    kind_of,
)
from syncnas_tvm.cost_models.fit_roofline import fit, kernel_of, read_log


class TestFit:
    def row(self, template: str, arguments: Sequence[Any], seconds: float) -> str:
        entry = {
            "input": ["llvm -model=test", template, arguments, {}],
            "result": [[seconds], 0, 1, 1],
        }
        return json.dumps(entry)

    def test_rows_become_kernels(self) -> None:
        def tensor(*shape: int) -> list[Any]:
            return ["TENSOR", list(shape), "float32"]

        data = tensor(1, 32, 112, 112)
        strided = kernel_of(
            "depthwise_conv2d_nchw.x", [data, tensor(32, 1, 3, 3), [2, 2], [1, 1, 1, 1]], "cpu"
        )
        assert strided is not None
        assert strided.out_shape == (1, 32, 56, 56)
        assert kind_of(strided) == "depthwise"
        assert kernel_of("dense.x", [tensor(1, 64), tensor(10, 64)], "gpu") == dense(64, 10, "gpu")
        assert kernel_of("conv2d_nchw_winograd.x", [data, data], "cpu") is None
        half = ["TENSOR", [1, 32, 112, 112], "float16"]
        assert kernel_of("conv2d_nchw.x", [half, half], "cpu") is None

    def test_the_efficiency_behind_a_log_is_found(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = ["# a comment"]
        for out in (64, 128, 256, 512):
            arguments = [
                ["TENSOR", [1, 64, 28, 28], "float32"],
                ["TENSOR", [out, 64, 1, 1], "float32"],
                [1, 1],
                [0, 0],
            ]
            us = 2 * 64 * out * 28 * 28 / (100e3 * 0.4) + 5
            lines.append(self.row("conv2d_nchw_spatial_pack.x", arguments, us * 1e-6))
            lines.append(self.row("conv2d_nchw_spatial_pack.x", arguments, us * 2e-6))
        log = tmp_path / "log"
        log.write_text("\n".join(lines))
        rows = read_log(log, "model=test", "cpu")
        assert len(rows) == 4
        fit(rows, 100.0, 1000.0, 5.0)
        printed = capsys.readouterr().out
        assert printed.startswith(("pointwise = 0.40", "pointwise = 0.39"))
        assert "4 kernels, 1 % mean error" in printed
