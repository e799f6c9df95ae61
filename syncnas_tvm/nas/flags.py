"""Flags that search, train and evaluate share, and what they say."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from syncnas_tvm.cli import Parser, natural, not_negative, positive_float, positive_int
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.allocate import CAP
from syncnas_tvm.nas.data import DataOptions, DataSpec
from syncnas_tvm.nas.description import MULTIPLE, WIDTHS
from syncnas_tvm.nas.names import SCHEMES
from syncnas_tvm.nas.settings import TrainSettings, learning_rate
from syncnas_tvm.nas.task import SearchTask
from syncnas_tvm.nas.training import TrainTask
from syncnas_tvm.nas.weights import Weights

PROXY: dict[str, dict[str, Any]] = {
    "imagenet": {"epochs": 15, "size": 128, "classes": 100, "warmup_epochs": 1.0, "ema": 0.999},
    "fashion-mnist": {"epochs": 6, "images": 12_000, "width": 0.35, "batch": 128,
                      "warmup_epochs": 1.0, "ema": 0.995},
    "digits": {"epochs": 6, "width": 0.25, "batch": 64, "warmup_epochs": 1.0, "ema": 0.99},
}  # fmt: skip
"""What ``--proxy`` makes of a data set, where no other flag says so."""
FIT = "fit"
"""What ``--trunk`` is where the budget decides."""
TRUNK_MULTIPLE = 8
"""As networks are published."""


def add_data_arguments(parser: Parser) -> None:
    """The data set and proxies of it."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        default="fashion-mnist",
        metavar="NAME[:PATH]",
        help="fashion-mnist, digits, or imagenet:FOLDER (default: fashion-mnist)",
    )
    data.add_argument("--size", type=positive_int, metavar="N", help="image size to train at")
    data.add_argument("--classes", type=positive_int, metavar="N", help="the first N classes alone")
    data.add_argument("--images", type=positive_int, metavar="N", help="N training images alone")
    data.add_argument(
        "-j", "--loaders", type=natural, default=4, metavar="N", help="processes that read images"
    )


def add_training_arguments(parser: Parser) -> None:
    """The recipe; defaults are SyncNAS's, or the proxy's."""
    recipe = parser.add_argument_group("training")
    recipe.add_argument("--proxy", action="store_true", help="a cheap training for comparisons")
    recipe.add_argument("--epochs", type=positive_int, help="(default: 350)")
    recipe.add_argument("-b", "--batch", type=positive_int, help="images a step (default: 256)")
    recipe.add_argument(
        "--learning-rate",
        type=positive_float,
        help="at a batch of 256 (default: 0.256 for mobilenet_v2, else 0.512)",
    )
    recipe.add_argument("--warmup-epochs", type=not_negative, help="(default: 10)")
    recipe.add_argument("--restart-epochs", type=not_negative, help="length of a cosine cycle")
    recipe.add_argument("--ema", type=not_negative, help="decay of averaged weights; 0: none")
    recipe.add_argument("--distil", type=not_negative, help="weight of the base's predictions")
    recipe.add_argument("--width", type=positive_float, help="train at this width (default: 1)")
    recipe.add_argument(
        "--multiple",
        type=positive_int,
        default=MULTIPLE,
        help="what channels are multiples of then",
    )
    recipe.add_argument("--base-checkpoint", type=Path, help="start from these weights of the base")
    recipe.add_argument(
        "--base-scheme", choices=SCHEMES, default="own", help="whose names they have"
    )
    recipe.add_argument("--seed", type=natural, default=0)
    recipe.add_argument("--threads", type=natural, default=0, help="of torch on the CPU")


def add_base_argument(parser: argparse._ActionsContainer) -> None:
    """The base network."""
    parser.add_argument(
        "--base-model",
        "--base",
        default="mobilenet_v2",
        metavar="NAME",
        dest="base",
        help="base network",
    )


def add_target_arguments(parser: Parser) -> None:
    """The target, its costs, and the budget."""
    where = parser.add_argument_group("target")
    add_base_argument(where)
    where.add_argument("--target", default="rk3399", help="a device's name or .toml file")
    where.add_argument(
        "--budget", type=positive_float, default=1.0, help="times the base's latency (default: 1.0)"
    )
    where.add_argument("--step", type=positive_int, default=4, help="widths are its multiples")
    where.add_argument(
        "--cap", type=positive_float, default=CAP, help=f"widest, over the base's ({CAP})"
    )
    where.add_argument(
        "--trunk",
        type=trunk_width,
        default=1.0,
        metavar="WIDTH",
        help="scale what both branches share, before they get their widths; 'fit': to the base that"
        " meets --budget on one lane (default: 1)",
    )
    where.add_argument(
        "--trunk-multiple",
        type=positive_int,
        metavar="N",
        help=f"what its channels are multiples of (default: {TRUNK_MULTIPLE}; 'fit' chooses it)",
    )
    where.add_argument(
        "--measurements",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="kernel times from TopHub logs",
    )


def trunk_width(text: str) -> float | str:
    """For argparse: ``fit``, or a width that networks have."""
    if text == FIT:
        return FIT
    least, most = WIDTHS
    with suppress(ValueError):
        if least <= float(text) <= most:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"'{text}' is neither '{FIT}' nor a number between {least:g} and {most:g}"
    )


def settings_of(options: argparse.Namespace, name: str) -> tuple[TrainSettings, DataOptions, float]:
    """Recipe, data options and width that the flags ask for."""
    proxy = PROXY[name] if options.proxy else {}

    def pick(flag: str, default: Any) -> Any:
        given = getattr(options, flag, None)
        return proxy.get(flag, default) if given is None else given

    epochs = pick("epochs", 350)
    settings = TrainSettings(
        epochs=epochs,
        batch=pick("batch", 256),
        learning_rate=pick("learning_rate", learning_rate(options.base)),
        warmup_epochs=min(pick("warmup_epochs", 10.0), epochs),
        restart_epochs=pick("restart_epochs", 0.0),
        ema=pick("ema", 0.9999),
        distil=pick("distil", 0.0),
        seed=options.seed,
        threads=options.threads,
    )
    data = DataOptions(
        size=pick("size", None),
        classes=pick("classes", None),
        images=pick("images", None),
        workers=options.loaders,
    )
    return settings, data, pick("width", 1.0)


def training_of(options: argparse.Namespace, device: str) -> TrainTask:
    """The training that the flags ask for."""
    spec = DataSpec.parse(options.data)
    settings, data, width = settings_of(options, spec.name)
    if settings.distil and options.base_checkpoint is None:
        raise InputError("--distil needs the base's weights: --base-checkpoint FILE")
    weights = None
    if options.base_checkpoint is not None:
        weights = Weights(options.base_checkpoint, options.base_scheme)
    return TrainTask(options.base, spec, data, settings, width, options.multiple, weights, device)


def task_of(options: argparse.Namespace, folder: Path | None, device: str) -> SearchTask:
    """The search that the flags ask for; takes seconds where the trunk is to fit the budget."""
    fits = options.trunk == FIT
    if fits and options.trunk_multiple is not None:
        raise InputError(f"--trunk-multiple: --trunk {FIT} chooses it; leave out one of them")
    task = SearchTask(
        **vars(training_of(options, device)),
        target=options.target,
        budget=options.budget,
        step=options.step,
        cap=options.cap,
        trunk=1.0 if fits else options.trunk,
        trunk_multiple=options.trunk_multiple or TRUNK_MULTIPLE,
        measurements=tuple(options.measurements),
        folder=folder,
    )
    return task.fitted() if fits else task


def devices_of(text: str | None) -> list[str]:
    """The devices in ``--devices``, or all GPUs, or the CPU; raises InputError naming a wrong one."""
    import torch

    if text is None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [f"cuda:{i}" for i in range(count)] or ["cpu"]
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        try:
            torch.empty(1, device=name).item()  # "meta" has no values to read
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--devices {name}: torch has no such device here") from error
    if not found:
        raise InputError("--devices needs a list such as cuda:0,cuda:1")
    return found


def threads_for(workers: int) -> int:
    """Threads for each of ``workers`` processes of this machine."""
    return max(1, (os.cpu_count() or 1) // workers)
