"""``python -m syncnas_tvm.train``: trains a configuration, or a network of the zoo."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from syncnas_tvm.cli import Command, Parser, check_file, end, run_command
from syncnas_tvm.nas.extra import require

if TYPE_CHECKING:
    from syncnas_tvm.nas.trainer import Epoch


def make_parser() -> Parser:
    """The flags."""
    require()
    from syncnas_tvm.nas.flags import (
        add_base_argument,
        add_data_arguments,
        add_training_arguments,
    )

    parser = Parser(
        "train", "Train a searched configuration, or (without --config) its base network."
    )
    parser.add_argument("--config", type=Path, metavar="JSON", help="the configuration")
    parser.add_argument(
        "--output", type=Path, default=Path("model.pth"), metavar="FILE",
        help="the weights; beside it a checkpoint that an interrupted training goes on from",
    )  # fmt: skip
    parser.add_argument("--devices", help="a torch device, such as cuda:0")
    parser.add_argument("--test", action="store_true", help="read the test images at the end, once")
    add_base_argument(parser)
    add_data_arguments(parser)
    add_training_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    from syncnas_tvm.nas import checkpoint
    from syncnas_tvm.nas.config_file import read_config
    from syncnas_tvm.nas.flags import devices_of, training_of

    options = command.options
    check_file("--output", options.output)
    task = training_of(options, devices_of(options.devices)[0])
    config = None if options.config is None else read_config(options.config)
    going_on = options.output.with_name(f"{options.output.name}.training")
    trainer = task.trainer(config, going_on)

    def say(epoch: Epoch) -> None:
        command.interrupts.check()
        if not options.json:
            val = f", accuracy {epoch.val.top1:.4f}" if epoch.val else ""
            line = f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.4f}{val}"
            print(line, file=sys.stderr, flush=True)

    accuracy = trainer.run(say)
    checkpoint.save(options.output, trainer.best_weights.state_dict())
    going_on.unlink(missing_ok=True)
    result = {"val_top1": accuracy.top1, "val_top5": accuracy.top5}
    if options.test:
        test = trainer.evaluate("test")
        result |= {"test_top1": test.top1, "test_top5": test.top5}
    if options.json:
        command.print_json({**result, "output": str(options.output)})
        return
    command.print(", ".join(f"{name} {value:.4f}" for name, value in result.items()))
    command.print(f"weights: {options.output}")


if __name__ == "__main__":
    end(main())
