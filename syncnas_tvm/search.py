"""``python -m syncnas_tvm.search``: searches where a network's two branches synchronize."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from syncnas_tvm.cli import (
    Command,
    Parser,
    check_writable,
    end,
    natural,
    positive_float,
    positive_int,
    run_command,
)
from syncnas_tvm.errors import InputError, SyncNASError
from syncnas_tvm.nas.extra import require

if TYPE_CHECKING:
    import argparse

    import optuna

    from syncnas_tvm.nas.results import Result
    from syncnas_tvm.nas.task import SearchTask


def make_parser() -> Parser:
    """The flags."""
    require()
    from syncnas_tvm.nas.flags import (
        add_data_arguments,
        add_target_arguments,
        add_training_arguments,
    )

    parser = Parser(
        "search",
        "Search a two-branch model of a base network: where the branches meet, how, and how wide they"
        " are, under a latency budget. The same command on another machine, with the same --storage,"
        " joins; after an interruption it goes on.",
    )
    add_target_arguments(parser)
    add_data_arguments(parser)
    add_training_arguments(parser)
    search = parser.add_argument_group("search")
    search.add_argument("--trials", type=positive_int, default=70, help="evaluations (default: 70)")
    search.add_argument("--workers", type=positive_int, default=1, help="processes on this machine")
    search.add_argument("--devices", help="torch devices of the workers, such as cuda:0,cuda:1")
    search.add_argument(
        "--output", type=Path, default=Path("syncnas-search"), metavar="FOLDER",
        help="table, plots, weights (default: syncnas-search)",
    )  # fmt: skip
    search.add_argument(
        "--storage",
        help="an SQLite file, a journal (.log), or postgresql://... (default: FOLDER/study.db)",
    )
    search.add_argument("--study", default="syncnas", help="the study's name in the storage")
    search.add_argument(
        "--heartbeat-seconds", type=positive_float, default=10.0, metavar="S",
        help="a worker silent for six times as long is taken for dead",
    )  # fmt: skip
    search.add_argument(
        "--measure", type=natural, default=0, metavar="N",
        help="compile and time the N best; for --target host (default: 0)",
    )  # fmt: skip
    search.add_argument("--as-worker", type=int, help="internal: be this worker, no others")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return run_command(make_parser(), lambda command: _work(command, given), argv)


def _work(command: Command, given: list[str]) -> None:
    options = command.options
    from syncnas_tvm.nas.flags import devices_of, task_of, threads_for
    from syncnas_tvm.nas.results import best_of, results

    check_writable("--output", options.output)
    devices = devices_of(options.devices)
    index = options.as_worker or 0
    if not options.threads:
        options.threads = threads_for(options.workers)
    task = task_of(options, options.output, devices[index % len(devices)])
    if options.as_worker is not None:
        _be_worker(options, task)
        return
    study = _open(options, task)
    try:
        _lead(command, task, study, given)
    finally:  # an interruption or an error takes nothing away from what was found before
        found = results(study)
        if found:
            _report(command, task, found)
    if best_of(found) is None:
        raise SyncNASError(f"nothing fits --budget {task.budget:g}: there is no best.json")


def _be_worker(options: argparse.Namespace, task: SearchTask) -> None:
    from syncnas_tvm.nas.worker import Worker

    study, stages = _study(options, task, options.seed), len(task.network.stages)
    Worker(
        study, task.evaluate, stages, options.trials, heartbeat_s=options.heartbeat_seconds
    ).run()


def _study(
    options: argparse.Namespace,
    task: SearchTask,
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
) -> optuna.Study:
    from syncnas_tvm.nas.study import open_storage, open_study

    storage = open_storage(options.storage or str(options.output / "study.db"))
    return open_study(storage, options.study, len(task.network.stages), task.to_json(), seed, say)


def _open(options: argparse.Namespace, task: SearchTask) -> optuna.Study:
    """The study, once what is wrong with the flags has shown."""
    from syncnas_tvm.nas.ownership import owned

    if options.measure and options.target != "host":
        raise InputError(f"--measure needs --target host; '{options.target}' is not this machine")
    _ = task.allocator, task.images
    with owned(options.output, options.study, task.to_json()):
        return _study(options, task, say=_Sayer(options.json))


def _lead(command: Command, task: SearchTask, study: optuna.Study, given: list[str]) -> None:
    from syncnas_tvm.nas.crew import Crew
    from syncnas_tvm.nas.flags import FIT
    from syncnas_tvm.nas.measuring import measure_best
    from syncnas_tvm.nas.results import write_table

    options, allocator = command.options, task.allocator
    lanes = ", ".join(f"{lane} {us / 1e3:.2f} ms" for lane, us in allocator.lane_us.items())
    say = _Sayer(options.json)
    say(
        f"{task.base} on {task.target}: {lanes}; budget {task.budget * allocator.base_us / 1e3:.2f} ms"
    )
    if options.trunk == FIT:
        base_us = allocator.time_base(task.network)
        say(
            f"--trunk {FIT}: the base at width {task.trunk:g}, channels in multiples of"
            f" {task.trunk_multiple}, takes {base_us / 1e3:.2f} ms"
        )
    # Workers need not find again what fits: of a flag given twice, the last counts.
    trunk = ["--trunk", repr(task.trunk), "--trunk-multiple", str(task.trunk_multiple)]
    crew = Crew(study, options.trials, say, lambda found: write_table(found, options.output))
    for number in range(options.workers):
        log = options.output / "logs" / f"worker-{number}.log"
        crew.start([*given, *trunk, "--as-worker", str(number)], log)
    found = crew.watch()
    if options.measure:
        command.interrupts.check()
        measure_best(study, found, options.measure, allocator.target, say)


class _Sayer:
    """Progress on standard error."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)


def _report(command: Command, task: SearchTask, found: list[Result]) -> None:
    from syncnas_tvm.nas.crew import latency
    from syncnas_tvm.nas.results import best_of, write_results

    options = command.options
    title = f"{task.base} on {task.target}, budget {task.budget:g}"
    written = write_results(found, options.output, title)
    if options.json:
        command.print_json(
            {
                "task": task.to_json(),
                "base_us": task.allocator.base_us,
                "results": [
                    {"trial": r.trial, "strategy": r.strategy, "accuracy": r.accuracy, **r.facts}
                    for r in found
                ],
                "files": [str(path) for path in written],
            }
        )
        return
    command.print(f"{'trial':>5}  {'strategy':24}{'accuracy':>9}  latency")
    for result in found[: None if options.verbose else 10]:
        accuracy = f"{result.accuracy:.4f}" if result.feasible else "too slow"
        command.print(f"{result.trial:5}  {result.strategy:24}{accuracy:>9}  {latency(result)}")
    if best_of(found) is None:
        command.print(_too_slow(found, task))
    command.print(f"{len(found)} strategies evaluated; see {', '.join(p.name for p in written)} in"
                  f" {options.output}")  # fmt: skip


def _too_slow(found: list[Result], task: SearchTask) -> str:
    least = min(found, key=lambda result: result.latency_us)
    base_us = task.allocator.base_us
    budget = math.ceil(1000 * least.latency_us / base_us) / 1000
    return (
        f"no strategy that was tried fits the budget of {task.budget * base_us / 1e3:.2f} ms:"
        f" {least.strategy} takes the least, {least.latency_us / 1e3:.2f} ms; give --budget {budget:g}"
        " or more, in another --output"
    )


if __name__ == "__main__":
    end(main())
