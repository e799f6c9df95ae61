"""What ``measure`` prints: how far the prediction is off, in total, by kind, and by kernel."""

from __future__ import annotations

from collections.abc import Sequence

from syncnas_tvm.comparison import Comparison, Row
from syncnas_tvm.report import ms, shapes, table

NAMES = {
    ("cpu", "kernel"): "kernels, CPU lane",
    ("gpu", "kernel"): "kernels, GPU lane",
    ("cpu", "sync"): "joins, CPU lane",
    ("gpu", "sync"): "joins, GPU lane",
    ("host", "transfer"): "transfers",
    ("host", "enqueue"): "handing kernels to the GPU",
    ("host", "wait"): "waiting for the GPU",
}
WHATS = {"kernel": "kernel", "sync": "join", "transfer": "transfer"}


def totals_table(comparison: Comparison, predicted_us: float, measured_us: float) -> str:
    """The whole network, then every kind of step on every lane."""
    rows = [("the network", "", ms(predicted_us), ms(measured_us), off(predicted_us, measured_us), "", "")]  # fmt: skip
    for (lane, kind, direction), total in comparison.totals.items():
        alike = kind not in ("wait", "enqueue")
        rows.append((
            f"{NAMES[lane, kind]} {direction}".strip(),
            str(total.steps),
            ms(total.predicted_us),
            ms(total.measured_us),
            off(total.predicted_us, total.measured_us),
            f"{total.mean_error:.0%}" if alike else "",
            f"{total.within_10:.0%}" if alike else "",
        ))  # fmt: skip
    heads = ("", "number", "predicted", "measured", "off", "mean error", "within 10 %")
    return table(heads, rows)


def most_off_table(comparison: Comparison, count: int) -> str:
    """The steps that shift the prediction most."""
    return row_table(comparison.most_off(count), "most off")


def row_table(rows: Sequence[Row], title: str = "step") -> str:
    """A line per step; times in microseconds."""
    lines = [
        (
            row.name,
            row.lane,
            WHATS.get(row.kind, row.kind),
            row.region,
            "" if row.kernel is None else shapes(row.kernel.shapes),
            f"{row.predicted_us:.1f}",
            f"{row.measured_us:.1f}",
            f"{row.noise_us:.1f}",
            f"{row.off_us:+.1f}",
        )
        for row in rows
    ]
    heads = (
        title,
        "lane",
        "what",
        "region",
        "shapes",
        "predicted us",
        "measured us",
        "+-",
        "off us",
    )
    return table(heads, lines, left=5)


def off(predicted_us: float, measured_us: float) -> str:
    """How much longer the measured time is than the predicted one."""
    return f"{measured_us / predicted_us - 1:+.0%}" if predicted_us else "-"
