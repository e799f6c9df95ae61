"""``python -m syncnas_tvm.export``: a configuration or a network of the zoo as an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from syncnas_tvm.cli import (
    Command,
    Parser,
    check_file,
    end,
    natural,
    positive_float,
    positive_int,
    run_command,
)
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.extra import require


def make_parser() -> Parser:
    """The flags."""
    require()
    parser = Parser("export", "Write a branched configuration, or a network of the zoo, as ONNX.")
    parser.add_argument("config", type=Path, nargs="?", metavar="JSON", help="a configuration")
    parser.add_argument("--base-model", metavar="NAME", help="or a network of the zoo")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights (default: random)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the ONNX model")
    parser.add_argument(
        "--size", type=positive_int, help="image size (default: the configuration's, or 224)"
    )
    parser.add_argument("--width", type=positive_float, default=1.0, help="width of the model")
    parser.add_argument(
        "--multiple",
        type=positive_int,
        default=2,
        help="what channels are multiples of then (2)",
    )
    parser.add_argument("--classes", type=positive_int, help="(default: the checkpoint's, or 1000)")
    parser.add_argument(
        "--channels",
        type=positive_int,
        help="of the image (default: the checkpoint's, or the model's)",
    )
    parser.add_argument("--stem-stride", type=positive_int, help="(default: the model's)")
    parser.add_argument("--seed", type=natural, default=0, help="of random weights")
    parser.add_argument("--drawing", type=Path, metavar="SVG", help="draw the configuration, too")
    parser.add_argument(
        "--exporter", choices=("torchscript", "dynamo"), default="torchscript", help="of torch"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    import torch

    from syncnas_tvm.nas.branched_model import BranchedModel
    from syncnas_tvm.nas.counting import count
    from syncnas_tvm.nas.drawing import draw
    from syncnas_tvm.nas.loading import Shape, load
    from syncnas_tvm.nas.onnx_export import export_onnx
    from syncnas_tvm.nas.weights import Weights

    options = command.options
    check_file("--output", options.output)
    if options.drawing is not None:
        check_file("--drawing", options.drawing)
    torch.manual_seed(options.seed)
    shape = Shape(options.size, options.channels, options.classes, options.stem_stride)
    weights = None if options.checkpoint is None else Weights(options.checkpoint)
    found = load(
        options.base_model, options.config, options.width, shape, options.multiple, weights
    )
    model = found.model
    if options.drawing is not None and not isinstance(model, BranchedModel):
        raise InputError("--drawing is of a configuration, which --base-model has none of")
    export_onnx(model, options.output, found.size, inputs=found.channels, exporter=options.exporter)
    if options.drawing is not None:
        options.drawing.write_text(draw(model.config), encoding="utf-8")
    counts = count(model, found.size, found.channels)
    if options.json:
        command.print_json(
            {"output": str(options.output), "macs": counts.macs, "parameters": counts.parameters}
        )
        return
    command.print(
        f"{options.output}: {counts.macs / 1e6:.1f} million multiply-adds,"
        f" {counts.parameters:,} parameters"
    )


if __name__ == "__main__":
    end(main())
