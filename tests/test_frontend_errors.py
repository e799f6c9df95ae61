"""Every unusable model gives one line that says what is wrong and what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from syncnas_tvm.errors import InputError, ModelError, SyncNASError
from syncnas_tvm.frontend import import_onnx, parse_input_shapes

Shape = list[int | str | None]


def values(shapes: dict[str, Shape], dtype: int = TensorProto.FLOAT) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()]


def make(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    initializers: list[onnx.TensorProto] | None = None,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "net", values(inputs, dtype), values(outputs, dtype), initializers or []
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def relu(shape: Shape | None = None, **more) -> onnx.ModelProto:
    shape = shape or [1, 4]
    return make([helper.make_node("Relu", ["x"], ["y"], "act")], {"x": shape}, {"y": shape}, **more)


def conv(channels: int = 4, **more) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((8, channels, 3, 3), "float32"), "w")
    return make(
        [helper.make_node("Conv", ["x", "w"], ["y"], "stem")],
        {"x": ["batch", channels, "height", "width"]},
        {"y": ["batch", 8, None, None]},
        [weight],
        **more,
    )


def fails(path: Path, error: type[Exception] = ModelError, shapes=None) -> str:
    """The message of the error that importing raises."""
    with pytest.raises(error) as caught:
        import_onnx(path, shapes)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def save(tmp_path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


# --- files


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in fails(tmp_path / "net.onnx")


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in fails(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    assert "empty" in fails(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "content",
    [
        np.random.default_rng(0).bytes(4096),
        b"\x7fELF" + bytes(200),
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b"PK\x03\x04 a zipped checkpoint",
        b"just some text\n" * 20,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    ],
)
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    assert "not an ONNX model" in fails(tmp_path / "net.onnx")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = save(tmp_path, conv())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = fails(path)
    assert "truncated" in message or "not an ONNX model" in message


@pytest.mark.parametrize("seed", range(20))
def test_damaged(tmp_path: Path, seed: int) -> None:
    """Whatever bytes change, the model imports or is refused; it never ends in a traceback."""
    path, generator = save(tmp_path, conv()), np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    for position in generator.integers(len(data), size=3):
        data[position] = generator.integers(256)
    path.write_bytes(data)
    with contextlib.suppress(SyncNASError):
        import_onnx(path, {"x": (1, 4, 8, 8)})


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = save(tmp_path, relu())
    path.write_bytes(path.read_bytes().replace(b"act", b"\xc2a\xff"))
    assert "'utf-8' codec" in fails(path)


def test_no_operators(tmp_path: Path) -> None:
    model = relu()
    del model.graph.node[:]
    assert "no operators" in fails(save(tmp_path, model))


def test_checker_complaint_is_one_line(tmp_path: Path) -> None:
    model = relu()
    model.graph.node[0].input[0] = "nowhere"
    message = fails(save(tmp_path, model))
    assert "nowhere" in message
    assert "name: act OpType: Relu" in message


@pytest.mark.parametrize("opset", [9, 10, 24])
def test_opset(tmp_path: Path, opset: int) -> None:
    message = fails(save(tmp_path, relu(opset=opset)))
    assert f"opset {opset}" in message
    assert "11 to 23" in message


def external(tmp_path: Path) -> Path:
    onnx.save(
        conv(),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    return tmp_path / "net.onnx"


def test_missing_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "net.data").unlink()
    message = fails(path)
    assert "external data missing: 'net.data'" in message
    assert "copy it there" in message


def test_truncated_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "net.data").read_bytes()
    (tmp_path / "net.data").write_bytes(data[: len(data) // 2])
    message = fails(path)
    assert "'net.data' is truncated" in message
    assert "'w'" in message


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "net.data").rename(tmp_path.parent / "elsewhere.data")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../elsewhere.data"
    path.write_bytes(model.SerializeToString())
    assert "external data" in fails(path)


# --- operators and types


def test_all_unsupported_operators_are_listed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], "first", domain="com.example"),
        helper.make_node("Relu", ["a"], ["b"], "fine"),
        helper.make_node("Frobnicate", ["b"], ["c"], "second", domain="com.example"),
        helper.make_node("Det", ["c"], ["y"], "determinant"),
    ]
    model = make(nodes, {"x": [1, 4, 4]}, {"y": [1]}, domains=("com.example",))
    message = fails(save(tmp_path, model))
    assert "com.example.Frobnicate (first, second)" in message
    assert "Det (determinant)" in message
    assert "fine" not in message


def test_operator_without_converter(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["y"], "determinant")]
    message = fails(save(tmp_path, make(nodes, {"x": [1, 4, 4]}, {"y": [1]})))
    assert "unsupported operators: Det (determinant)" in message


def test_operator_that_onnx_does_not_know(tmp_path: Path) -> None:
    model = relu()
    model.graph.node[0].op_type = "Gizmo"
    assert "Gizmo (act)" in fails(save(tmp_path, model))


def test_control_flow(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"], "inner")], "branch", [], values({"r": [1, 4]})
    )
    node = helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node],
        "net",
        [*values({"x": [1, 4]}), *values({"c": []}, TensorProto.BOOL)],
        values({"y": [1, 4]}),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert "If (choice)" in fails(save(tmp_path, model))


def test_quantised(tmp_path: Path) -> None:
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    zero = numpy_helper.from_array(np.uint8(0), "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "dequantise"),
    ]
    message = fails(save(tmp_path, make(nodes, {"x": [1, 4]}, {"y": [1, 4]}, [scale, zero])))
    assert "quantised" in message
    assert "DequantizeLinear, QuantizeLinear" in message
    assert "float32 model" in message


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_precisions(tmp_path: Path, dtype: int) -> None:
    message = fails(save(tmp_path, relu(dtype=dtype)))
    assert "input 'x' is" in message
    assert "float32" in message


def test_half_precision_weights(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((1, 4), "float16"), "w")
    nodes = [
        helper.make_node("Cast", ["w"], ["w32"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "w32"], ["y"], "sum"),
    ]
    assert "weight 'w' is float16" in fails(
        save(tmp_path, make(nodes, {"x": [1, 4]}, {"y": [1, 4]}, [weight]))
    )


def test_double_precision_inside(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], "widen", to=TensorProto.DOUBLE),
        helper.make_node("Exp", ["d"], ["e"], "exp"),
        helper.make_node("Cast", ["e"], ["y"], "narrow", to=TensorProto.FLOAT),
    ]
    message = fails(save(tmp_path, make(nodes, {"x": [1, 4]}, {"y": [1, 4]})))
    assert "node 'widen' computes in float64" in message


def test_training_mode(tmp_path: Path) -> None:
    names = ["g", "b", "m", "v"]
    nodes = [
        helper.make_node(
            "BatchNormalization", ["x", *names], ["y", "m2", "v2"], "norm", training_mode=1
        )
    ]
    parameters = [numpy_helper.from_array(np.ones(4, "float32"), name) for name in names]
    outputs: dict[str, Shape] = {"y": [1, 4, 2, 2], "m2": [4], "v2": [4]}
    message = fails(save(tmp_path, make(nodes, {"x": [1, 4, 2, 2]}, outputs, parameters)))
    assert "'norm' is in training mode" in message


def test_converter_failure_names_the_node(tmp_path: Path) -> None:
    nodes = [helper.make_node("Clip", ["x", "lo"], ["y"], "limit")]
    message = fails(save(tmp_path, make(nodes, {"x": [1, 4], "lo": []}, {"y": [1, 4]})))
    assert "node 'limit' (Clip) has a bound that is computed at run time" in message


# --- shapes


def test_dynamic_dimension(tmp_path: Path) -> None:
    message = fails(save(tmp_path, conv()))
    assert "dimension 2 of input 'x' is dynamic, [batch, 4, height, width]" in message
    assert "--input-shapes" in message


def test_unnamed_dynamic_dimension(tmp_path: Path) -> None:
    assert "dimension 1 of input 'x' is dynamic, [1, ?]" in fails(save(tmp_path, relu([1, None])))


def test_input_without_a_shape(tmp_path: Path) -> None:
    model = relu()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "input 'x' has no shape" in fails(save(tmp_path, model))
    assert import_onnx(save(tmp_path, model), {"x": (2, 3)}).inputs[0].shape == (2, 3)


def test_dynamic_values(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"], "indices"),
        helper.make_node("Cast", ["n"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    message = fails(save(tmp_path, make(nodes, {"x": [1, 4]}, {"y": [2, None]})))
    assert "'indices' has a shape that is only known at run time" in message


def test_unknown_input_name(tmp_path: Path) -> None:
    message = fails(save(tmp_path, relu()), InputError, {"image": (1, 4)})
    assert "no input 'image': its inputs are 'x'" in message


def test_weights_are_not_inputs(tmp_path: Path) -> None:
    path = save(tmp_path, conv())
    assert "no input 'w'" in fails(path, InputError, {"w": (1, 4)})


def test_wrong_rank(tmp_path: Path) -> None:
    message = fails(save(tmp_path, conv()), InputError, {"x": (4, 8, 8)})
    assert "input 'x' has 4 dimensions [batch, 4, height, width], got 3" in message


def test_contradicting_shape(tmp_path: Path) -> None:
    message = fails(save(tmp_path, conv()), InputError, {"x": (1, 3, 8, 8)})
    assert "fixed to [batch, 4, height, width]" in message


@pytest.mark.parametrize("extent", [0, -1])
def test_shape_that_is_not_positive(tmp_path: Path, extent: int) -> None:
    message = fails(save(tmp_path, conv()), InputError, {"x": (1, 4, extent, 8)})
    assert "give positive integers" in message


def test_image_smaller_than_the_kernel(tmp_path: Path) -> None:
    message = fails(save(tmp_path, conv()), ModelError, {"x": (1, 4, 2, 2)})
    assert "stem" in message or "without elements" in message


def test_zero_size_input(tmp_path: Path) -> None:
    assert "input 'x' has zero elements, [0, 4]" in fails(save(tmp_path, relu([0, 4])))


def test_zero_size_inside(tmp_path: Path) -> None:
    bounds = [
        numpy_helper.from_array(np.array([value], "int64"), name)
        for name, value in [("begin", 2), ("end", 2), ("axis", 1)]
    ]
    nodes = [
        helper.make_node("Slice", ["x", "begin", "end", "axis"], ["s"], "nothing"),
        helper.make_node("Relu", ["s"], ["y"], "act"),
    ]
    message = fails(save(tmp_path, make(nodes, {"x": [1, 4]}, {"y": [1, 0]}, bounds)))
    assert "'nothing' is a tensor without elements, [1, 0]" in message


# --- the flag


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input:[1,3,224,224]", {"input": (1, 3, 224, 224)}),
        ("a:[1,3] b:[2]", {"a": (1, 3), "b": (2,)}),
        (" a : [ 1 , 3 ],b:[2] ", {"a": (1, 3), "b": (2,)}),
        ("input:0:[1,8]", {"input:0": (1, 8)}),
        ("model/input.1:[4]", {"model/input.1": (4,)}),
        ("scalar:[]", {"scalar": ()}),
    ],
)
def test_input_shapes(text: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert parse_input_shapes(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "1,3,224,224",
        "x:1,3",
        "x:[1,3",
        "x:[1,a]",
        "x:[0]",
        "x:[-1,3]",
        "x:[1] x:[2]",
        ":[1]",
    ],
)
def test_bad_input_shapes(text: str) -> None:
    with pytest.raises(InputError, match=r"--input-shapes") as caught:
        parse_input_shapes(text)
    assert "\n" not in str(caught.value)
