"""A predicted timeline against measured ones of the same plan, step by step and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.steps import Step, steps_of
from syncnas_tvm.timeline import SpanKind, SpanLane, Timeline
from syncnas_tvm.work import LANES, Kernel

Key = tuple[SpanLane, SpanKind, str]
Steps = Sequence[Step]


@dataclass(frozen=True)
class Row:
    """One step of both timelines: a kernel, a join, a transfer...

    ``measured_us`` is the median of the measured runs, ``noise_us`` their standard deviation, ``runs``
    the step in each of them. Where a region has not as many steps in one timeline as in the other,
    all of them are one row: ``steps`` of them were predicted, and ``runs`` is empty.
    """

    lane: SpanLane
    kind: SpanKind
    region: str
    name: str
    predicted_us: float
    measured_us: float
    noise_us: float
    steps: int = 1
    direction: str = ""
    kernel: Kernel | None = None
    runs: tuple[Step, ...] = ()

    @property
    def off_us(self) -> float:
        """Measured minus predicted."""
        return self.measured_us - self.predicted_us

    @property
    def ratio(self) -> float:
        """Measured over predicted; infinite where nothing was predicted."""
        return self.measured_us / self.predicted_us if self.predicted_us else float("inf")

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the kernel's operator and shapes where it is known."""
        names = (
            "lane",
            "kind",
            "region",
            "name",
            "steps",
            "predicted_us",
            "measured_us",
            "noise_us",
        )
        data = {name: getattr(self, name) for name in names} | {"ratio": self.ratio}
        kernel = self.kernel
        return {**data, "op": kernel and kernel.op, "shapes": kernel and kernel.shapes}


@dataclass(frozen=True)
class Total:
    """All steps of one kind on one lane, and how far off the single ones are.

    ``mean_error`` is the mean of ``|predicted / measured - 1|``, ``within_10`` the share of steps
    that are predicted within 10 %.
    """

    steps: int
    predicted_us: float
    measured_us: float
    mean_error: float
    within_10: float

    @staticmethod
    def of(rows: Sequence[Row]) -> Total:
        """Of at least one row."""
        errors = np.array(
            [abs(r.predicted_us / r.measured_us - 1) if r.measured_us else 1.0 for r in rows]
        )
        return Total(
            sum(row.steps for row in rows),
            sum(row.predicted_us for row in rows),
            sum(row.measured_us for row in rows),
            float(errors.mean()),
            float((errors < 0.1).mean()),
        )


@dataclass(frozen=True)
class Comparison:
    """``rows``: each lane's kernels and joins, then what the host thread did."""

    rows: tuple[Row, ...]

    @staticmethod
    def of(predicted: Timeline, measured: Sequence[Timeline]) -> Comparison:
        """Lay runs of one plan, at least one, over its prediction.

        Runs in which the device did something else than in most are left out. Raises ArtifactError
        where nothing was predicted.
        """
        if not predicted.spans:
            raise ArtifactError("the folder's predicted timeline is empty; compile the model again")
        return Comparison(tuple(_rows(steps_of(predicted), _alike(measured))))

    @cached_property
    def totals(self) -> Mapping[Key, Total]:
        """By lane, kind and, of transfers, direction (``cpu to gpu``): what there is any of."""
        found: dict[Key, list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.lane, row.kind, row.direction), []).append(row)
        return {key: Total.of(rows) for key, rows in found.items()}

    def most_off(self, count: int) -> list[Row]:
        """The kernels, joins and transfers that shift the prediction most, the worst first."""
        rows = [row for row in self.rows if row.kind in ("kernel", "sync", "transfer")]
        return sorted(rows, key=lambda row: -abs(row.off_us))[:count]

    def to_json(self) -> dict[str, Any]:
        """``totals`` and ``rows`` as JSON objects."""
        totals = [
            {"lane": lane, "kind": kind, "direction": direction or None, **vars(total)}
            for (lane, kind, direction), total in self.totals.items()
        ]
        return {"totals": totals, "rows": [row.to_json() for row in self.rows]}


def _alike(timelines: Sequence[Timeline]) -> list[list[Step]]:
    """The steps of those runs that did what most did."""
    runs = [steps_of(timeline) for timeline in timelines]
    did = [tuple((s.lane, s.kind, s.name) for s in steps if s.kind != "wait") for steps in runs]
    ((most, _),) = Counter(did).most_common(1)
    return [steps for steps, what in zip(runs, did, strict=True) if what == most]


def _rows(predicted: Steps, runs: Sequence[Steps]) -> Iterator[Row]:
    def pairs(
        lane: SpanLane, kind: SpanKind, part: Callable[[Step], str] = lambda step: ""
    ) -> Iterator[Row]:
        every = [[s for s in run if (s.lane, s.kind) == (lane, kind)] for run in (predicted, *runs)]
        for name in dict.fromkeys(part(step) for run in every for step in run):
            wanted, *found = ([s for s in run if part(s) == name] for run in every)
            yield from _paired(wanted, found)

    for lane in LANES:
        yield from pairs(lane, "kernel", lambda step: step.region)
        # A join belongs to the region before it or behind it: their order is what counts.
        yield from pairs(lane, "sync")
    moves = [step for run in (predicted, *runs) for step in run if step.kind == "transfer"]
    if all(step.direction for step in moves):
        yield from pairs("host", "transfer", lambda step: step.direction)
    else:
        yield from pairs("host", "transfer")
    yield from pairs("host", "enqueue")
    waits = [[s for s in run if s.kind == "wait"] for run in (predicted, *runs)]
    if any(waits):
        yield _together(waits[0], waits[1:])


def _paired(predicted: Steps, runs: Sequence[Steps]) -> Iterator[Row]:
    """One row a step where their numbers agree, else one for all."""
    if any(len(run) != len(predicted) for run in runs):
        yield _together(predicted, runs)
        return
    for step, *found in zip(predicted, *runs, strict=True):
        us = [s.us for s in found]
        yield Row(
            step.lane, step.kind, step.region, step.name, step.us,
            float(np.median(us)), float(np.std(us)),
            direction=step.direction, kernel=step.kernel, runs=tuple(found),
        )  # fmt: skip


def _together(predicted: Steps, runs: Sequence[Steps]) -> Row:
    first = next(step for run in (predicted, *runs) for step in run)
    count = max(len(predicted), *(len(run) for run in runs))
    us = [sum(step.us for step in run) for run in runs]
    return Row(
        first.lane, first.kind, first.region,
        first.name if count == 1 or first.kind == "wait" else f"{count} of {first.name}",
        sum(step.us for step in predicted), float(np.median(us)), float(np.std(us)), len(predicted),
        first.direction,
    )  # fmt: skip
