"""Compiled folders: loading, calling, refusing, profiling."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from opencl_tools import pool_stats

import syncnas_tvm
from syncnas_tvm.artifact import digest
from syncnas_tvm.errors import ArtifactError, InputError
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.planner import Budget

ROOT = Path(__file__).resolve().parent.parent
CHANNELS, SIZE = 32, 56


def block_model() -> onnx.ModelProto:
    """A block that is wide enough to keep both lanes busy, a gate that is given, two outputs."""
    rng = np.random.default_rng(0)
    weights = {
        "expand": rng.standard_normal((6 * CHANNELS, CHANNELS, 1, 1)) / 6,
        "depthwise": rng.standard_normal((6 * CHANNELS, 1, 3, 3)) / 3,
        "project": rng.standard_normal((CHANNELS, 6 * CHANNELS, 1, 1)) / 14,
    }
    initializers = [numpy_helper.from_array(w.astype("float32"), n) for n, w in weights.items()]
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "expand"], ["e"]),
        node("Relu", ["e"], ["er"]),
        node("Conv", ["er", "depthwise"], ["d"], group=6 * CHANNELS, pads=[1, 1, 1, 1]),
        node("Relu", ["d"], ["dr"]),
        node("Conv", ["dr", "project"], ["p"]),
        node("Add", ["p", "image"], ["features"]),
        node("Mul", ["features", "gate"], ["gated"]),
    ]
    image, gate = [1, CHANNELS, SIZE, SIZE], [1, CHANNELS, 1, 1]

    def info(name: str, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "block",
        [info("image", image), info("gate", gate)],
        [info("features", image), info("gated", image)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain_model(blocks: int) -> onnx.ModelProto:
    """Blocks without anything between them; one input, one output."""
    model = block_model()
    graph = model.graph
    first = [n for n in graph.node if n.output[0] != "gated"]
    del graph.node[:], graph.input[1:], graph.output[1:]
    value = "image"
    for number in range(blocks):
        for old in first:
            new = onnx.NodeProto()
            new.CopyFrom(old)
            for names in (new.input, new.output):
                for i, name in enumerate(names):
                    if name == "image":
                        names[i] = value
                    elif name not in ("expand", "depthwise", "project"):
                        names[i] = f"{name}{number}"
            graph.node.append(new)
        value = f"features{number}"
    graph.output[0].name = value
    return model


pytestmark = [pytest.mark.usefixtures("nothing_measured"), pytest.mark.alone]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    onnx.save(block_model(), folder / "block.onnx")
    onnx.save(chain_model(3), folder / "chain.onnx")
    return folder


@pytest.fixture(scope="module")
def cpu_folder(work: Path) -> Path:
    syncnas_tvm.compile_onnx(work / "block.onnx", output=work / "cpu", lanes="cpu", timed=False)
    return work / "cpu"


@pytest.fixture(scope="module")
def split_folder(work: Path) -> Path:
    """Three blocks, each cut in halves."""
    halves = [Decision.of(f"r{i}", "ChannelSplit", gpu_share=0.5) for i in range(3)]
    plan = Plan(tuple(halves))
    syncnas_tvm.compile_onnx(work / "chain.onnx", output=work / "split", plan=plan, timed=False)
    return work / "split"


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "image": rng.standard_normal((1, CHANNELS, SIZE, SIZE)).astype("float32"),
        "gate": rng.standard_normal((1, CHANNELS, 1, 1)).astype("float32"),
    }


def reference(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


# Calling.


def test_inputs_by_position_and_by_name(work, cpu_folder, inputs) -> None:
    model = syncnas_tvm.load(cpu_folder)
    assert [s.name for s in model.inputs] == ["image", "gate"]
    assert [s.name for s in model.outputs] == ["features", "gated"]
    expected = reference(work / "block.onnx", inputs)
    image, gate = inputs["image"], inputs["gate"]
    for found in (
        model(image, gate),
        model(image, gate=gate),
        model(gate=gate, image=image),
    ):
        assert list(found) == ["features", "gated"]
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4)


def test_inputs_may_be_called_like_arguments(tmp_path: Path) -> None:
    """Inputs of any name can be given: in one mapping."""
    names = ["repeat", "warmup", "self"]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in names]
    nodes = [
        helper.make_node("Sum", names, ["sum"]),
        helper.make_node("Relu", ["sum"], ["out"]),
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 8])
    graph = helper.make_graph(nodes, "names", info, [out])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    result = syncnas_tvm.compile_onnx(tmp_path / "m.onnx", output=tmp_path / "out", lanes="cpu")
    assert result.latency_us["cpu"].measured
    arrays = {name: np.full((1, 8), i, "float32") for i, name in enumerate(names)}
    model = syncnas_tvm.load(tmp_path / "out")
    np.testing.assert_array_equal(model(arrays)["out"], np.full((1, 8), 3, "float32"))
    assert len(model.time(arrays, repeat=2)) == 2


def test_arrays_that_are_not_contiguous(cpu_folder, inputs) -> None:
    model = syncnas_tvm.load(cpu_folder)
    expected = model(**inputs)
    strided = np.asfortranarray(inputs["image"])
    assert not strided.flags.c_contiguous
    found = model(strided, inputs["gate"])
    np.testing.assert_array_equal(found["gated"], expected["gated"])


def test_results_are_not_overwritten_by_the_next_run(split_folder, inputs) -> None:
    model = syncnas_tvm.load(split_folder)
    (first,) = model(inputs["image"]).values()
    copy = first.copy()
    model(inputs["image"] * 2)
    np.testing.assert_array_equal(first, copy)


def test_inputs_are_not_changed(split_folder, inputs) -> None:
    before = inputs["image"].copy()
    syncnas_tvm.load(split_folder)(inputs["image"])
    np.testing.assert_array_equal(inputs["image"], before)


def _call(case: str, model, image: np.ndarray, gate: np.ndarray) -> object:
    calls = {
        "missing": lambda: model(image),
        "surplus": lambda: model(image, gate, gate),
        "unknown": lambda: model(image, gat=gate),
        "twice": lambda: model(image, gate, image=image),
        "shape": lambda: model(image[:, :3], gate),
        "rank": lambda: model(image[0], gate),
        "type": lambda: model(image.astype("float64"), gate),
        "image": lambda: model((image * 255).astype("uint8"), gate),
    }
    return calls[case]()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", r"input 'gate' is missing; it has shape \(1, 32, 1, 1\) and type float32"),
        ("surplus", r"3 inputs given; the model takes image, gate"),
        ("unknown", r"no input 'gat'; the model takes image, gate"),
        ("twice", r"input 'image' is given twice"),
        (
            "shape",
            rf"input 'image' has shape \(1, 3, {SIZE}, {SIZE}\); "
            rf"the model takes \(1, 32, {SIZE}, {SIZE}\)",
        ),
        ("rank", rf"input 'image' has shape \(32, {SIZE}, {SIZE}\)"),
        ("type", r"'image' has type float64; the model takes float32: convert it with .astype"),
        ("image", r"input 'image' has type uint8"),
    ],
)
def test_wrong_inputs(case: str, message: str, cpu_folder, inputs) -> None:
    model = syncnas_tvm.load(cpu_folder)
    with pytest.raises(InputError, match=message):
        _call(case, model, inputs["image"], inputs["gate"])
    # The model goes on working.
    assert np.isfinite(model(**inputs)["gated"]).all()


# Folders that are not as they were written.


@pytest.fixture
def copy(cpu_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cpu_folder, tmp_path / "copy"))


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_untouched_copy_loads(copy: Path) -> None:
    assert syncnas_tvm.load(copy).manifest.lanes == ("cpu",)


@pytest.mark.parametrize("name", ["model.so", "plan.json", "timeline.json"])
def test_a_changed_file(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match=rf"{name} was changed after compilation; compile"):
        syncnas_tvm.load(copy)


@pytest.mark.parametrize("name", ["model.so", "plan.json", "timeline.json"])
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=rf"lacks {name}; compile the model again"):
        syncnas_tvm.load(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', "\udcff"])
def test_a_damaged_manifest(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=r"manifest.json is not a valid manifest"):
        syncnas_tvm.load(copy)


def test_a_folder_of_another_format(copy: Path) -> None:
    edit_manifest(copy, format=99)
    with pytest.raises(ArtifactError, match="another format than this version reads; compile"):
        syncnas_tvm.load(copy)


def test_other_versions_of_tvm(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    edit_manifest(copy, versions={**manifest["versions"], "apache-tvm": "0.1.0"})
    with pytest.raises(ArtifactError, match=r"compiled with apache-tvm 0.1.0, here is 0.27.*=="):
        syncnas_tvm.load(copy)


@pytest.mark.parametrize("change", [{"cpu": "cortex-a72"}, {"machine": "aarch64-linux-gnu"}])
def test_another_machine(copy: Path, change: dict[str, str]) -> None:
    """Code for another processor ends in an illegal instruction: it is not even loaded."""
    edit_manifest(copy, **change)
    with pytest.raises(ArtifactError, match=r"compiled for target 'host' \(.*\); it runs there"):
        syncnas_tvm.load(copy)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nothing does not exist; give the folder"):
        syncnas_tvm.load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"has no manifest.json; give the folder"):
        syncnas_tvm.load(tmp_path)


def test_manifest(cpu_folder: Path) -> None:
    manifest = json.loads((cpu_folder / "manifest.json").read_text())
    assert manifest["inputs"] == [
        {"name": "image", "shape": [1, CHANNELS, SIZE, SIZE], "dtype": "float32"},
        {"name": "gate", "shape": [1, CHANNELS, 1, 1], "dtype": "float32"},
    ]
    assert manifest["files"] == {
        name: digest(cpu_folder / name) for name in ("model.so", "plan.json", "timeline.json")
    }
    assert sorted(p.name for p in cpu_folder.iterdir()) == sorted(
        [*manifest["files"], "manifest.json"]
    )


# Lanes.


def test_profile(work, split_folder, inputs) -> None:
    """Kernels of both lanes, in the run's time, and both lanes busy at once."""
    model = syncnas_tvm.load(split_folder)
    image = inputs["image"]
    wall_us = np.median(model.time(image, repeat=5))
    timelines = [model.profile(image) for _ in range(5)]
    timeline = timelines[0]
    assert timeline.source == "measured"
    for lane in ("cpu", "gpu"):
        kernels = [s for s in timeline.lane_spans(lane) if s.kind == "kernel"]
        # Expand, depthwise and project, in each of three blocks.
        assert len([k for k in kernels if "dense" in k.name or "depthwise" in k.name]) == 9
        assert {k.region for k in kernels} >= {"r0", "r1", "r2"}
    assert timeline.count("transfer") >= 2
    for found in timelines:
        assert all(s.start_us <= s.end_us for s in found.spans)
        assert min(s.start_us for s in found.spans) >= 0
    # Instruments cost something, and the machine may be busy; a wrong clock would be off by far.
    assert min(t.latency_us for t in timelines) < 20 * wall_us
    assert max(t.overlap_us for t in timelines) > 0.1 * min(t.busy_us("gpu") for t in timelines)


def test_profile_of_one_lane(cpu_folder, inputs) -> None:
    timeline = syncnas_tvm.load(cpu_folder).profile(**inputs)
    assert timeline.busy_us("cpu") > 0
    assert timeline.lane_spans("gpu") == ()
    assert timeline.overlap_us == 0


def test_profiling_ends(split_folder, inputs) -> None:
    """After a profile the model runs without instruments, and means the same."""
    model = syncnas_tvm.load(split_folder)
    (before,) = model(inputs["image"]).values()
    model.profile(inputs["image"])
    (after,) = model(inputs["image"]).values()
    np.testing.assert_array_equal(before, after)


def test_long_timings_are_many_calls(cpu_folder, inputs, monkeypatch) -> None:
    """A call to a device has a time-out, and a curve's stretch may be longer than that."""
    model, asked = syncnas_tvm.load(cpu_folder), []
    monkeypatch.setattr(type(model), "call_s", 0.01)
    measure = model._measure
    monkeypatch.setattr(
        model, "_measure", lambda runs, seconds: asked.append(seconds) or measure(runs, seconds)
    )
    latencies = model.time(inputs, repeat=10**9, warmup=0, seconds=0.2)
    assert len(asked) > 1
    assert max(asked) <= 0.01
    assert len(latencies) >= len(asked)


def test_weights_are_uploaded_once(split_folder, inputs) -> None:
    """50 runs allocate nothing on the GPU and leave nothing behind."""
    model = syncnas_tvm.load(split_folder)
    for _ in range(2):
        model(inputs["image"])
    before = pool_stats()
    for _ in range(50):
        model(inputs["image"])
    after = pool_stats()
    assert after["buffers_created"] == before["buffers_created"]
    assert after["live_bytes"] == before["live_bytes"]
    assert before["live_bytes"] > 0


def test_two_models_at_once(work, split_folder, cpu_folder, inputs) -> None:
    first, second = syncnas_tvm.load(split_folder), syncnas_tvm.load(split_folder)
    third = syncnas_tvm.load(cpu_folder)
    (expected,) = reference(work / "chain.onnx", {"image": inputs["image"]}).values()
    (negated,) = reference(work / "chain.onnx", {"image": -inputs["image"]}).values()
    scale = np.abs(expected).max()
    for _ in range(3):
        (a,) = first(inputs["image"]).values()
        (b,) = second(-inputs["image"]).values()
        assert np.isfinite(third(**inputs)["gated"]).all()
        np.testing.assert_allclose(a, expected, rtol=0, atol=1e-4 * scale)
        np.testing.assert_allclose(b, negated, rtol=0, atol=1e-4 * scale)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


RUN = """
import numpy as np, syncnas_tvm
try:
    model = syncnas_tvm.load({folder!r})
    arrays = model.random_inputs()
    print({{name: float(np.abs(a).sum()) for name, a in model(**arrays).items()}})
except syncnas_tvm.errors.SyncNASError as error:
    print(type(error).__name__, error)
"""


def test_a_plan_for_the_cpu_needs_no_gpu(cpu_folder: Path, tmp_path: Path) -> None:
    empty = {"OCL_ICD_VENDORS": str(tmp_path), "SYNCNAS_OPENCL_DEVICE": ""}
    done = run_python(RUN.format(folder=str(cpu_folder)), **empty)
    assert done.returncode == 0, done.stderr
    assert "'gated'" in done.stdout


def test_a_plan_for_both_lanes_says_that_there_is_no_gpu(split_folder, tmp_path: Path) -> None:
    empty = {"OCL_ICD_VENDORS": str(tmp_path), "SYNCNAS_OPENCL_DEVICE": ""}
    done = run_python(RUN.format(folder=str(split_folder)), **empty)
    assert done.stdout.startswith("DeviceError no OpenCL device for the GPU lane"), done.stderr


def test_a_new_process_gives_the_same(split_folder: Path) -> None:
    model = syncnas_tvm.load(split_folder)
    here = {n: float(np.abs(a).sum()) for n, a in model(**model.random_inputs()).items()}
    done = run_python(RUN.format(folder=str(split_folder)))
    assert done.stdout.strip() == str(here), done.stderr


# Compiling.


def test_a_seed_gives_the_same_plan(work: Path) -> None:
    """With the same costs: the measurements of a cache that both compiles read."""
    model, budget = work / "chain.onnx", Budget(evaluations=200)

    def plan(seed: int) -> Plan:
        return syncnas_tvm.compile_onnx(
            model, target="rk3399", seed=seed, budget=budget, verify=False
        ).plan

    assert plan(5) == plan(5)


def test_a_folder_that_is_compiled_again(work: Path, cpu_folder: Path, tmp_path: Path) -> None:
    """One process loads both versions; the first goes on as it was."""
    folder = tmp_path / "out"
    shutil.copytree(cpu_folder, folder)
    first = syncnas_tvm.load(folder)
    inputs = first.random_inputs()
    before = first(inputs)
    model = block_model()
    for weight in model.graph.initializer:
        doubled = numpy_helper.to_array(weight) * 2
        weight.CopyFrom(numpy_helper.from_array(doubled, weight.name))
    onnx.save(model, tmp_path / "doubled.onnx")
    syncnas_tvm.compile_onnx(tmp_path / "doubled.onnx", "host", folder, lanes="cpu", timed=False)
    second = syncnas_tvm.load(folder)
    session = onnxruntime.InferenceSession(tmp_path / "doubled.onnx")
    expected = dict(zip(second(inputs), session.run(None, inputs), strict=True))
    for name, value in second(inputs).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4)
        assert not np.allclose(value, before[name])
        np.testing.assert_array_equal(first(inputs)[name], before[name])


def test_the_plan_that_was_written_can_be_replayed(work, split_folder, tmp_path) -> None:
    plan = Plan.loads((split_folder / "plan.json").read_text())
    result = syncnas_tvm.compile_onnx(work / "chain.onnx", plan=plan, timed=False)
    assert result.plan == plan
    assert result.folder is None
    assert result.syncs == 4


def test_a_compile_that_fails_leaves_the_old_folder(work, copy, monkeypatch) -> None:
    from syncnas_tvm.errors import VerificationError

    before = {p.name: digest(p) for p in copy.iterdir()}
    with pytest.raises(VerificationError, match="nothing was written"):
        syncnas_tvm.compile_onnx(
            work / "block.onnx", output=copy, lanes="cpu", tolerance=1e-12, timed=False
        )
    assert {p.name: digest(p) for p in copy.iterdir()} == before
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]
