"""Runs of a compiled folder are played back from one captured run: same results, every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import graph_nets
import numpy as np
import onnx
import pytest
import tvm
import zoo
from tvm import relax

import syncnas_tvm
from syncnas_tvm.artifact import Manifest, versions
from syncnas_tvm.compiler import compile_onnx
from syncnas_tvm.errors import ArtifactError
from syncnas_tvm.flows import flows
from syncnas_tvm.frontend import TensorSpec, import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.passes.row_split import RowSplit
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.runtime.executable import Executable
from syncnas_tvm.targets import load_target
from syncnas_tvm.timeline import RECEIVED
from syncnas_tvm.work import LANES

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model() -> Path:
    return zoo.export("mobilenet_v2", size=64)


def bands(model: Path, rows_first: bool) -> Plan:
    """Every region cut by rows where it can be, each a little elsewhere than the one before.

    With ``rows_first``, two of each lane are computed first where it has so many and one more.
    """
    graph = RegionGraph(import_onnx(model).mod, load_target("host").channel_step)
    decisions = []
    for number, region in enumerate(graph.regions):
        cuts = [d for d in RowSplit().variants(graph, region) if len(d.regions) == 1]
        at = min(len(cuts) - 1, len(cuts) // 2 + number % 3 - 1)
        place = Decision.of(region.name, "Place", lane=LANES[number % 2])
        decision = cuts[max(0, at)] if cuts else place
        params = dict(decision.params)
        height = region.out_shapes[0][2] if cuts else 0
        if rows_first and cuts and 2 < params["cpu_rows"] < height - 2:
            params |= {"cpu_border": 2, "gpu_border": 2}
            decision = Decision.of(decision.regions, decision.rule, **params)
        decisions.append(decision)
    if rows_first:
        assert sum("cpu_border" in dict(d.params) for d in decisions) > 5
    return Plan(tuple(decisions))


@pytest.fixture(scope="module", params=["channels", "rows", "rows first"])
def folder(
    request: pytest.FixtureRequest,
    model: Path,
    nothing_measured: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Every region cut in two: as many syncs as there can be."""
    out = tmp_path_factory.mktemp("replay") / "out"
    rows = request.param.startswith("rows")  # type: ignore[attr-defined]
    plan = bands(model, request.param == "rows first") if rows else None
    compile_onnx(model, plan=plan, split_all=plan is None, timed=False, verify=False, output=out)
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


EVERY_RUN = """
import hashlib, json, sys
import onnxruntime as ort, syncnas_tvm, test_replay, tvm
session, executable = ort.InferenceSession(sys.argv[1]), syncnas_tvm.load(sys.argv[2])
worst, found = 0.0, hashlib.sha256()
for seed in range(60):
    worst = max(worst, test_replay.error(session, executable, seed))
    found.update(next(iter(executable(executable.random_inputs(seed)).values())).tobytes())
queue = {record["name"] for record in json.loads(executable._runner["profile"]())["queue"]}
print(tvm.get_global_func("syncnas.opencl.memory")(0), worst, found.hexdigest())
print(*sorted(queue & {"read", "write", "unmap"}))
"""
COMMANDS = {"shared": [], "mapped": ["read", "unmap", "write"], "copied": ["read", "write"]}


def test_every_memory_is_right(folder: Path, model: Path) -> None:
    """How values get to the other lane and back changes no bit of the outputs."""
    offered = json.loads(tvm.get_global_func("syncnas.opencl.devices")())[0]["memory"]
    outputs = set()
    for memory, commands in COMMANDS.items():
        if memory == "shared" != offered:
            continue
        tests = str(Path(__file__).parent)
        path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-c", EVERY_RUN, model, folder],
            env={**os.environ, "SYNCNAS_OPENCL_MEMORY": memory, "PYTHONPATH": path},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        used, worst, found, *queued = done.stdout.split()
        assert (used, queued) == (memory, commands)
        assert float(worst) < 1e-4
        outputs.add(found)
    assert len(outputs) == 1


def test_arrows_of_rows_that_left_first(model: Path, folder: Path) -> None:
    """They come from the kernel of the border, and end where the next run reads."""
    plan = json.loads((folder / "plan.json").read_text())["decisions"]
    cut = [n for d in plan for n in d["regions"] if "cpu_border" in d]
    executable = syncnas_tvm.load(folder)
    measured = executable.profile(executable.random_inputs(0))
    kinds = {s.kind for s in measured.lane_spans("host") if s.name == "enqueue gpu to cpu"}
    received = [s for s in measured.lane_spans("host") if s.name.endswith(RECEIVED)]
    assert kinds == ({"sync"} if cut else set())
    assert bool(received) == bool(cut)
    for made, read in flows(measured) if cut else ():
        assert int(made.region[1:]) < int(read.region[1:]), (made, read)


def grouped(path: Path) -> Path:
    """Convolutions of groups, which have no kernels of ours, and values named as regions are."""
    rng, channels, nodes, weights, last = np.random.default_rng(0), 32, [], [], "image"
    for i in range(4):
        weight = rng.standard_normal((channels, 4, 3, 3)).astype("float32") / 6
        weights.append(onnx.numpy_helper.from_array(weight, f"w{i}"))
        conv = {"pads": [1] * 4, "group": channels // 4}
        nodes.append(onnx.helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], **conv))
        nodes.append(onnx.helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 56, 56])
        for name in ("image", last)
    ]
    graph = onnx.helper.make_graph(nodes, "grouped", ends[:1], ends[1:], weights)
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


@pytest.mark.parametrize("rows_first", [False, True])
def test_rows_beside_a_kernel_that_writes_all(
    rows_first: bool, nothing_measured: None, tmp_path: Path
) -> None:
    """Where memory is shared, the host has to wait for it before it writes the other lane's rows."""
    model = grouped(tmp_path / "grouped.onnx")
    graph = RegionGraph(import_onnx(model).mod, load_target("host").channel_step)
    params = {"cpu_rows": 28} | ({"cpu_border": 2, "gpu_border": 2} if rows_first else {})
    plan = Plan(tuple(Decision.of(name, "RowSplit", **params) for name in graph.names))
    assert len(plan.decisions) == 4
    compile_onnx(model, plan=plan, timed=False, verify=False, output=tmp_path / "out")
    executable = syncnas_tvm.load(tmp_path / "out")
    reference = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    assert max(error(reference, executable, seed) for seed in range(20)) < 1e-4


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
