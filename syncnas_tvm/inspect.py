"""``python -m syncnas_tvm.inspect``: the regions of a model and the split rules that apply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from syncnas_tvm.cli import Command, Parser, end, run_command


def make_parser() -> Parser:
    """The flags; named as in tvmc where tvmc has one."""
    parser = Parser(
        "inspect",
        "Show the regions of an ONNX model and the split rules that apply to each.",
        "the nodes of each region, and all that a plan can decide there,",
    )
    parser.add_model_arguments()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    from syncnas_tvm.frontend.input_shapes import parse_input_shapes

    shapes = None if options.input_shapes is None else parse_input_shapes(options.input_shapes)
    from syncnas_tvm.targets import load_target

    target = load_target(options.target)
    # TVM takes a second to import: wrong flags should not have to wait for it.
    from syncnas_tvm.candidates import decision_space
    from syncnas_tvm.frontend import import_onnx
    from syncnas_tvm.graph.region_graph import RegionGraph

    graph = RegionGraph(import_onnx(options.model, shapes).mod, target.channel_step)
    space = decision_space(graph)
    command.interrupts.check()
    decisions = [[candidate.decision for candidate in here] for here in space.candidates]
    variants = [dict(Counter(decision.rule for decision in here)) for here in decisions]
    totals = {
        "regions": len(graph.regions),
        "macs": sum(region.macs for region in graph.regions),
        "weight_bytes": sum(region.weight_bytes for region in graph.regions),
        "plans": space.count(),
    }
    if options.json:
        regions: list[dict[str, Any]] = [
            {**vars(region), "rules": rules, "decisions": [d.to_json() for d in here]}
            for region, rules, here in zip(graph.regions, variants, decisions, strict=True)
        ]
        command.print_json(
            {
                "model": str(options.model),
                "target": target.name,
                "regions": regions,
                "totals": totals,
            }
        )
        return
    from syncnas_tvm.report import decision_lines, region_table

    command.print(region_table(graph.regions, variants))
    if options.verbose:
        for region, here in zip(graph.regions, decisions, strict=True):
            command.print(f"\n{region.name}: {', '.join(region.nodes)}\n{decision_lines(here)}")
    digits = len(str(totals["plans"]))
    command.print(
        f"\ntotal: {totals['regions']} regions, {totals['macs'] / 1e6:.1f} MMACs, "
        f"{totals['weight_bytes'] / 1024:.0f} KiB of weights, 10^{digits - 1} plans"
    )


if __name__ == "__main__":
    end(main())
