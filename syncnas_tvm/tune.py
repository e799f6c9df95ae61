"""``python -m syncnas_tvm.tune``: measures a model's kernels, and those of its cuts, on a device.

With ``--rpc-tracker`` on all devices of a key, else on this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncnas_tvm.cli import (
    Command,
    Parser,
    add_type_flags,
    check_writable,
    end,
    natural,
    positive_int,
    run_command,
)
from syncnas_tvm.device_flags import add_device_flags, check_device_flags
from syncnas_tvm.errors import InputError

if TYPE_CHECKING:
    from syncnas_tvm.targets import Target, TargetCosts

TRIALS = 256


def make_parser() -> Parser:
    """The flags; named as in tvmc where tvmc has one."""
    parser = Parser(
        "tune",
        "Measure schedules of a model's kernels, and of its cuts', on a device; compile "
        "--tuning-records takes the best. What --output has already is not measured again.",
        "every reason why candidates failed",
    )
    parser.add_model_arguments()
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where the records go"
    )
    parser.add_argument(
        "--trials",
        type=positive_int,
        default=TRIALS,
        metavar="N",
        help=f"schedules to measure, those that --output has included ({TRIALS})",
    )
    add_device_flags(
        parser,
        "measure on devices that this TVM tracker knows",
        "the name that the devices registered",
        "how long a device may be away or busy, or take for one call",
        timeout_s=60.0,
    )
    parser.add_argument(
        "--lanes", choices=("cpu", "gpu", "both"), default="both", help="whose kernels are tuned"
    )
    add_type_flags(parser)
    parser.add_argument(
        "--costs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure transfers, enqueueing and contention too, where --output lacks them",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of the search")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    check_device_flags(options, "devices'")
    check_writable("--output", options.output)
    if options.output.is_file():
        raise InputError(f"--output {options.output}: is a file; name a folder")
    # TVM takes a second to import: wrong flags should not have to wait for it.
    from syncnas_tvm.candidates import decision_space
    from syncnas_tvm.cost_models.tuned import train_models
    from syncnas_tvm.frontend import import_onnx
    from syncnas_tvm.frontend.input_shapes import parse_input_shapes
    from syncnas_tvm.graph.region_graph import RegionGraph
    from syncnas_tvm.half import check_types
    from syncnas_tvm.lane_types import LaneTypes
    from syncnas_tvm.targets import load_target
    from syncnas_tvm.tuning.device_runner import FEWEST_EACH
    from syncnas_tvm.tuning.kernel_source import KernelSource
    from syncnas_tvm.tuning.progress import TuneProgress
    from syncnas_tvm.tuning.session import TRIALS_A_VISIT, TuningSession, lane_names
    from syncnas_tvm.tuning.summary import result_json, result_lines
    from syncnas_tvm.tuning.tuner import opened_tuner

    target = load_target(options.target)
    types = LaneTypes(cpu=options.cpu_dtype, gpu=options.gpu_dtype)
    check_types(types, target)
    lanes = lane_names(options.lanes)
    runner = _runner(options, target)
    shapes = None if options.input_shapes is None else parse_input_shapes(options.input_shapes)
    graph = RegionGraph(import_onnx(options.model, shapes).mod, target.channel_step)
    space = decision_space(graph, types)
    source = KernelSource(graph, space, target, types, lanes)
    with ExitStack() as stack:
        devices = 1
        if options.rpc_tracker is not None:
            stack.callback(runner.close)
            devices = runner.devices()
        tuner = stack.enter_context(
            opened_tuner(target, options.output, None, runner, options.seed)
        )
        for problem in tuner.records.problems:
            _say(f"warning: {problem}; it is left out")
        costs = _costs(options, target, lanes)
        progress = stack.enter_context(TuneProgress(command.interrupts.check, options.trials))
        summary = TuningSession(
            *(space, source, tuner, costs, options.trials, lanes, options.seed, progress),
            visit=max(TRIALS_A_VISIT, FEWEST_EACH * devices),
        ).run()
        command.interrupts.check()
        models = train_models(summary.samples, target, options.output, options.seed)
    if options.json:
        where = (options.model, target, options.output)
        command.print_json(result_json(*where, summary, costs, models))
    else:
        for line in result_lines(options.output, summary, costs, models, options.verbose):
            command.print(line)


def _runner(options: argparse.Namespace, target: Target) -> Any:
    """MetaSchedule's runner: on the devices, or here; a device that is not there is said now."""
    if options.rpc_tracker is None:
        if not target.is_host:
            raise InputError(
                f"target '{target.name}' does not run on this machine; give --rpc-tracker and "
                "--rpc-key of a device"
            )
        from syncnas_tvm.runtime.lanes import gpu_device, reserve_cores
        from syncnas_tvm.tuning.host import HostRunner

        reserve_cores(target)
        if options.lanes != "cpu":
            gpu_device()
        return HostRunner(target)
    from syncnas_tvm.runtime.tracker import parse_address, request_device
    from syncnas_tvm.tuning.device_runner import DeviceRunner

    address = parse_address("--rpc-tracker", options.rpc_tracker)
    request_device(address, options.rpc_key, options.rpc_timeout)
    target.link.find()
    return DeviceRunner(target, address, options.rpc_key, options.rpc_timeout)


def _costs(options: argparse.Namespace, target: Target, lanes: tuple[str, ...]) -> TargetCosts:
    """The folder's costs, measured where it has none; the target's own where that is not wanted."""
    from syncnas_tvm.tuning.costs_file import read_costs, write_costs

    found = read_costs(options.output, target)
    if found is not None:
        return found
    if not options.costs or "gpu" not in lanes:
        return target.costs
    _say("costs   measuring transfers, enqueueing and contention")
    if options.rpc_tracker is None:
        from syncnas_tvm.host_costs import measured_costs

        costs = measured_costs(target)
    else:
        from syncnas_tvm.runtime.tracker import parse_address
        from syncnas_tvm.tuning.device_costs import device_loader, measured_device_costs

        address = parse_address("--rpc-tracker", options.rpc_tracker)
        load = device_loader(address, options.rpc_key, options.rpc_timeout)
        costs = measured_device_costs(target, load)
    write_costs(options.output, target, costs)
    return costs


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    end(main())
