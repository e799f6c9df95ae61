"""What a tuning has to say in the end: as JSON and in lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from syncnas_tvm.targets import Target, TargetCosts, Transfer
from syncnas_tvm.tuning.session import Summary

SHOWN = 3
"""Reasons of failures that are shown, unless all are wanted."""


def result_json(
    model: Path,
    target: Target,
    output: Path,
    summary: Summary,
    costs: TargetCosts,
    models: Sequence[Path],
) -> dict[str, Any]:
    """What ``tune --json`` prints."""
    return {
        "model": str(model),
        "target": target.name,
        "output": str(output),
        "kernels": summary.kernels,
        "measured": summary.measured,
        "refined": summary.refined,
        "trials": summary.trials,
        "failures": [
            {
                "kernel": f.kernel.op,
                "lane": f.kernel.lane,
                "shapes": f.kernel.shapes,
                "tiling": vars(f.tiling),
                "reason": f.reason,
            }
            for f in summary.failures
        ],
        "predicted_us": {"before": summary.before_us, "after": summary.best_us},
        "costs": {
            **vars(costs),
            "to_gpu": vars(costs.to_gpu),
            "to_cpu": vars(costs.to_cpu),
        },
        "models": [str(path) for path in models],
    }


def result_lines(
    output: Path, summary: Summary, costs: TargetCosts, models: Sequence[Path], verbose: bool
) -> list[str]:
    """What ``tune`` prints."""
    reasons = Counter(f.reason for f in summary.failures).most_common(None if verbose else SHOWN)
    return [
        f"kernels  {summary.measured} of {summary.kernels} measured, {summary.refined} with a better "
        f"schedule than the rule's; {summary.trials} trials",
        *(f"failed   {count} candidates: {reason}" for reason, count in reasons),
        f"latency  predicted {summary.best_us / 1e3:.3g} ms for the best plan, one phase after the "
        f"other ({summary.before_us / 1e3:.3g} before)",
        f"costs    to the GPU {_line(costs.to_gpu)}, to the CPU {_line(costs.to_cpu)}, "
        f"enqueue {costs.enqueue_us:.1f} us, contention {costs.cpu_contention:.2f} (CPU), "
        f"{costs.gpu_contention:.2f} (GPU)",
        *(f"model    {path}" for path in models),
        f"output   {output}",
    ]


def _line(transfer: Transfer) -> str:
    return f"{transfer.latency_us:.1f} us + bytes / {transfer.gbytes_per_s:.1f} GB/s"
