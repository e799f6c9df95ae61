"""``python -m syncnas_tvm.compile``: an ONNX model in, a folder with a CPU+GPU executable out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from syncnas_tvm.cli import (
    Command,
    Parser,
    add_type_flags,
    check_file,
    check_writable,
    end,
    file_written_aside,
    natural,
    not_negative,
    positive_float,
    positive_int,
    run_command,
)
from syncnas_tvm.errors import InputError, PlanError

if TYPE_CHECKING:
    import numpy as np

    from syncnas_tvm.compile_result import CompileResult
    from syncnas_tvm.cost_models import CostModel
    from syncnas_tvm.planner import Budget
    from syncnas_tvm.targets import Target

Shapes = Mapping[str, tuple[int, ...]]
STRATEGY = "mcts"


def make_parser() -> Parser:
    """The flags; named as in tvmc where tvmc has one."""
    parser = Parser(
        "compile",
        "Compile an ONNX model for the CPU and the GPU of one chip, which then run it together.",
        "the decision for every region, and the kernels that no schedule rule knows,",
    )
    parser.add_model_arguments()
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where the executable goes"
    )
    plan = parser.add_argument_group("plan")
    plan.add_argument(
        "--lanes", choices=("cpu", "gpu", "both"), default="both", help="which lanes may be used"
    )
    plan.add_argument("--plan", type=Path, metavar="FILE", help="take the plan in this plan.json")
    plan.add_argument(
        "--split-all", action="store_true", help="split every region that can be split"
    )
    plan.add_argument(
        "--strategy",
        help=f"how plans are searched: mcts, dp, beam, greedy, random, exhaustive (default: {STRATEGY})",
    )
    plan.add_argument(
        "--evaluations", type=positive_int, metavar="N", help="end the search after so many plans"
    )
    plan.add_argument(
        "--seconds", type=positive_float, metavar="S", help="end the search after so long"
    )
    plan.add_argument("--seed", type=natural, default=0, help="of the search and the random inputs")
    plan.add_argument(
        "--search-state",
        type=Path,
        metavar="FILE",
        help="go on with the search in this file, if it is there, and save it there",
    )
    plan.add_argument(
        "--pass",
        dest="passes",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="a partition pass of your own: changes the plan, or Relax; repeatable",
    )
    cost = parser.add_argument_group("costs")
    cost.add_argument(
        "--cost-mode",
        choices=("timeline", "additive", "study"),
        default="timeline",
        help="how plans are scored (default: timeline)",
    )
    cost.add_argument(
        "--sync-us", type=not_negative, metavar="US", help="of a sync; for --cost-mode study"
    )
    cost.add_argument(
        "--measurements",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="take kernel times from these TopHub logs",
    )
    cost.add_argument(
        "--measured-device",
        nargs="+",
        default=[],
        metavar="NAME",
        help="whose rows, as -model= or -device= in the logs (default: the target's name)",
    )
    cost.add_argument(
        "--measured-gpu-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="which of the GPU's rows (default: float32)",
    )
    cost.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="correct the target's cost model by the few measured kernels in this .jsonl file",
    )
    add_type_flags(plan)
    plan.add_argument(
        "--gpu-weights",
        choices=("buffer", "texture"),
        help="where the GPU lane's convolutions read weights from (default: what the target says)",
    )
    check = parser.add_argument_group("verification")
    check.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="compare with onnxruntime (default: where the target is this machine)",
    )
    check.add_argument(
        "--verify-input",
        action="append",
        default=[],
        metavar="FILE",
        help="a .npy or, by input name, .npz file to verify with, beside random inputs; repeatable",
    )
    check.add_argument(
        "--tolerance",
        type=positive_float,
        help="largest relative error (1e-4; 2e-2 where a lane has float16)",
    )
    parser.add_argument(
        "--tuning-records",
        type=Path,
        metavar="FOLDER",
        help="schedule kernels as the tuning records in this folder say, where it has one",
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write the timelines for chrome://tracing"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    _check_flags(options)
    from syncnas_tvm.array_files import read_plan
    from syncnas_tvm.frontend.input_shapes import parse_input_shapes

    shapes = None if options.input_shapes is None else parse_input_shapes(options.input_shapes)
    plan = None if options.plan is None else read_plan("--plan", options.plan)
    verify_inputs = _verify_inputs(options, shapes)
    # TVM takes a second to import: wrong flags should not have to wait for it.
    from syncnas_tvm.compiler import STAGES, compile_onnx
    from syncnas_tvm.partition_passes import load_pass
    from syncnas_tvm.planner import CostMode, strategy
    from syncnas_tvm.progress import StageProgress
    from syncnas_tvm.targets import load_target

    search = options.strategy or STRATEGY
    strategy(search)  # a wrong one is said now
    CostMode(options.cost_mode, options.sync_us)
    target = load_target(options.target)
    passes = [load_pass(spec) for spec in options.passes]
    try:
        with StageProgress(STAGES, command.interrupts.check, options.verbose) as progress:
            result = compile_onnx(
                options.model,
                target,
                options.output,
                lanes=options.lanes,
                plan=plan,
                split_all=options.split_all,
                input_shapes=shapes,
                verify=True if verify_inputs and options.verify is None else options.verify,
                verify_inputs=verify_inputs,
                tolerance=options.tolerance,
                gpu_dtype=options.gpu_dtype,
                cpu_dtype=options.cpu_dtype,
                gpu_weights=options.gpu_weights,
                strategy=search,
                budget=_budget(options),
                seed=options.seed,
                cost_mode=options.cost_mode,
                sync_us=options.sync_us,
                search_state=options.search_state,
                cost_model=_measurements(options, target),
                tuning_records=options.tuning_records,
                passes=passes,
                report=progress,
            )
    except PlanError as error:
        if options.plan is None:
            raise
        raise PlanError(f"--plan {options.plan}: {error}") from error
    if options.trace is not None:
        _write_trace(options.trace, options.output)
    if options.json:
        command.print_json(result.to_json())
    else:
        _print(command, result)


def _check_flags(options: argparse.Namespace) -> None:
    """Whatever can be said about the flags before anything is read."""
    fixed = "--plan" if options.plan is not None else "--split-all" if options.split_all else ""
    alone = "" if options.lanes == "both" else f"--lanes {options.lanes}"
    if options.plan is not None and options.split_all:
        raise InputError("--plan and --split-all: give one of them")
    if fixed and alone:
        raise InputError(f"{alone} and {fixed}: give one of them")
    for flag in ("search_state", "strategy", "evaluations", "seconds"):
        if (fixed or alone) and getattr(options, flag) is not None:
            name = f"--{flag.replace('_', '-')}"
            raise InputError(f"{name} and {fixed or alone}: leave one out, nothing is searched")
    if (options.measured_device or options.measured_gpu_dtype != "float32") and not (
        options.measurements
    ):
        raise InputError("--measured-device and --measured-gpu-dtype are for --measurements")
    if options.calibrate is not None and options.measurements:
        raise InputError("--calibrate and --measurements: give one of them")
    if options.search_state is not None:
        check_file("--search-state", options.search_state)
    if options.verify is False and options.verify_input:
        raise InputError("--verify-input and --no-verify: give one of them")
    if options.output.absolute() == Path.cwd():
        raise InputError("--output is the current folder; name another one")
    check_writable("--output", options.output)
    if options.trace is not None:
        check_file("--trace", options.trace)


def _measurements(options: argparse.Namespace, target: Target) -> CostModel | None:
    """The cost model of ``--measurements`` or ``--calibrate``; None where neither is given."""
    if options.calibrate is not None:
        from syncnas_tvm.cost_models.calibrated import read_calibration

        return read_calibration(options.calibrate, target)
    if not options.measurements:
        return None
    from syncnas_tvm.cost_models import read_tophub

    return read_tophub(
        options.measurements, target, options.measured_gpu_dtype, options.measured_device
    )


def _budget(options: argparse.Namespace) -> Budget | None:
    from syncnas_tvm.planner import Budget

    if options.evaluations is None and options.seconds is None:
        return None
    return Budget(options.evaluations, options.seconds)


def _verify_inputs(
    options: argparse.Namespace, shapes: Shapes | None
) -> list[dict[str, np.ndarray]]:
    """The arrays of ``--verify-input``, checked against the model before anything is measured."""
    if not options.verify_input:
        return []
    from syncnas_tvm.array_files import input_specs, read_inputs

    specs = input_specs(options.model, shapes)
    return [read_inputs("--verify-input", [file], specs) for file in options.verify_input]


def _write_trace(path: Path, folder: Path) -> None:
    """The predicted and, where there is one, the measured timeline, as the folder has them."""
    from syncnas_tvm.artifact import TIMELINE
    from syncnas_tvm.timeline import read_timelines
    from syncnas_tvm.trace import chrome_trace

    timelines = list(read_timelines(folder / TIMELINE).values())
    with file_written_aside(path) as aside:
        aside.write_text(json.dumps(chrome_trace(timelines)), encoding="utf-8")


def _print(command: Command, result: CompileResult) -> None:
    from syncnas_tvm.report import compile_summary, fallback_table, plan_table

    if command.options.verbose:
        command.print(plan_table(result.plan) + "\n")
        command.print(fallback_table(result.fallbacks) + "\n")
    command.print(compile_summary(result))
    if command.options.trace is not None:
        command.print(f"trace   {command.options.trace}")


if __name__ == "__main__":
    end(main())
