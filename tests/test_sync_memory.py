"""Values between the lanes: the same outputs with every kind of memory, and no needless waiting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import zoo
from opencl_tools import driver_that_answers, needs_opencl_library, run
from test_opencl_device import (
    CPU,
    DEVICE,
    SIGNATURES,
    SLOW_ROUNDS,
    SOURCE,
    call,
    load_kernels,
    profiled,
)
from transfers import move, to_cpu, to_gpu
from tvm import relax

import syncnas_tvm
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.passes.lift_gpu_weights import WEIGHTS_FUNCTION
from syncnas_tvm.planner import Budget

pytestmark = [pytest.mark.usefixtures("nothing_measured"), pytest.mark.alone]

MEMORIES = ("shared", "mapped", "copied")
RUNS = 3


@pytest.fixture(scope="module")
def kernels() -> Any:
    module = load_kernels(SOURCE, SIGNATURES)
    module["slow"](to_gpu(np.zeros(64, "float32")), 1, 1, 1)
    module["fill"](to_gpu(np.zeros(64, "float32")), 1, 1, 64)
    DEVICE.sync()
    return module


# What is chosen


def test_the_device_says_what_it_offers() -> None:
    (listed, *_) = json.loads(call("syncnas.opencl.devices"))
    assert listed["memory"] in MEMORIES
    wish = os.environ.get("SYNCNAS_OPENCL_MEMORY") or listed["memory"]
    assert call("syncnas.opencl.memory", 0) == wish


def test_a_kind_of_memory_that_there_is_not() -> None:
    code = "import tvm; tvm.runtime.empty((1,), 'float32', tvm.opencl(0))"
    done = run(code, SYNCNAS_OPENCL_MEMORY="Mapped")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "SYNCNAS_OPENCL_MEMORY" in line]
    assert "is 'Mapped'; take 'shared', 'mapped' or 'copied', or unset it" in line


SVM_CAPABILITIES, COARSE_GRAIN_BUFFER = 0x1053, 1


@needs_opencl_library
def test_coarse_grained_shared_memory_is_mapped(network: tuple[Path, Path], tmp_path: Path) -> None:
    """It would have to be mapped for each sync too: no more than any buffer promises."""
    driver = driver_that_answers(tmp_path, SVM_CAPABILITIES, "long", COARSE_GRAIN_BUFFER)
    done = run(RUN_NETWORK, *network, RUNS, SYNCNAS_OPENCL_LIBRARY=str(driver))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == "mapped"
    code = "import tvm; tvm.runtime.empty((1,), 'float32', tvm.opencl(0))"
    forced = run(code, SYNCNAS_OPENCL_LIBRARY=str(driver), SYNCNAS_OPENCL_MEMORY="shared")
    assert "has no fine-grained shared virtual memory" in forced.stderr


# Every kind


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A compiled network on both lanes, and a file with inputs and what they have to give."""
    folder = tmp_path_factory.mktemp("memory")
    model = folder / "model.onnx"
    small = zoo.Mobile(zoo.SMALL, 1, 10)
    zoo.randomise(small, 0)
    zoo.save(small.eval(), 64, model, "torchscript", 17)
    syncnas_tvm.compile_onnx(
        model, output=folder / "out", split_all=True, timed=False, budget=Budget(evaluations=50)
    )
    assert syncnas_tvm.load(folder / "out").uses_gpu
    imported = import_onnx(model)
    rng = np.random.default_rng(0)
    arrays = {}
    for number in range(RUNS):
        (spec,) = imported.inputs
        image = rng.standard_normal(spec.shape).astype("float32")
        arrays[f"in{number}"] = image
        (arrays[f"out{number}"],) = imported.original.run({spec.name: image}).values()
    np.savez(folder / "data.npz", **arrays)
    return folder / "out", folder / "data.npz"


RUN_NETWORK = """
    import hashlib, sys
    import numpy as np, tvm, syncnas_tvm
    folder, data, runs = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
    executable = syncnas_tvm.load(folder)
    found = []
    for number in [*range(runs), *range(runs)]:  # buffers of the first round are used again
        (output,) = executable(data[f"in{number}"]).values()
        expected = data[f"out{number}"]
        error = np.abs(output - expected).max() / np.abs(expected).max()
        assert error <= 1e-4, (number, error)
        found.append(hashlib.sha256(output.tobytes()).hexdigest())
    assert found[:runs] == found[runs:]
    kinds = [span.kind for span in executable.profile(data["in0"]).spans]
    assert kinds.count("transfer") >= 6, kinds

    # Values of many sizes, directly behind kernels; freed buffers are used again at once.
    from test_opencl_device import SIGNATURES, SOURCE, empty, load_kernels
    from transfers import move, to_cpu, to_gpu
    kernels = load_kernels(SOURCE, SIGNATURES)
    values = np.random.default_rng(0).random(1 << 19).astype("float32")
    for size in (1, 64, 1000, 1 << 16, 1 << 19):
        for turn in range(20):
            expected = values[:size] + np.float32(turn)
            sent = to_gpu(expected)
            kernels["add_one"](sent, 1, min(size, 64))
            expected[: min(size, 64)] += 1
            back = to_cpu(sent)
            del sent
            other = to_gpu(np.zeros(size, "float32"))
            np.testing.assert_array_equal(back.numpy(), expected)
    # A view into the middle of a buffer, both ways; its neighbours stay.
    whole = to_gpu(values[:100])
    view = whole._create_view((10,), "float32", relative_byte_offset=160)
    np.testing.assert_array_equal(to_cpu(view).numpy(), values[40:50])
    tvm.runtime.tensor(np.full(10, -1, "float32")).copyto(view)
    expected = values[:100].copy()
    expected[40:50] = -1
    np.testing.assert_array_equal(to_cpu(whole).numpy(), expected)
    # Writes and reads in turns.
    x = empty(64)
    for turn in range(100):
        tvm.runtime.tensor(np.full(64, turn, "float32")).copyto(x)
        kernels["add_one"](x, 1, 64)
        assert (x.numpy() == turn + 1).all()
    print(tvm.get_global_func("syncnas.opencl.memory")(0), *found[:runs])
"""


def test_every_memory_gives_the_same(network: tuple[Path, Path]) -> None:
    (listed, *_) = json.loads(call("syncnas.opencl.devices"))
    outputs = set()
    for memory in MEMORIES[0 if listed["memory"] == "shared" else 1 :]:
        done = run(RUN_NETWORK, *network, RUNS, SYNCNAS_OPENCL_MEMORY=memory)
        assert done.returncode == 0, done.stderr[-2000:]
        used, *found = done.stdout.split()
        assert used == memory
        outputs.add(tuple(found))
    (only,) = outputs  # to the bit
    assert len(set(only)) == RUNS


# Waiting


shared_only = pytest.mark.skipif(
    "json.loads(call('syncnas.opencl.devices'))[0]['memory'] != 'shared'"
    " or os.environ.get('SYNCNAS_OPENCL_MEMORY', 'shared') != 'shared'",
    reason="the device shares no memory: one queue for kernels and copies",
)


def is_idle() -> bool:
    return call("syncnas.opencl.is_idle", 0)


@shared_only
def test_a_value_reaches_a_busy_gpu_without_waiting_for_it(kernels: Any) -> None:
    busy = to_gpu(np.full(1, 1000, "float32"))
    assert is_idle()
    kernels["slow"](busy, SLOW_ROUNDS, 1, 1)
    sent = to_gpu(np.full(64, 2, "float32"))
    kernels["add_one"](sent, 1, 64)
    assert not is_idle()
    assert abs(to_cpu(busy).numpy()[0] - 1) < 0.01
    assert (to_cpu(sent).numpy() == 3).all()
    assert is_idle()


@shared_only
def test_a_read_waits_for_its_own_kernel_only(kernels: Any) -> None:
    busy, wanted = to_gpu(np.full(1, 1000, "float32")), to_gpu(np.zeros(64, "float32"))
    kernels["fill"](wanted, 7, 1, 64)
    kernels["slow"](busy, SLOW_ROUNDS, 1, 1)
    assert (to_cpu(wanted).numpy() == 7).all()
    assert not is_idle()
    assert abs(to_cpu(busy).numpy()[0] - 1) < 0.01


@shared_only
def test_many_commands_later_a_read_still_waits_for_its_kernel(kernels: Any) -> None:
    """More than the events that are kept."""
    wanted, other = to_gpu(np.full(1, 1000, "float32")), to_gpu(np.zeros(64, "float32"))
    kernels["slow"](wanted, SLOW_ROUNDS // 10, 1, 1)
    for _ in range(200):
        kernels["add_one"](other, 1, 64)
    assert abs(to_cpu(wanted).numpy()[0] - 1) < 0.01
    assert (to_cpu(other).numpy() == 200).all()


def test_what_was_moved_is_a_copy(kernels: Any) -> None:
    """Memory planning may use the source's memory again at once."""
    source = tvm.runtime.tensor(np.full(5000, 2, "float32"))
    sent = move(source, "gpu")
    source.copyfrom(np.zeros(5000, "float32"))
    back = to_cpu(sent)
    kernels["fill"](sent, 9, 1, 64)
    DEVICE.sync()
    assert (back.numpy() == 2).all()


def test_outputs_outlive_the_next_run(network: tuple[Path, Path]) -> None:
    folder, data = network[0], np.load(network[1])
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), [CPU, DEVICE])
    weights = list(vm[WEIGHTS_FUNCTION]())
    images = [tvm.runtime.tensor(data[f"in{number}"]) for number in range(RUNS)]
    results = [vm["main"](image, *weights) for image in images]
    for number, result in enumerate(results):
        expected = data[f"out{number}"]
        assert np.abs(result.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_recorded_run_shows_transfers_as_commands(kernels: Any) -> None:
    with profiled() as profile:
        sent = to_gpu(np.full(64, 2, "float32"))
        kernels["add_one"](sent, 1, 64)
        assert (to_cpu(sent).numpy() == 3).all()
    names = [record["name"] for record in profile.records]
    assert names == ["write", "add_one", "read"]


def test_other_transfers_are_tvms_own() -> None:
    values = np.arange(6, dtype="float32")
    same = to_cpu(tvm.runtime.tensor(values))
    np.testing.assert_array_equal(same.numpy(), values)
    assert to_cpu(to_gpu(np.zeros((0, 4), "float32"))).numpy().shape == (0, 4)
