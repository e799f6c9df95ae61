"""Compiles searched models for this machine and runs them: what the prediction is worth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna

from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.branched import BranchedConfig
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import config_from_json
from syncnas_tvm.nas.results import MEASURED, Result
from syncnas_tvm.targets import Target


def measure_us(config: BranchedConfig, target: Target, classes: int = 1000) -> float:
    """Median measured latency in microseconds of the configuration, compiled for ``target``.

    That of the fastest plan that the compiler built. Weights are random: they do not matter for time.
    Raises InputError where the target is not this machine.
    """
    from syncnas_tvm.compiler import compile_onnx
    from syncnas_tvm.nas.onnx_export import export_onnx

    if not target.is_host:
        raise InputError(f"target '{target.name}' is not this machine: nothing can be measured")
    with tempfile.TemporaryDirectory(prefix="syncnas-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(BranchedModel(config, classes), path, config.size)
        result = compile_onnx(path, target, verify=False)
    return min(us.measured for us in result.latency_us.values() if us.measured is not None)


def measure_best(
    study: optuna.Study,
    found: list[Result],
    number: int,
    target: Target,
    say: Callable[[str], None],
) -> None:
    """Measure the ``number`` best results that fit and were not measured; the study keeps it."""
    usable = [r for r in found if r.feasible and r.facts.get("config")][:number]
    for result in usable:
        known: Mapping[str, float] = study.user_attrs.get(MEASURED, {})
        if result.strategy in known:
            continue
        us = measure_us(config_from_json(result.facts["config"]), target)
        study.set_user_attr(MEASURED, {**known, result.strategy: us})
        predicted_ms = result.facts["latency_us"] / 1e3
        say(f"{result.strategy}: {predicted_ms:.2f} ms predicted, {us / 1e3:.2f} ms measured")
