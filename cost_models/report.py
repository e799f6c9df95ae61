"""``python -m syncnas_tvm.cost_models.report``: how good cost models are, as Markdown and pictures.

For each model: predicted over measured latency of kernels that the model has not seen (10 folds grouped
by workload), one panel per kind of kernel, and a histogram of the errors. Needs matplotlib: ``pip
install 'syncnas-tvm[report]'``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from syncnas_tvm.cli import Command, Parser, check_writable, end, run_command
from syncnas_tvm.cost_models.base import Microseconds, kind_of
from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.cost_models.devices import SHIPPED
from syncnas_tvm.cost_models.evaluation import Accuracy, by_kind, cross_validate
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.train import NAMES, labels_of, read_data, samples_of
from syncnas_tvm.errors import InputError

COLUMNS = ("model", "kind", "kernels", "mean error", "median", "within 10 %", "rank correlation", "90 % interval covers")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A model's samples with what they were predicted at by a model that had not seen them."""

    name: str
    samples: Dataset
    predicted_us: Microseconds
    accuracy: Mapping[str, Accuracy]


def make_parser() -> Parser:
    """The flags."""
    parser = Parser("cost_models.report", "Report how good cost models are on unseen kernels.")
    parser.add_argument(
        "data", type=Path, nargs="+", help="TopHub logs (.log) and files of kernels (.jsonl)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where report.md and PNGs go"
    )
    parser.add_argument("--models", nargs="+", default=NAMES, metavar="NAME", choices=NAMES)
    parser.add_argument("--seed", type=int, default=0, help="of the folds (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    check_writable("--output", options.output)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "the report needs matplotlib; pip install 'syncnas-tvm[report]'"
        ) from error
    data = read_data(options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    results = []
    for device in SHIPPED:
        if device.name in options.models:
            command.interrupts.check()
            samples = samples_of(data, device)
            make = partial(LearnedModel, device.peak)
            labels = labels_of(data, device)
            us, std_us = cross_validate(samples, make, options.seed, labels=labels)
            results.append(Result(device.name, samples, us, by_kind(samples, us, std_us)))
            draw(results[-1], options.output / f"{device.name}.png")
    table = markdown(results)
    (options.output / "report.md").write_text(table + "\n", encoding="utf-8")
    draw_table(results, options.output / "table.png")
    if options.json:
        found = {r.name: {k: vars(a) for k, a in r.accuracy.items()} for r in results}
        command.print_json({"output": str(options.output), "models": found})
    else:
        command.print(table)


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The table's cells below its heads."""
    return [
        (
            *(result.name, kind, str(a.kernels), f"{a.mape:.1%}", f"{a.median:.1%}"),
            *(f"{a.within_10:.0%}", f"{a.spearman:.3f}", f"{a.covered:.0%}"),
        )
        for result in results
        for kind, a in result.accuracy.items()
    ]


def markdown(results: Sequence[Result]) -> str:
    """The table, and the pictures below it."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, *rows(results))]
    lines.insert(1, "|---" * len(COLUMNS) + "|")
    pictures = [f"![{result.name}]({result.name}.png)" for result in results]
    return "\n".join([*lines, "", *pictures])


def draw(result: Result, path: Path) -> None:
    """Predicted over measured, one panel per kind of kernel, and the errors' histogram."""
    kinds = np.array([kind_of(kernel) for kernel in result.samples.kernels])
    measured = result.samples.latency_us
    names = [kind for kind in result.accuracy if kind != "all"]
    columns = 3
    figure, axes = _subplots(-(-(len(names) + 1) // columns), columns)
    for axis, kind in zip(axes, names, strict=False):
        here = kinds == kind
        span = [measured[here].min() / 1.5, measured[here].max() * 1.5]
        axis.fill_between(span, [s / 1.1 for s in span], [s * 1.1 for s in span], alpha=0.2)
        axis.loglog(measured[here], result.predicted_us[here], ".", markersize=4)
        axis.set(xlim=span, ylim=span, xlabel="measured (us)", ylabel="predicted (us)")
        axis.set_title(f"{kind}: {result.accuracy[kind].mape:.1%} of {here.sum()}", fontsize=9)
    off = 100 * (result.predicted_us / measured - 1)
    last = axes[len(names)]
    last.hist(np.clip(off, -50, 50), bins=np.arange(-50, 51, 5).tolist())
    last.set(xlabel="error (%), 50 and more at the ends", ylabel="kernels")
    last.set_title(f"all: {result.accuracy['all'].mape:.1%}", fontsize=9)
    for axis in axes[len(names) + 1 :]:
        axis.set_axis_off()
    figure.suptitle(f"{result.name}: kernels that the model has not seen; band: 10 %")
    figure.savefig(path, dpi=110)


def draw_table(results: Sequence[Result], path: Path) -> None:
    """The table as a picture."""
    cells = rows(results)
    figure, (axis,) = _subplots(1, 1, height=0.25 * len(cells) + 1, width=11)
    axis.set_axis_off()
    axis.table(cellText=cells, colLabels=COLUMNS, loc="center")
    figure.savefig(path, dpi=110)


def _subplots(
    height_in_panels: int, width_in_panels: int, height: float = 0, width: float = 0
) -> tuple[Any, list[Any]]:
    """A figure that needs no screen, and its axes in reading order."""
    from matplotlib.figure import Figure

    size = (width or 3.4 * width_in_panels, height or 3.1 * height_in_panels)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(height_in_panels, width_in_panels, squeeze=False)
    return figure, list(axes.flat)


if __name__ == "__main__":
    end(main())
