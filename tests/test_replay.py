"""Runs of a compiled folder are played back from one captured run: same results, every time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import graph_nets
import numpy as np
import pytest
import tvm
import zoo
from tvm import relax

import syncnas_tvm
from syncnas_tvm.artifact import Manifest, versions
from syncnas_tvm.compiler import compile_onnx
from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.frontend import TensorSpec
from syncnas_tvm.runtime.executable import Executable

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model() -> Path:
    return zoo.export("mobilenet_v2", size=32)


@pytest.fixture(scope="module")
def folder(model: Path, nothing_measured: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every region cut in two: as many syncs as there can be."""
    out = tmp_path_factory.mktemp("replay") / "out"
    compile_onnx(model, split_all=True, timed=False, verify=False, output=out)
    return out


@pytest.fixture(scope="module")
def session(model: Path) -> object:
    return ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def error(session: object, executable: syncnas_tvm.Executable, seed: int) -> float:
    """The largest difference to onnxruntime, relative to its largest output."""
    inputs = executable.random_inputs(seed)
    (ours,) = executable(inputs).values()
    (reference,) = session.run(None, inputs)  # type: ignore[attr-defined]
    return graph_nets.relative_error(ours, reference)


def test_every_run_is_right(folder: Path, session: object) -> None:
    """A value that is overwritten too early shows with inputs that change from run to run."""
    executable = syncnas_tvm.load(folder)
    assert max(error(session, executable, seed) for seed in range(60)) < 1e-4


def test_copied_memory_is_right(folder: Path, model: Path) -> None:
    """The same where lanes share no memory: every transfer is a command of the queue."""
    script = (
        "import onnxruntime as ort, syncnas_tvm, test_replay\n"
        f"session = ort.InferenceSession({str(model)!r})\n"
        f"executable = syncnas_tvm.load({str(folder)!r})\n"
        "print(max(test_replay.error(session, executable, seed) for seed in range(60)))\n"
    )
    environment = {
        **os.environ,
        "SYNCNAS_OPENCL_MEMORY": "copied",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1e-4


def test_outputs_belong_to_the_caller(folder: Path) -> None:
    executable = syncnas_tvm.load(folder)
    (first,) = executable(executable.random_inputs(0)).values()
    kept = first.copy()
    (second,) = executable(executable.random_inputs(1)).values()
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_two_models_do_not_share_memory(folder: Path, session: object) -> None:
    one, other = syncnas_tvm.load(folder), syncnas_tvm.load(folder)
    for seed in range(5):
        assert error(session, one, seed) < 1e-4
        assert error(session, other, seed + 100) < 1e-4


def test_threads_take_turns(folder: Path, session: object) -> None:
    executable = syncnas_tvm.load(folder)
    inputs = [executable.random_inputs(seed) for seed in range(2)]
    expected = [session.run(None, given)[0] for given in inputs]  # type: ignore[attr-defined]
    wrong: list[float] = []

    def work(which: int) -> None:
        for _ in range(30):
            (ours,) = executable(inputs[which]).values()
            deviation = graph_nets.relative_error(ours, expected[which])
            if deviation > 1e-4:
                wrong.append(deviation)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_call_that_makes_its_result_is_refused(tmp_path: Path) -> None:
    """A captured run would give the first run's result for ever."""
    tvm.register_global_func("test_replay.negative", lambda x: tvm.runtime.tensor(-x.numpy()))
    builder, type_ = relax.BlockBuilder(), relax.TensorType((4,), "float32")
    x = relax.Var("x", type_)
    with builder.function("main", [x]):
        negated = relax.op.call_pure_packed("test_replay.negative", x, ty_args=[type_])
        builder.emit_func_output(builder.emit(negated))
    relax.build(builder.get(), "llvm").export_library(str(tmp_path / "model.so"))
    spec = (TensorSpec("x", (4,), "float32"),)
    manifest = Manifest("host", "", "", True, ("cpu",), 0, spec, spec, versions(), {})
    with pytest.raises(ArtifactError, match=r"test_replay\.negative, which makes its result"):
        Executable(tmp_path, manifest)
