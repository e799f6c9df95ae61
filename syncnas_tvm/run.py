"""``python -m syncnas_tvm.run``: runs a compiled folder, prints its outputs and its latency.

With ``--rpc-tracker`` on a device, else on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from syncnas_tvm.cli import (
    Command,
    Parser,
    check_file,
    end,
    file_written_aside,
    natural,
    positive_float,
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
from syncnas_tvm.sustained import Window, sustained_curve

if TYPE_CHECKING:
    from syncnas_tvm.runtime.loaded_model import LoadedModel

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
    parser.add_argument(
        "--sustained",
        type=positive_float,
        metavar="SECONDS",
        help="run that long without a pause afterwards and show how the latency changes",
    )
    add_device_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    for flag, path in (("--output-file", options.output_file), ("--profile", options.profile)):
        if path is not None:
            check_file(flag, path)
    check_device_flags(options)
    from syncnas_tvm.array_files import read_inputs, write_arrays
    from syncnas_tvm.artifact import read_manifest

    specs = read_manifest(options.folder).inputs
    inputs = read_inputs("--input", options.input, specs) if options.input else None
    model = load_model(options)
    if inputs is None:
        inputs = model.random_inputs(options.seed)
    arrays = [inputs[spec.name] for spec in model.inputs]
    outputs = model(*arrays)
    latencies_us = model.time(*arrays, repeat=options.repeat)
    curve = _sustained(model, arrays, options.sustained) if options.sustained else []
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
        "latency_us": latency_statistics(latencies_us),
        "lanes": list(model.manifest.lanes),
        "syncs": model.manifest.syncs,
        "types": dict(model.manifest.types),
        "device": model.device,
        "sustained": [window.to_json() for window in curve],
    }
    if options.json:
        command.print_json(result)
    else:
        _print(command, result, inputs)


def _sustained(model: LoadedModel, arrays: Sequence[np.ndarray], seconds: float) -> list[Window]:
    def measure(runs: int, limit_s: float) -> list[float]:
        return model.time(*arrays, repeat=runs, warmup=0, seconds=limit_s)

    return sustained_curve(measure, model.celsius, seconds)


def _describe(array: np.ndarray) -> dict[str, Any]:
    """Shape and the largest values as [index, value]; the index counts in the flattened output."""
    flat = array.reshape(-1)
    top = np.argsort(-flat, kind="stable")[:TOP]
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "top5": [[int(index), flat[index].item()] for index in top],
    }


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
    if result["device"] is not None:
        command.print(device_line(command.options.rpc_key, result["device"]))
    if result["sustained"]:
        command.print("\n" + _curve_table(result["sustained"]))


def _curve_table(curve: Sequence[dict[str, Any]]) -> str:
    from syncnas_tvm.report import ms, table

    rows = [
        (
            f"{window['start_s']:.0f} s",
            str(window["runs"]),
            ms(window["median_us"]),
            ms(window["p90_us"]),
            f"{window['celsius']:.0f} C" if window["celsius"] >= 0 else "-",
        )
        for window in curve
    ]
    return table(("after", "runs", "median", "p90", "hottest"), rows, left=0)


if __name__ == "__main__":
    end(main())
