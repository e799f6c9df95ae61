"""``python -m syncnas_tvm.measure``: a compiled folder's prediction against what it really takes.

With ``--rpc-tracker`` on a device, else on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncnas_tvm.cli import (
    Command,
    Parser,
    check_file,
    end,
    file_written_aside,
    natural,
    positive_int,
    run_command,
)
from syncnas_tvm.device_flags import (
    add_device_flags,
    check_device_flags,
    device_line,
    latency_statistics,
    load_model,
)
from syncnas_tvm.errors import InputError

if TYPE_CHECKING:
    from syncnas_tvm.comparison import Comparison
    from syncnas_tvm.targets import Target
    from syncnas_tvm.timeline import Timeline


def make_parser() -> Parser:
    """The flags; named as those of ``run`` and ``compile`` where these have one."""
    parser = Parser(
        "measure",
        "Run a folder that compile wrote, and compare every kernel and transfer with its prediction.",
        "every kernel",
    )
    parser.add_argument("folder", type=Path, help="the folder that compile wrote")
    parser.add_argument(
        "--repeat", type=positive_int, default=10, metavar="N", help="runs that are measured (10)"
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the random inputs")
    parser.add_argument(
        "--top", type=natural, default=10, metavar="N", help="how many that are most off (10)"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write both timelines for chrome://tracing"
    )
    parser.add_argument(
        "--kernels",
        type=Path,
        metavar="FILE",
        help="write the measured kernels, as compile --calibrate takes them, to this .jsonl file",
    )
    parser.add_argument(
        "--target", help="whose costs --kernels takes off (default: what it was compiled for)"
    )
    add_device_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    for flag, path in (("--trace", options.trace), ("--kernels", options.kernels)):
        if path is not None:
            check_file(flag, path)
    check_device_flags(options)
    if options.target is not None and options.kernels is None:
        raise InputError("--target is for --kernels; leave it out")
    from syncnas_tvm.artifact import TIMELINE, read_manifest
    from syncnas_tvm.comparison import Comparison
    from syncnas_tvm.timeline import read_timelines

    manifest = read_manifest(options.folder)
    predicted = read_timelines(options.folder / TIMELINE)["predicted"]
    target = _target(options.target, manifest.target) if options.kernels is not None else None
    model = load_model(options)
    inputs = list(model.random_inputs(options.seed).values())
    latency_us = latency_statistics(model.time(*inputs, repeat=options.repeat))
    runs = []
    for _ in range(options.repeat):
        runs.append(model.profile(*inputs))
        command.interrupts.check()
    comparison = Comparison.of(predicted, runs)
    measured = sorted(runs, key=lambda run: run.latency_us)[len(runs) // 2]
    kernels = 0
    if options.trace is not None:
        _write_trace(options.trace, predicted, measured)
    if target is not None:
        kernels = _write_kernels(options.kernels, comparison, target, options)
    result = {
        "folder": str(options.folder),
        "target": manifest.target,
        "device": model.device,
        "runs": options.repeat,
        "latency_us": {"predicted": predicted.latency_us, "measured": latency_us},
        **comparison.to_json(),
        "kernels": kernels,
        "timelines": {"predicted": predicted.to_json(), "measured": measured.to_json()},
    }
    if options.json:
        command.print_json(result)
    else:
        _print(command, result, comparison)


def _target(given: str | None, compiled_for: str) -> Target:
    from syncnas_tvm.errors import TargetError
    from syncnas_tvm.targets import load_target

    try:
        return load_target(given or compiled_for)
    except TargetError as error:
        if given is not None:
            raise
        raise InputError(
            f"--kernels: the folder was compiled for target '{compiled_for}', which does not ship;"
            " name its file with --target"
        ) from error


def _write_trace(path: Path, predicted: Timeline, measured: Timeline) -> None:
    from syncnas_tvm.trace import chrome_trace

    with file_written_aside(path) as aside:
        aside.write_text(json.dumps(chrome_trace([predicted, measured])), encoding="utf-8")


def _write_kernels(path: Path, comparison: Comparison, target: Target, options: Any) -> int:
    """Write the measured kernels; returns how many there are."""
    from syncnas_tvm.measured_kernels import measured_kernels

    device = options.rpc_key or target.name
    samples = measured_kernels(comparison, target, device, options.folder.name)
    if not samples:
        raise InputError(
            f"--kernels {path}: no kernel could be told apart; {options.folder} was compiled by an "
            "earlier version, compile it again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    samples.write(path)
    return len(samples)


def _print(command: Command, result: dict[str, Any], comparison: Comparison) -> None:
    from syncnas_tvm.comparison_report import most_off_table, row_table, totals_table

    options = command.options
    latency = result["latency_us"]
    median_us = latency["measured"]["median"]
    command.print(totals_table(comparison, latency["predicted"], median_us))
    if options.verbose:
        command.print("\n" + row_table(comparison.rows))
    elif options.top:
        command.print("\n" + most_off_table(comparison, options.top))
    command.print(f"\nruns     {options.repeat} timed, then as many with both lanes recorded")
    if result["device"] is not None:
        command.print(device_line(options.rpc_key, result["device"]))
    if options.trace is not None:
        command.print(f"trace    {options.trace}")
    if options.kernels is not None:
        command.print(
            f"kernels  {result['kernels']} in {options.kernels}; compile --calibrate takes them"
        )


if __name__ == "__main__":
    end(main())
