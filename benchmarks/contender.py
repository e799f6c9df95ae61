"""One way to run a network, in a process of its own: what latency.py starts and tells to run.

    python contender.py prepare KIND MODEL FOLDER     compile what the kind needs into FOLDER; what is
                                                      predicted for both lanes, in us, is in predicted.json
    python contender.py run KIND MODEL FOLDER         load it, then follow the lines on stdin

A number on stdin is answered by that many latencies in microseconds, an empty line by the peak of the
resident memory above the level after the imports, in bytes; both as JSON on a line.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[], object]
# What a kind's processes have in their environment. One core per lane, PoCL on the first.
ONE_CORE = {
    "SYNCNAS_CPU_THREADS": "1",
    "TVM_NUM_THREADS": "1",
    "POCL_MAX_PTHREAD_COUNT": "1",
    "POCL_AFFINITY": "1",
}
TWO_CORES = {"SYNCNAS_CPU_THREADS": "2", "TVM_NUM_THREADS": "2"}
PREDICTED = "predicted.json"
KINDS = {
    "cpu1": ONE_CORE,
    "cpu2": TWO_CORES,
    "gpu": ONE_CORE,
    "both": ONE_CORE,
    "ort1": {},
    "ort2": {},
    "tvm": ONE_CORE,
}


def prepare(kind: str, model: Path, folder: Path) -> None:
    """Compile ``model`` for ``kind`` into ``folder``; onnxruntime reads the model itself."""
    if kind.startswith("ort"):
        return
    if kind == "tvm":
        _prepare_tvm(model, folder)
        return
    from syncnas_tvm import compile_job, compiler

    lanes = kind.rstrip("12")
    if lanes != "both":  # one plan is possible: nothing has to be measured
        compile_job.HostKernels = functools.partial(compile_job.HostKernels, seconds=0.0)
    result = compiler.compile_onnx(model, timed=False, lanes=lanes, output=folder)  # type: ignore[arg-type]
    if lanes == "both" and result.choice.lane and result.choice.split:
        # One lane was chosen; the table wants the best plan on both.
        from syncnas_tvm.planner import plan_of

        split = plan_of(result.choice.split)
        compiler.compile_onnx(model, timed=False, plan=split, output=folder)
    if lanes == "both":
        predicted = result.latency_us["both"].predicted
        (folder.parent / PREDICTED).write_text(json.dumps(predicted))


def _prepare_tvm(model: Path, folder: Path) -> None:
    """TVM's default pipeline for CPUs, on our import: its own refuses EfficientNet-Lite0's padding."""
    import tvm

    from syncnas_tvm.frontend import import_onnx
    from syncnas_tvm.targets import load_target

    mod = import_onnx(model).mod
    target = load_target("host").cpu_target()
    with target:
        executable = tvm.compile(mod, target=target)
    folder.mkdir(parents=True, exist_ok=True)
    executable.export_library(str(folder / "model.so"))


def loaded(kind: str, model: Path, folder: Path) -> tuple[Run, Callable[[int], list[float]]]:
    """What runs the network once, and what times it a number of times."""
    if kind.startswith("ort"):
        run = _onnxruntime(model, int(kind[3:]))
        return run, functools.partial(_time, run)
    if kind == "tvm":
        run = _tvm(folder, _image(model))
        return run, functools.partial(_time, run)
    import syncnas_tvm

    executable = syncnas_tvm.load(folder)
    inputs = executable.random_inputs()
    return (lambda: executable(inputs)), lambda n: executable.time(inputs, repeat=n, warmup=1)


def _image(model: Path) -> dict[str, np.ndarray]:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    rng = np.random.default_rng(0)
    shapes = {
        value.name: [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def _onnxruntime(model: Path, threads: int) -> Run:
    import onnxruntime

    cores = sorted(os.sched_getaffinity(0))
    if threads == 1:
        os.sched_setaffinity(0, cores[-1:])  # the CPU lane's core
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    image = _image(model)
    return lambda: session.run(None, image)


def _tvm(folder: Path, image: dict[str, np.ndarray]) -> Run:
    import tvm
    from tvm import relax

    vm = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu(0))
    tensors = [tvm.runtime.tensor(array) for array in image.values()]
    main = vm["main"]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    return lambda: main(*tensors)


def _time(run: Run, repeat: int) -> list[float]:
    run()
    latencies_us = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        latencies_us.append((time.perf_counter() - start) * 1e6)
    return latencies_us


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def serve(kind: str, model: Path, folder: Path) -> None:
    """Load, then answer the lines on stdin until it ends."""
    import onnx  # noqa: F401

    if kind.startswith("ort"):
        import onnxruntime  # noqa: F401
    else:
        import syncnas_tvm.runtime.executable  # noqa: F401
    before = _memory("VmRSS")
    run, timed = loaded(kind, model, folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on: not that of loading
    run()
    run()
    peak = _memory("VmHWM") - before
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(int(line)) if line.strip() else peak), flush=True)


if __name__ == "__main__":
    verb, name, model_path, output = sys.argv[1:]
    (prepare if verb == "prepare" else serve)(name, Path(model_path), Path(output))
