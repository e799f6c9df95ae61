"""What the commands print for people: plain text tables, so that they can be piped and searched."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from syncnas_tvm.plan import Decision, Plan, first_to_last
from syncnas_tvm.work import LANES

if TYPE_CHECKING:
    from syncnas_tvm.compile_result import CompileResult
    from syncnas_tvm.fallback import Fallback
    from syncnas_tvm.graph.region_graph import Region
    from syncnas_tvm.work import Shape

LANE_ROWS = {"cpu": "CPU lane", "gpu": "GPU lane", "both": "both lanes"}


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows under headers; the first ``left`` columns are aligned to the left."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (lines[0], rule, *lines[1:])
    )


def ms(us: float | None) -> str:
    """Microseconds as milliseconds; a dash where there is no number."""
    return "-" if us is None else f"{us / 1e3:.2f} ms"


def latency_table(result: CompileResult) -> str:
    """Latency of each lane alone and of both lanes; a star marks what was built."""
    built = result.choice.lane or "both"
    rows = [
        (
            f"{label} *" if name == built else label,
            ms(result.latency_us[name].predicted),
            ms(result.latency_us[name].measured),
        )
        for name, label in LANE_ROWS.items()
    ]
    return table(("latency", "predicted", "measured"), rows)


def compile_summary(result: CompileResult) -> str:
    """What a compile did, in a table and a few lines."""
    lines = [latency_table(result), ""]
    lines.append(f"plan    {result.choice.reason}")
    lines.append(f"syncs   {result.syncs} (points at which the lanes exchange data)")
    held = [(lane.upper(), result.memory(lane).bytes) for lane in LANES]
    shown = ", ".join(f"{size / 1e6:.1f} MB on the {lane} lane" for lane, size in held if size)
    lines.append(f"memory  {shown}, about (weights and largest working set)")
    if result.types.half:
        lines.append(
            f"types   {result.types.cpu} on the CPU lane, {result.types.gpu} on the GPU lane"
        )
    if result.deviation is not None:
        lines.append(
            f"error   {result.deviation.max_rel:.2g} relative, {result.deviation.max_abs:.2g} "
            "absolute, against onnxruntime"
        )
    else:
        lines.append("error   not verified")
    if result.tuning is not None:
        lines.append(tuning_line(result.tuning.to_json()))
    if result.folder is not None:
        lines.append(f"output  {result.folder}")
    return "\n".join(lines)


def tuning_line(tuning: dict[str, Any]) -> str:
    """How many kernels tuning records were used for, and how many records were not."""
    text = f"tuning  {tuning['kernels']} kernels have records, {tuning['refined']} of them refined"
    ignored = [f"{count} records {reason} ignored" for reason, count in tuning["ignored"].items()]
    return ", ".join([text, *ignored])


def plan_table(plan: Plan) -> str:
    """The decision for each region or run of regions."""
    rows = [
        (
            first_to_last(decision.regions),
            decision.rule,
            parameters(decision),
        )
        for decision in plan.decisions
    ]
    return table(("region", "rule", "parameters"), rows, left=3)


def parameters(decision: Decision) -> str:
    """The rule's own parameters: ``lane=cpu``."""
    return ", ".join(f"{name}={value}" for name, value in decision.params)


def decision_lines(decisions: Sequence[Decision]) -> str:
    """What can be decided: a line for each rule on each run of regions."""
    return "\n".join(
        f"  {rule} on {first_to_last(regions)}: {' | '.join(map(parameters, here))}"
        for (rule, regions), here in groupby(decisions, lambda d: (d.rule, d.regions))
    )


def fallback_table(fallbacks: Sequence[Fallback]) -> str:
    """The kernels that no schedule rule knows, with their share of the predicted time."""
    if not fallbacks:
        return "every kernel has a schedule rule"
    rows = [(f.node, f.op, f.lane, f"{f.latency_us:.1f} us", f"{f.share:.1%}") for f in fallbacks]
    headers = ("kernel without a schedule rule", "operator", "lane", "predicted", "share")
    return table(headers, rows, left=3)


def region_table(regions: Sequence[Region], variants: Sequence[dict[str, int]]) -> str:
    """The regions with their work, and how many variants of which rules apply to each."""
    rows = []
    for region, rules in zip(regions, variants, strict=True):
        rows.append(
            (
                region.name,
                first_to_last(region.nodes),
                shapes(region.in_shapes),
                shapes(region.out_shapes),
                ", ".join(f"{rule} {count}" for rule, count in rules.items()),
                f"{region.macs / 1e6:.2f}",
                f"{region.weight_bytes / 1024:.1f}",
            )
        )
    headers = ("region", "nodes", "in", "out", "rules and variants", "MMACs", "weights KiB")
    return table(headers, rows, left=5)


def shapes(values: Sequence[Shape]) -> str:
    """Shapes in the short form ``1x3x224x224``."""
    return " ".join("x".join(map(str, shape)) or "scalar" for shape in values)
