"""``python -m syncnas_tvm.evaluate``: top-1, top-5, multiply-adds and parameters of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from syncnas_tvm.cli import Command, Parser, end, natural, positive_float, positive_int, run_command
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.extra import require


def make_parser() -> Parser:
    """The flags."""
    require()
    from syncnas_tvm.nas.names import SCHEMES

    parser = Parser(
        "evaluate", "Evaluate a checkpoint of a network of the zoo, or of a configuration."
    )
    parser.add_argument("--base-model", metavar="NAME", help="a network of the zoo")
    parser.add_argument("--config", type=Path, metavar="JSON", help="or a branched configuration")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights")
    parser.add_argument(
        "--scheme", choices=SCHEMES, default="own",
        help="whose names the checkpoint has (default: own, which are SyncNAS's)",
    )  # fmt: skip
    parser.add_argument(
        "--path", type=Path, metavar="FOLDER", help="ImageNet; same as --data imagenet:FOLDER"
    )
    parser.add_argument(
        "--data", metavar="NAME[:PATH]", help="fashion-mnist, digits, imagenet:FOLDER"
    )
    parser.add_argument("--split", choices=("val", "test"), default="test", help="(default: test)")
    parser.add_argument("--width", type=positive_float, default=1.0, help="width of the model")
    parser.add_argument(
        "--multiple", type=positive_int, metavar="N",
        help="what channels are multiples of at other widths (2; 8 with timm's and torchvision's)",
    )  # fmt: skip
    parser.add_argument("--size", type=positive_int, metavar="N", help="image size")
    parser.add_argument(
        "--classes", type=positive_int, metavar="N",
        help="the first N classes of the data alone (without data: the checkpoint's, or 1000)",
    )  # fmt: skip
    parser.add_argument(
        "-j", "--loaders", type=natural, default=4, help="processes that read images"
    )
    parser.add_argument("-b", "--batch", type=positive_int, default=128, help="images at a time")
    parser.add_argument("--devices", help="a torch device, such as cuda:0")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    from syncnas_tvm.nas.counting import count
    from syncnas_tvm.nas.data import DataOptions, DataSpec
    from syncnas_tvm.nas.description import MULTIPLE
    from syncnas_tvm.nas.flags import devices_of
    from syncnas_tvm.nas.loading import Shape, load
    from syncnas_tvm.nas.trainer import accuracy
    from syncnas_tvm.nas.weights import Weights

    options = command.options
    if options.path is not None and options.data is not None:
        raise InputError("give either --path FOLDER or --data NAME")
    text = f"imagenet:{options.path}" if options.path is not None else options.data
    device = devices_of(options.devices)[0]
    data, shape = None, Shape(options.size, classes=options.classes)
    if text is not None:
        wanted = DataOptions(options.size, options.classes, workers=options.loaders)
        data = DataSpec.parse(text).load(wanted)
        shape = Shape.of(data)
    weights = None
    if options.checkpoint is not None:
        weights = Weights(options.checkpoint, options.scheme)
    multiple = options.multiple or (MULTIPLE if options.scheme == "own" else 8)
    found = load(options.base_model, options.config, options.width, shape, multiple, weights)
    counts = count(found.model, found.size, found.channels)
    result: dict[str, float] = {"parameters": counts.parameters, "macs": counts.macs}
    if data is not None:
        right = accuracy(found.model, data, options.split, device, options.batch)
        result |= {"top1": right.top1, "top5": right.top5, "images": data.count(options.split)}
    if options.json:
        command.print_json(result)
        return
    if data is not None:
        command.print(f"top-1 {100 * result['top1']:.2f} %, top-5 {100 * result['top5']:.2f} %")
        command.print(f"{result['images']} images ({options.split})")
    command.print(
        f"{counts.macs / 1e6:.1f} million multiply-adds, {counts.parameters:,} parameters"
    )


if __name__ == "__main__":
    end(main())
