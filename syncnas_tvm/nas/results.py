"""What a search found: a table, a Pareto plot, the best configuration and its drawing."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.nas.config_file import config_from_json, write_config
from syncnas_tvm.nas.drawing import draw

COLUMNS = (
    "trial", "strategy", "accuracy", "top5", "latency_us", "measured_us", "budget_us", "idle_share",
    "macs", "parameters", "seconds",
)  # fmt: skip

MEASURED = "syncnas:measured"
"""Attribute of a study: measured latency in microseconds by strategy."""


@dataclass(frozen=True)
class Result:
    """A finished evaluation. ``facts`` are what the worker noted (latency, multiply-adds, ...)."""

    trial: int
    strategy: str
    accuracy: float
    facts: dict[str, Any]

    @property
    def feasible(self) -> bool:
        """Whether the strategy fits the budget."""
        return bool(self.facts.get("feasible", True))

    @property
    def latency_us(self) -> float:
        """Measured where it was, else predicted."""
        measured = self.facts.get("measured_us")
        return float(self.facts.get("latency_us", math.nan) if measured is None else measured)

    def cells(self) -> list[Any]:
        """The result as a row of the table."""
        known = {"trial": self.trial, "strategy": self.strategy, "accuracy": self.accuracy}
        return [(known | self.facts).get(column, "") for column in COLUMNS]


def results(study: optuna.Study) -> list[Result]:
    """All finished evaluations, the best first; of equals, the faster first."""
    measured = study.user_attrs.get(MEASURED, {})

    def facts(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        us = measured.get(trial.user_attrs.get("strategy"))
        return trial.user_attrs | ({} if us is None else {"measured_us": us})

    found = [
        Result(t.number, str(t.user_attrs.get("strategy", "")), float(t.values[0]), facts(t))
        for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if t.values
    ]
    return sorted(found, key=lambda r: (-r.accuracy, r.latency_us))


def failures(study: optuna.Study) -> dict[int, str]:
    """A line for every evaluation that came to nothing, by trial."""
    return {
        t.number: f"{t.user_attrs['strategy']} failed: {t.user_attrs['error']}"
        for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        if {"strategy", "error"} <= t.user_attrs.keys()
    }


def best_of(found: list[Result]) -> Result | None:
    """The best that fits the budget, of results in their order; None where nothing does."""
    return next((r for r in found if r.feasible and r.facts.get("config")), None)


def pareto(found: list[Result]) -> list[Result]:
    """Those that no other beats in accuracy and latency, by latency."""
    front: list[Result] = []
    usable = [r for r in found if r.feasible and math.isfinite(r.latency_us)]
    for result in sorted(usable, key=lambda r: (r.latency_us, -r.accuracy)):
        if not front or result.accuracy > front[-1].accuracy:
            front.append(result)
    return front


def write_results(found: list[Result], folder: Path, title: str) -> list[Path]:
    """Write the table, plots, the best configuration and its drawing; returns what was written."""
    written = write_table(found, folder)
    best = best_of(found)
    drawn = [folder / name for name in ("best.svg", "pareto.png", "pareto.html")]
    if best is None:
        for path in drawn:
            path.unlink(missing_ok=True)
        return written
    usable = [r for r in found if r.feasible]
    with file_written_aside(drawn[0]) as aside:
        aside.write_text(draw(config_from_json(best.facts["config"])), encoding="utf-8")
    _plot_png(usable, drawn[1], title)
    _plot_html(usable, drawn[2], title)
    return [*written, *drawn]


def write_table(found: list[Result], folder: Path) -> list[Path]:
    """Write results.csv and best.json, which is removed where nothing fits; returns what was written."""
    table, config = folder / "results.csv", folder / "best.json"
    with file_written_aside(table) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(result.cells() for result in found)
    best = best_of(found)
    if best is None:
        config.unlink(missing_ok=True)
        return [table]
    write_config(config_from_json(best.facts["config"]), config)
    return [table, config]


def _plot_png(found: list[Result], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter([r.latency_us / 1e3 for r in found], [r.accuracy for r in found], s=18, alpha=0.6)
    front = pareto(found)
    axes.plot(
        [r.latency_us / 1e3 for r in front], [r.accuracy for r in front], "r.-", label="Pareto"
    )
    for result in front:
        axes.annotate(result.strategy, (result.latency_us / 1e3, result.accuracy), fontsize=7)
    axes.set(xlabel="latency (ms)", ylabel="accuracy", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with file_written_aside(path) as aside:
        figure.savefig(aside, dpi=120, format="png")


def _plot_html(found: list[Result], path: Path, title: str) -> None:
    import plotly.graph_objects as go

    front = pareto(found)
    figure = go.Figure(
        [
            go.Scatter(
                x=[r.latency_us / 1e3 for r in part],
                y=[r.accuracy for r in part],
                text=[r.strategy for r in part],
                mode=mode,
                name=name,
            )
            for part, mode, name in ((found, "markers", "all"), (front, "lines+markers", "Pareto"))
        ]
    )
    figure.update_layout(title=title, xaxis_title="latency (ms)", yaxis_title="accuracy")
    with file_written_aside(path) as aside:
        aside.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
