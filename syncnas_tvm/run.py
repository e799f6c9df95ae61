"""``python -m syncnas_tvm.run``: runs a compiled folder, prints its outputs and its latency."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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

TOP = 5


def make_parser() -> Parser:
    """The flags; named as in tvmc where tvmc has one."""
    parser = Parser("run", "Run a folder that compile wrote.", "the inputs")
    parser.add_argument("folder", type=Path, help="the folder that compile wrote")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a .npy file for the next input or the one named, or an .npz file with several; "
        "repeatable (default: random inputs)",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the random inputs")
    parser.add_argument(
        "--repeat", type=positive_int, default=20, metavar="N", help="how often it is timed (20)"
    )
    parser.add_argument(
        "--output-file", type=Path, metavar="FILE", help="write the outputs to this .npz file"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="write a timeline for chrome://tracing"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    for flag, path in (("--output-file", options.output_file), ("--profile", options.profile)):
        if path is not None:
            check_file(flag, path)
    from syncnas_tvm.array_files import read_inputs, write_arrays
    from syncnas_tvm.artifact import read_manifest

    specs = read_manifest(options.folder).inputs
    inputs = read_inputs("--input", options.input, specs) if options.input else None
    # TVM takes a second to import: wrong flags should not have to wait for it.
    from syncnas_tvm.runtime import load

    model = load(options.folder)
    if inputs is None:
        inputs = model.random_inputs(options.seed)
    arrays = [inputs[spec.name] for spec in model.inputs]
    outputs = model(*arrays)
    latencies_us = model.time(*arrays, repeat=options.repeat)
    if options.output_file is not None:
        with file_written_aside(options.output_file) as aside:
            write_arrays(aside, outputs)
    if options.profile is not None:
        trace = model.profile(*arrays).to_chrome_trace()
        with file_written_aside(options.profile) as aside:
            aside.write_text(json.dumps(trace), encoding="utf-8")
    command.interrupts.check()
    result = {
        "folder": str(options.folder),
        "target": model.manifest.target,
        "inputs": options.input or f"random, seed {options.seed}",
        "outputs": {name: _describe(array) for name, array in outputs.items()},
        "latency_us": _statistics(latencies_us),
        "lanes": list(model.manifest.lanes),
        "syncs": model.manifest.syncs,
        "types": dict(model.manifest.types),
    }
    if options.json:
        command.print_json(result)
    else:
        _print(command, result, inputs)


def _describe(array: np.ndarray) -> dict[str, Any]:
    """Shape and the largest values as [index, value]; the index counts in the flattened output."""
    flat = array.reshape(-1)
    top = np.argsort(-flat, kind="stable")[:TOP]
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "top5": [[int(index), flat[index].item()] for index in top],
    }


def _statistics(latencies_us: Sequence[float]) -> dict[str, float]:
    low, median, high = np.percentile(latencies_us, [0, 50, 90])
    return {"min": float(low), "median": float(median), "p90": float(high)}


def _print(command: Command, result: dict[str, Any], inputs: dict[str, np.ndarray]) -> None:
    from syncnas_tvm.report import ms, table

    if command.options.verbose:
        taken = [(name, str(list(a.shape)), str(a.dtype)) for name, a in inputs.items()]
        command.print(table(("input", "shape", "type"), taken, left=3) + "\n")
    if not command.options.input:
        command.print(f"inputs   random (seed {command.options.seed}); give some with --input\n")
    for name, output in result["outputs"].items():
        rows = [(str(index), f"{value:.6g}") for index, value in output["top5"]]
        command.print(f"output '{name}' {output['shape']}, largest values")
        command.print(table(("index", "value"), rows, left=0) + "\n")
    latency = result["latency_us"]
    command.print(
        f"latency  min {ms(latency['min'])}, median {ms(latency['median'])}, "
        f"p90 {ms(latency['p90'])} ({command.options.repeat} runs)"
    )
    types = {lane: f" ({dtype})" for lane, dtype in result["types"].items() if dtype != "float32"}
    lanes = ", ".join(f"{lane}{types.get(lane, '')}" for lane in result["lanes"])
    command.print(f"lanes    {lanes}; {result['syncs']} syncs")


if __name__ == "__main__":
    end(main())
