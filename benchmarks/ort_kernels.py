"""What onnxruntime's own profiler says of a network's convolutions, on one thread."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime

RUNS = 20
# onnxruntime pads channels to its vectors where it blocks them.
BLOCK = 16

ACTIVATIONS = ("Sigmoid", "Mul", "QuickGelu", "Clip", "Relu", "HardSigmoid", "HardSwish")

Key = tuple[int, tuple[int, ...], tuple[int, ...]]


def key(out_channels: int, weight: tuple[int, ...], out: tuple[int, ...]) -> Key:
    """What two libraries' convolutions are matched by: blocks of channels, window and output size."""
    return -(-out_channels // BLOCK), tuple(weight[1:]), tuple(out[2:])


def convolution_times(model: Path) -> dict[Key, float]:
    """Microseconds of each distinct convolution and the activation behind it: medians.

    Convolutions of a kind that occur several times are one entry.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as scratch:
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        (spec,) = session.get_inputs()
        image = np.random.default_rng(0).standard_normal([n or 1 for n in spec.shape])
        for _ in range(RUNS):
            session.run(None, {spec.name: image.astype("float32")})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[Key, list[float]] = defaultdict(list)
    open_key, open_shape = None, None
    for event in events:
        args = event.get("args", {})
        if not event["name"].endswith("_kernel_time"):
            continue
        out = _shapes(args["output_type_shape"])[0]
        if args["op_name"] == "Conv":
            weight = _shapes(args["input_type_shape"])[1]
            open_key, open_shape = key(weight[0], weight, out), out
            found[open_key].append(float(event["dur"]))
        elif open_key is not None and args["op_name"] in ACTIVATIONS and out == open_shape:
            found[open_key][-1] += float(event["dur"])
        else:
            open_key = None
    return {k: statistics.median(times) for k, times in found.items()}


def _shapes(tensors: list[dict[str, list[int]]]) -> list[tuple[int, ...]]:
    return [tuple(next(iter(tensor.values()))) for tensor in tensors]
