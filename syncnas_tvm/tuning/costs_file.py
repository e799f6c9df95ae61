"""``costs.json`` beside tuning records: what transfers, enqueueing and contention cost on the device."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.errors import InputError
from syncnas_tvm.targets import Target, TargetCosts, Transfer

COSTS = "costs.json"
FORMAT = 1


def write_costs(folder: Path, target: Target, costs: TargetCosts) -> None:
    """Write what was measured on ``target``, at once or not at all."""
    data = {
        "format": FORMAT,
        "target": target.name,
        "date": datetime.now(UTC).date().isoformat(),
        "to_gpu": vars(costs.to_gpu),
        "to_cpu": vars(costs.to_cpu),
        "enqueue_us": costs.enqueue_us,
        "cpu_contention": costs.cpu_contention,
        "gpu_contention": costs.gpu_contention,
    }
    with file_written_aside(folder / COSTS) as aside:
        aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read_costs(folder: Path, target: Target) -> TargetCosts | None:
    """What was measured on ``target``; None where that is not there. Raises InputError for a file
    that is damaged."""
    path = folder / COSTS
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT or data["target"] != target.name:
            return None
        return _costs(data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it and tune again") from error


def _costs(data: dict[str, Any]) -> TargetCosts:
    def transfer(name: str) -> Transfer:
        return Transfer(float(data[name]["latency_us"]), float(data[name]["gbytes_per_s"]))

    return TargetCosts(
        transfer("to_gpu"),
        transfer("to_cpu"),
        float(data["enqueue_us"]),
        float(data["cpu_contention"]),
        float(data["gpu_contention"]),
    )
