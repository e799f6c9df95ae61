"""``python -m syncnas_tvm.cost_models.train``: trains the cost models that ship, from TopHub's logs.

Equal data give equal models: seeds are fixed, and each file says what it was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from syncnas_tvm.cli import Command, Parser, check_writable, end, run_command
from syncnas_tvm.cost_models.cleaning import clean
from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.cost_models.devices import SHIPPED, Device
from syncnas_tvm.cost_models.evaluation import (
    FOLDS,
    Accuracy,
    Labels,
    by_kind,
    cross_validate,
    measured,
)
from syncnas_tvm.cost_models.features import VERSION
from syncnas_tvm.cost_models.importers import import_tophub
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.two_types import denoised
from syncnas_tvm.errors import InputError

NAMES = [device.name for device in SHIPPED]


def make_parser() -> Parser:
    """The flags."""
    parser = Parser("cost_models.train", "Train cost models from measured kernels.")
    parser.add_argument(
        "data", type=Path, nargs="+", help="TopHub logs (.log) and files of kernels (.jsonl)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where models and cards go"
    )
    parser.add_argument("--models", nargs="+", default=NAMES, metavar="NAME", choices=NAMES)
    parser.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the data as JSON lines")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def read_data(paths: Sequence[Path]) -> Dataset:
    """All samples of TopHub logs and JSON-lines files, cleaned; raises InputError."""
    data = import_tophub(path for path in paths if path.suffix != ".jsonl")
    for path in paths:
        if path.suffix == ".jsonl":
            data += Dataset.read(path)
    return clean(data)


def samples_of(data: Dataset, device: Device) -> Dataset:
    """What was measured on ``device``, without what its peak rules out; raises InputError where
    nothing was."""
    found = data.of(device.measured, device.lane, device.dtype)
    if len(found) == 0:
        raise InputError(f"no kernels of {device.measured} ({device.dtype}) are in the data")
    return clean(found, device.peak.gflops)


def labels_of(data: Dataset, device: Device) -> Labels:
    """What a model of ``device`` learns of its samples: in half precision, :func:`denoised` latencies
    where the device was also measured in single precision, else what was measured."""
    other = data.of(device.measured, device.lane, "float32")
    if device.dtype == "float32" or len(other) == 0:
        return measured
    single = clean(other, device.peak.gflops)
    return lambda samples: denoised(samples, single)


def train(data: Dataset, device: Device, folder: Path, seed: int = 0) -> Mapping[str, Accuracy]:
    """Train a model, write it and its card to ``folder``; how good it is on parts held out in turn.

    Raises InputError where the data has too few kernels of the device.
    """
    samples = samples_of(data, device)
    made, labels = partial(LearnedModel, device.peak, seed), labels_of(data, device)
    found = by_kind(samples, *cross_validate(samples, made, seed, labels=labels))
    model = made().fit(samples.kernels, samples.latency_us, labels(samples))
    model.about = _about(samples, device)
    model.save(folder / f"{device.name}.npz")
    card = _card(device, model, samples, found)
    (folder / f"{device.name}.md").write_text(card, encoding="utf-8")
    return found


def _work(command: Command) -> None:
    options = command.options
    check_writable("--output", options.output)
    data = read_data(options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.export:
        data.write(options.export)
    results = {}
    for device in SHIPPED:
        if device.name in options.models:
            command.interrupts.check()
            found = train(data, device, options.output, options.seed)
            results[device.name] = {kind: vars(accuracy) for kind, accuracy in found.items()}
            if not options.json:
                command.print(_line(device.name, found["all"]))
    dropped = dict(data.dropped)
    if options.json:
        command.print_json({"models": results, "samples": len(data), "dropped": dropped})
    elif options.verbose:
        command.print(f"{len(data)} samples; dropped: {_counts(dropped)}")


def _line(name: str, a: Accuracy) -> str:
    return (
        f"{name}: {a.kernels} kernels, mean error {a.mape:.1%}, {a.within_10:.0%} within 10 %,"
        f" rank correlation {a.spearman:.3f}"
    )


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none"


def _about(samples: Dataset, device: Device) -> dict[str, Any]:
    text = "\n".join(sorted(f"{s.kernel} {s.latency_us!r}" for s in samples))
    return {
        "chip": device.chip,
        "kernels": len(samples),
        "sources": sorted({s.source for s in samples}),
        "measured": [f(s.date for s in samples if s.date) for f in (min, max)],
        "data_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def _card(
    device: Device, model: LearnedModel, samples: Dataset, found: Mapping[str, Accuracy]
) -> str:
    about = model.about
    rows = [
        f"| {kind} | {a.kernels} | {a.mape:.1%} | {a.median:.1%} | {a.within_10:.0%} |"
        f" {a.spearman:.3f} | {a.covered:.0%} |"
        for kind, a in found.items()
    ]
    return "\n".join(
        [
            f"# {device.name}",
            "",
            f"{device.chip}, {device.lane} lane, {device.dtype}; trained"
            f" {datetime.now(UTC).date().isoformat()} on {about['kernels']} distinct kernels of"
            f" {', '.join(about['sources'])} (TopHub), measured {' to '.join(about['measured'])},"
            " each with the fastest schedule that AutoTVM found."
            + (f" Left out: {_counts(samples.dropped)}." if samples.dropped else ""),
            "",
            "The mean of two Gaussian processes and XGBoost, on log GFLOP/s; features of version"
            f" {VERSION}. SHA-256 of the data: `{about['data_sha256'][:16]}`.",
            "",
            f"Errors by kind of kernel, {FOLDS} folds grouped by workload, one repeat"
            " (`benchmarks/cost_models.py` has five, with baselines). Covered: measured latencies"
            " within the 90 % interval.",
            "",
            "| kind | kernels | mean error | median | within 10 % | rank correlation | covered |",
            "|---" * 7 + "|",
            *rows,
            "",
            "A kernel is predicted alone on an idle lane, without what is fused behind it. Outside of"
            " the training data's sizes, windows and strides the roofline counts more and more.",
            "",
        ]
    )


if __name__ == "__main__":
    end(main())
