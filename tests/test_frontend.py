"""Whole models through the frontend: canonical, named, and equal to onnxruntime."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
import zoo
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from syncnas_tvm.frontend import ImportedModel, import_onnx, normalize
from syncnas_tvm.passes._dataflow import constant, main_block, op_name

TOLERANCE = 1e-4

# What may be left in the networks of the zoo after normalising.
CANONICAL_OPS = {
    "relax.add",
    "relax.clip",
    "relax.matmul",
    "relax.mean",
    "relax.multiply",
    "relax.nn.conv2d",
    "relax.nn.max_pool2d",
    "relax.nn.pad",
    "relax.nn.relu",
    "relax.nn.silu",
    "relax.reshape",
    "relax.sigmoid",
}

# Some of what each network consists of, from its table.
EXPECTED: dict[str, dict[str, int]] = {
    "mobilenet_v2": {"relax.nn.conv2d": 52, "relax.clip": 35, "relax.matmul": 1},
    "efficientnet_b0": {"relax.nn.silu": 49, "relax.sigmoid": 16, "relax.mean": 17},
    "mobilenet_v3_large": {"relax.clip": 29, "relax.nn.relu": 19, "relax.mean": 9},
    "mixnet_m": {"relax.nn.conv2d": 90, "relax.multiply": 16},
    "rexnet_1_0": {"relax.clip": 16, "relax.nn.pad": 11},
    "efficientnet_lite0": {"relax.nn.conv2d": 49, "relax.clip": 33},
}


def ops_of(model: ImportedModel) -> Counter[str]:
    return Counter(
        op_name(b.value) or type(b.value).__name__ for b in main_block(model.mod).bindings
    )


def run_plain(model: ImportedModel, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The module through TVM's default pipeline for one core."""
    # Built without optimisation: the kernels run once.
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    executable = tvm.compile(model.mod, target=target)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    results = machine["main"](*(tvm.runtime.tensor(feeds[spec.name]) for spec in model.inputs))
    results = [results] if isinstance(results, tvm.runtime.Tensor) else list(results)
    return {s.name: r.numpy() for s, r in zip(model.outputs, results, strict=True)}


def random_feeds(model: ImportedModel, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {s.name: generator.standard_normal(s.shape, "float32") for s in model.inputs}


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def assert_matches(model: ImportedModel) -> None:
    """The module computes what onnxruntime computes from the original file."""
    feeds = random_feeds(model)
    got, expected = run_plain(model, feeds), model.original.run(feeds)
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name].shape == expected[name].shape
        assert relative_error(got[name], expected[name]) < TOLERANCE, name


def assert_canonical(model: ImportedModel) -> None:
    """Structure that other parts rely on, for a network of the zoo."""
    assert set(ops_of(model)) <= CANONICAL_OPS
    assert [str(v.name_hint) for v in model.mod.get_global_vars()] == ["main"]
    assert len(model.mod["main"].params) == len(model.inputs)
    relax.analysis.well_formed(model.mod)  # raises
    for binding in main_block(model.mod).bindings:
        call = binding.value
        if op_name(call) == "relax.nn.conv2d":
            assert (call.attrs.data_layout, call.attrs.kernel_layout) == ("NCHW", "OIHW")
            assert len(call.attrs.padding) == 4
            assert constant(call.args[1]) is not None
        if op_name(call) in ("relax.add", "relax.multiply"):
            assert constant(call.args[0]) is None
            value = constant(call.args[1])
            assert value is None or value.ndim in (0, 1, len(call.ty.shape.values))
        if op_name(call) == "relax.mean":
            assert list(call.attrs.axis) == [2, 3]
            assert call.attrs.keepdims
    tvm.ir.assert_structural_equal(normalize(model.mod), model.mod)


@pytest.mark.parametrize("name", [*zoo.RANDOM_MODELS, *zoo.TRAINED_MODELS])
def test_zoo(name: str) -> None:
    """Canonical, numerically the original, and the same whichever exporter wrote the file."""
    found = []
    for exporter in ("torchscript", "dynamo"):
        model = import_onnx(zoo.export(name, size=64, exporter=exporter))
        assert_canonical(model)
        assert_matches(model)
        found.append(ops_of(model))
    assert found[0] == found[1]
    assert EXPECTED.get(name, {}).items() <= found[0].items()


@pytest.mark.parametrize("name", zoo.RANDOM_MODELS)
def test_zoo_is_the_published_network(name: str) -> None:
    parameters = sum(p.numel() for p in zoo.build(name).parameters())
    assert parameters == zoo.PARAMETERS[name]


def test_bindings_are_named_after_onnx_nodes() -> None:
    path = zoo.export("mobilenet_v3_large", size=64)
    model = import_onnx(path)
    names = [binding.var.name for binding in main_block(model.mod).bindings]
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith(("lv", "gv"))]
    assert set(model.node_names) == set(names)
    assert set(model.node_names.values()) <= {node.name for node in onnx.load(path).graph.node}
    assert model.node_names["blocks_blocks_3_excite_gate_HardSigmoid_scale"] == (
        "/blocks/blocks.3/excite/gate/HardSigmoid"
    )


def test_proto_is_static_and_runs() -> None:
    import onnxruntime

    model = import_onnx(zoo.export("efficientnet_lite0", size=64))
    for value in [*model.proto.graph.input, *model.proto.graph.output]:
        assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)
    feeds = random_feeds(model)
    session = onnxruntime.InferenceSession(model.proto.SerializeToString())
    (slimmed,) = session.run(None, feeds)
    assert relative_error(slimmed, model.original.run(feeds)["output"]) < 1e-5


def weight(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape, "float32")
    return numpy_helper.from_array(
        values / np.sqrt(np.prod(shape[1:]) or 1).astype("float32"), name
    )


def save_graph(path: Path, nodes, inputs, outputs, initializers=(), opset: int = 17) -> Path:
    """Write a model of float tensors; shapes are lists with numbers, symbols or None."""
    values = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in group.items()]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(list(nodes), "net", *values, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def small_network(path: Path, opset: int, batch: int | str = 1) -> Path:
    """A block with batch norm, relu6, a gate and a classifier, as the opset spells it."""
    constants = [
        weight("w0", 8, 3, 3, 3),
        weight("w1", 8, 1, 3, 3),
        weight("w2", 8, 8, 1, 1),
        weight("fc", 10, 8),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
        numpy_helper.from_array(np.array([2, 3], "int64"), "axes"),
        numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1], "int64"), "pads"),
        numpy_helper.from_array(np.array([-1, 8], "int64"), "flat"),
        *(
            numpy_helper.from_array(np.linspace(lo, hi, 8, dtype="float32"), name)
            for name, lo, hi in [("g", 0.5, 2), ("b", -1, 1), ("m", -0.2, 0.2), ("v", 0.5, 1.5)]
        ),
    ]
    pooled = (
        helper.make_node("ReduceMean", ["y2", "axes"], ["p"], "pool", keepdims=1)
        if opset >= 18
        else helper.make_node("ReduceMean", ["y2"], ["p"], "pool", axes=[2, 3], keepdims=1)
    )
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["px"], "pad"),
        helper.make_node("Conv", ["px", "w0"], ["c0"], "stem", strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c0", "g", "b", "m", "v"], ["n0"], "norm"),
        helper.make_node("Clip", ["n0", "zero", "six"], ["y0"], "act"),
        helper.make_node("Conv", ["y0", "w1"], ["c1"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("HardSigmoid", ["c1"], ["y1"], "gate", alpha=0.2, beta=0.5),
        helper.make_node("Mul", ["y1", "c1"], ["y2"], "scale"),
        pooled,
        helper.make_node("Conv", ["p", "w2"], ["c2"], "head"),
        helper.make_node("Reshape", ["c2", "flat"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc"], ["out"], "classify", transB=1),
    ]
    shapes = {"x": [batch, 3, 16, 16]}, {"out": [batch, 10]}
    return save_graph(path, nodes, *shapes, constants, opset)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20, 23])
def test_opsets(tmp_path: Path, opset: int) -> None:
    model = import_onnx(small_network(tmp_path / "net.onnx", opset))
    assert_canonical(model)
    assert_matches(model)


@pytest.mark.parametrize("opset", [11, 13, 20])
def test_torchscript_opsets(opset: int) -> None:
    """Up to opset 13 torch writes hard-swish as several operators; the result is the same."""
    old, new = (
        import_onnx(zoo.export("mobilenet_v3_large", size=64, opset=o, width=0.5))
        for o in (opset, 17)
    )
    tvm.ir.assert_structural_equal(old.mod, new.mod)


def test_dynamic_batch_is_one_unless_given(tmp_path: Path) -> None:
    path = small_network(tmp_path / "net.onnx", 17, batch="batch")
    assert import_onnx(path).inputs[0].shape == (1, 3, 16, 16)
    model = import_onnx(path, {"x": (2, 3, 16, 16)})
    assert model.inputs[0].shape == (2, 3, 16, 16)
    assert model.outputs[0].shape == (2, 10)
    assert_matches(model)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_dynamic_image_size(tmp_path: Path, exporter: str) -> None:
    import torch

    axes, dynamic = {0: "batch", 2: "height", 3: "width"}, torch.export.Dim.DYNAMIC
    options: dict[str, object] = {"dynamic_axes": {"input": axes}}
    if exporter == "dynamo":
        options = {"dynamic_shapes": ({0: torch.export.Dim("batch"), 2: dynamic, 3: dynamic},)}
    path = tmp_path / "net.onnx"
    model = zoo.build("mobilenet_v2", width=0.25)
    zoo.save(model, 64, path, exporter, 17 if exporter == "torchscript" else 18, **options)
    imported = import_onnx(path, {"input": (2, 3, 96, 64)})
    assert imported.inputs[0].shape == (2, 3, 96, 64)
    assert_canonical(imported)
    assert_matches(imported)


def test_one_symbol_in_two_inputs_has_one_value(tmp_path: Path) -> None:
    shape = ["n", 4, "size"]
    nodes = [helper.make_node("Add", ["a", "b"], ["c"], "sum")]
    path = save_graph(tmp_path / "net.onnx", nodes, {"a": shape, "b": shape}, {"c": shape})
    model = import_onnx(path, {"a": (3, 4, 5)})
    assert [spec.shape for spec in model.inputs] == [(3, 4, 5), (3, 4, 5)]
    assert_matches(model)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["features"], "act"),
        helper.make_node("Mul", ["features", "gate"], ["scaled"], "scale"),
        helper.make_node("GlobalAveragePool", ["scaled"], ["means"], "pool"),
    ]
    path = save_graph(
        tmp_path / "net.onnx",
        nodes,
        {"image": [1, 3, 8, 8], "gate": [1, 8, 1, 1]},
        {"means": [1, 8, 1, 1], "features": [1, 8, 8, 8]},
        [weight("w0", 8, 3, 3, 3)],
    )
    model = import_onnx(path)
    assert [spec.name for spec in model.inputs] == ["image", "gate"]
    assert [(spec.name, spec.shape) for spec in model.outputs] == [
        ("means", (1, 8, 1, 1)),
        ("features", (1, 8, 8, 8)),
    ]
    assert_matches(model)


def test_weights_listed_as_inputs(tmp_path: Path) -> None:
    path = small_network(tmp_path / "net.onnx", 13)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        listed = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(listed)
    onnx.save(model, path)
    imported = import_onnx(path)
    assert [spec.name for spec in imported.inputs] == ["x"]
    assert_matches(imported)


def test_external_data(tmp_path: Path) -> None:
    path = small_network(tmp_path / "net.onnx", 17)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=200)
    assert (tmp_path / "net.data").exists()
    assert_matches(import_onnx(path))


def test_nodes_without_names(tmp_path: Path) -> None:
    path = small_network(tmp_path / "net.onnx", 17)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, path)
    imported = import_onnx(path)
    assert "out" in imported.node_names
    assert_matches(imported)


def test_names_that_are_no_identifiers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["input:0"], ["1/a"], "1/a"),
        helper.make_node("Sigmoid", ["1/a"], ["out put"], "1.a"),
    ]
    shape = [1, 4]
    path = save_graph(tmp_path / "net.onnx", nodes, {"input:0": shape}, {"out put": shape})
    model = import_onnx(path)
    assert (model.inputs[0].name, model.outputs[0].name) == ("input:0", "out put")
    assert list(model.node_names.values()) == ["1/a", "1.a"]
    assert all(name.isidentifier() for name in model.node_names)
    assert_matches(model)


def test_output_that_is_an_input(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"], "same")]
    path = save_graph(tmp_path / "net.onnx", nodes, {"x": [1, 4]}, {"y": [1, 4]})
    assert_matches(import_onnx(path))


def test_nothing_is_printed_and_torch_stays_out(tmp_path: Path) -> None:
    path = small_network(tmp_path / "net.onnx", 17)
    code = (
        "import sys, syncnas_tvm.frontend\n"
        "assert 'torch' not in sys.modules and 'tvm' not in sys.modules\n"
        "from syncnas_tvm.frontend import import_onnx\n"
        f"import_onnx({str(path)!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
