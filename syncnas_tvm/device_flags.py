"""What the commands that use a device share: which one, and what it says of itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from syncnas_tvm.cli import Parser, positive_float
from syncnas_tvm.errors import InputError

if TYPE_CHECKING:
    from syncnas_tvm.runtime.loaded_model import LoadedModel


def add_device_flags(
    parser: Parser,
    tracker: str = "run on a device that this TVM tracker knows",
    key: str = "the name that the device registered",
    timeout: str = "how long the device may be busy, or take for one call",
    timeout_s: float = 300.0,
) -> None:
    """The flags, named as in tvmc; ``tracker``, ``key`` and ``timeout`` are their helps."""
    parser.add_argument("--rpc-tracker", metavar="HOST:PORT", help=tracker)
    parser.add_argument("--rpc-key", metavar="KEY", help=key)
    parser.add_argument(
        "--rpc-timeout",
        type=positive_float,
        default=timeout_s,
        metavar="SECONDS",
        help=f"{timeout} ({timeout_s:g})",
    )


def check_device_flags(options: argparse.Namespace, owner: str = "device's") -> None:
    """Raise InputError where one of two flags is missing."""
    if (options.rpc_tracker is None) != (options.rpc_key is None):
        raise InputError(
            f"--rpc-tracker and --rpc-key go together: the tracker and the {owner} key"
        )


def load_model(options: argparse.Namespace) -> LoadedModel:
    """The folder's model, on the device that the flags name or on this machine."""
    # TVM takes a second to import: wrong flags should not have to wait for it.
    if options.rpc_tracker is None:
        from syncnas_tvm.runtime import load

        return load(options.folder)
    from syncnas_tvm.runtime.remote import load_on_device
    from syncnas_tvm.runtime.tracker import parse_address

    address = parse_address("--rpc-tracker", options.rpc_tracker)
    return load_on_device(options.folder, address, options.rpc_key, options.rpc_timeout)


def device_line(key: str, device: dict[str, Any]) -> str:
    """A line about the device registered as ``key``."""
    cores = ", ".join(map(str, device["cpus"]))
    bound = f"bound to cores {cores}" if cores else "not bound (the target's cores are not there)"
    threads = f"{device['cpu_threads']} threads {bound}"
    gpu = f"; GPU '{device['gpu']}'" if device["gpu"] else ""
    return f"device   '{key}': CPU lane with {threads}{gpu}"


def latency_statistics(latencies_us: Sequence[float]) -> dict[str, float]:
    """The smallest, the median and the 90th percentile."""
    low, median, high = np.percentile(latencies_us, [0, 50, 90])
    return {"min": float(low), "median": float(median), "p90": float(high)}
