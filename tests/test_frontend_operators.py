"""Single operators in all their ONNX forms, from file to numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from onnx import TensorProto, helper, numpy_helper
from test_frontend import assert_canonical, assert_matches, ops_of, save_graph, weight
from torch import nn
from torch.nn import functional

from syncnas_tvm.frontend import import_onnx

IMAGE = [1, 4, 9, 7]


def const(name: str, value: object, dtype: str = "float32") -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def node(op: str, inputs: str, outputs: str = "y", **attrs: object):
    names = [name if name != "-" else "" for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), f"{op}_to_{outputs[0]}", **attrs)


W3 = weight("w", 8, 4, 3, 3)
# name: nodes, output shape, constants, opset
CASES: dict[str, tuple] = {
    "clip both": ([node("Clip", "x lo hi")], IMAGE, [const("lo", -0.5), const("hi", 0.5)], 17),
    "clip below": ([node("Clip", "x lo")], IMAGE, [const("lo", -0.5)], 13),
    "clip above": ([node("Clip", "x - hi")], IMAGE, [const("hi", 0.5)], 11),
    "clip not at all": ([node("Clip", "x")], IMAGE, [], 12),
    "conv same upper": (
        [node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2])],
        [1, 8, 5, 4],
        [W3],
        17,
    ),
    "conv same lower": (
        [node("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 3])],
        [1, 8, 5, 3],
        [W3],
        17,
    ),
    "conv valid": ([node("Conv", "x w", auto_pad="VALID")], [1, 8, 7, 5], [W3], 17),
    "conv asymmetric": ([node("Conv", "x w", pads=[0, 1, 2, 3])], [1, 8, 9, 9], [W3], 17),
    "conv dilated": (
        [node("Conv", "x w", dilations=[2, 2], pads=[2, 2, 2, 2])],
        [1, 8, 9, 7],
        [W3],
        17,
    ),
    "conv with bias": ([node("Conv", "x w b")], [1, 8, 7, 5], [W3, weight("b", 8)], 17),
    "conv transposed": (
        [node("ConvTranspose", "x w", strides=[2, 2])],
        [1, 3, 19, 15],
        [weight("w", 4, 3, 3, 3)],
        17,
    ),
    "max pool": (
        [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        [1, 4, 5, 4],
        [],
        17,
    ),
    "max pool same lower": (
        [node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")],
        [1, 4, 5, 4],
        [],
        17,
    ),
    "average pool": (
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        [1, 4, 9, 7],
        [],
        17,
    ),
    "average pool, padding counted": (
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        [1, 4, 9, 7],
        [],
        17,
    ),
    "average pool of everything": (
        [node("AveragePool", "x", kernel_shape=[9, 7])],
        [1, 4, 1, 1],
        [],
        17,
    ),
    "global max pool": ([node("GlobalMaxPool", "x")], [1, 4, 1, 1], [], 17),
    "pad": (
        [node("Pad", "x pads")],
        [1, 5, 10, 9],
        [const("pads", [0, 0, 1, 0, 0, 1, 0, 2], "int64")],
        13,
    ),
    "pad with a value": (
        [node("Pad", "x pads value")],
        [1, 4, 10, 9],
        [const("pads", [0, 0, 1, 0, 0, 0, 0, 2], "int64"), const("value", 3)],
        13,
    ),
    "pad some axes": (
        [node("Pad", "x pads - axes")],
        [1, 4, 9, 10],
        [const("pads", [1, 2], "int64"), const("axes", [-1], "int64")],
        18,
    ),
    "pad by reflection": (
        [node("Pad", "x pads", mode="reflect")],
        [1, 4, 11, 9],
        [const("pads", [0, 0, 1, 1, 0, 0, 1, 1], "int64")],
        17,
    ),
    "pad with the edge": (
        [node("Pad", "x pads", mode="edge")],
        [1, 4, 11, 9],
        [const("pads", [0, 0, 1, 1, 0, 0, 1, 1], "int64")],
        17,
    ),
    "pad less than nothing": (
        [node("Pad", "x pads")],
        [1, 4, 8, 7],
        [const("pads", [0, 0, -2, 1, 0, 0, 1, -1], "int64")],
        17,
    ),
    "split in equal parts": (
        [node("Split", "x", "a b", axis=1), node("Sub", "a b")],
        [1, 2, 9, 7],
        [],
        13,
    ),
    "split by attribute": (
        [node("Split", "x", "a b", axis=1, split=[1, 3]), node("Mul", "a b")],
        [1, 3, 9, 7],
        [],
        11,
    ),
    "split by input": (
        [node("Split", "x parts", "a b", axis=-3), node("Mul", "a b")],
        [1, 3, 9, 7],
        [const("parts", [1, 3], "int64")],
        13,
    ),
    "split with a smaller last part": (
        [node("Split", "x", "a b", axis=2, num_outputs=2), node("Concat", "b a", axis=2)],
        IMAGE,
        [],
        18,
    ),
    "maximum of three": (
        [node("Max", "x a b")],
        IMAGE,
        [const("a", 0.1), weight("b", 4, 1, 1)],
        13,
    ),
    "minimum of one": ([node("Min", "x")], IMAGE, [], 13),
    "sum": ([node("Sum", "x a x")], IMAGE, [weight("a", 1, 4, 1, 1)], 13),
    "mean of several": ([node("Mean", "x a x")], IMAGE, [weight("a", 1, 4, 1, 1)], 13),
    "tile": ([node("Tile", "x r")], [1, 8, 9, 7], [const("r", [1, 2, 1, 1], "int64")], 17),
    "dropout": ([node("Dropout", "x")], IMAGE, [], 13),
    "channel shuffle": (
        [
            node("Reshape", "x s0", "a"),
            node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "b s1"),
        ],
        IMAGE,
        [const("s0", [1, 2, 2, 9, 7], "int64"), const("s1", [0, -1, 9, 7], "int64")],
        17,
    ),
    "leaky relu": ([node("LeakyRelu", "x", alpha=0.2)], IMAGE, [], 17),
    "prelu": ([node("PRelu", "x s")], IMAGE, [weight("s", 4, 1, 1)], 17),
    "elu": ([node("Elu", "x")], IMAGE, [], 17),
    "gather": (
        [node("Gather", "x i", axis=1)],
        [1, 3, 9, 7],
        [const("i", [-1, 0, 2], "int64")],
        17,
    ),
    "gather one": ([node("Gather", "x i", axis=-1)], [1, 4, 9], [const("i", -2, "int64")], 17),
    "gelu": ([node("Gelu", "x")], IMAGE, [], 20),
    "softplus": ([node("Softplus", "x")], IMAGE, [], 17),
    "mish": ([node("Mish", "x")], IMAGE, [], 18),
    "softmax": ([node("Softmax", "x", axis=1)], IMAGE, [], 17),
    "instance norm": (
        [node("InstanceNormalization", "x s b")],
        IMAGE,
        [weight("s", 4), weight("b", 4)],
        17,
    ),
    "nearest resize": (
        [
            node(
                "Resize",
                "x - scales",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        [1, 4, 18, 14],
        [const("scales", [1, 1, 2, 2])],
        17,
    ),
    "one minus": ([node("Sub", "one x")], IMAGE, [const("one", 1)], 17),
    "reciprocal of exp": (
        [
            node("Neg", "x", "a"),
            node("Exp", "a", "b"),
            node("Add", "b one", "c"),
            node("Reciprocal", "c"),
        ],
        IMAGE,
        [const("one", [1])],
        17,
    ),
    "batch norm of an input": (
        [node("BatchNormalization", "x s b m v")],
        IMAGE,
        [weight("s", 4), weight("b", 4), weight("m", 4), const("v", [0.5, 1, 1.5, 2])],
        17,
    ),
    "mean over all, opset 17": (
        [node("ReduceMean", "x", axes=[-2, -1], keepdims=0)],
        [1, 4],
        [],
        17,
    ),
    "mean over all, opset 18": (
        [node("ReduceMean", "x axes", keepdims=0)],
        [1, 4],
        [const("axes", [2, 3], "int64")],
        18,
    ),
    "flatten": ([node("Flatten", "x", axis=-2)], [4, 63], [], 17),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    nodes, shape, constants, opset = CASES[name]
    path = save_graph(tmp_path / "net.onnx", nodes, {"x": IMAGE}, {"y": shape}, constants, opset)
    model = import_onnx(path)
    assert "relax.call_tir" not in ops_of(model)
    assert "relax.nn.batch_norm" not in ops_of(model)
    assert model.outputs[0].shape == tuple(shape)
    assert_matches(model)


DENSE: dict[str, tuple] = {
    "transposed": ([node("Gemm", "x w", transB=1)], [weight("w", 5, 6)]),
    "scaled": (
        [node("Gemm", "x w b", alpha=0.5, beta=2.0)],
        [weight("w", 6, 5), weight("b", 5)],
    ),
    "transposed input": (
        [node("Transpose", "x", "t", perm=[1, 0]), node("Gemm", "t w", transA=1)],
        [weight("w", 6, 5)],
    ),
    "bias per row": ([node("Gemm", "x w b")], [weight("w", 6, 5), weight("b", 2, 1)]),
    "scalar bias": ([node("Gemm", "x w b")], [weight("w", 6, 5), const("b", 0.5)]),
    "matmul and add": (
        [node("MatMul", "x w", "p"), node("Add", "b p")],
        [weight("w", 6, 5), weight("b", 1, 5)],
    ),
    "batch norm after it": (
        [node("MatMul", "x w", "p"), node("BatchNormalization", "p s b m v")],
        [
            weight("w", 6, 5),
            *(weight(n, 5) for n in "sbm"),
            const("v", [0.5, 1, 1.5, 2, 2.5]),
        ],
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense(name: str, tmp_path: Path) -> None:
    nodes, constants = DENSE[name]
    path = save_graph(tmp_path / "net.onnx", nodes, {"x": [2, 6]}, {"y": [2, 5]}, constants)
    model = import_onnx(path)
    assert set(ops_of(model)) <= {"relax.matmul", "relax.add", "relax.permute_dims"}
    assert_matches(model)


def test_unused_input_stays(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "net.onnx",
        [node("Relu", "x")],
        {"unused": [1, 3], "x": [1, 4]},
        {"y": [1, 4]},
    )
    model = import_onnx(path)
    assert [spec.name for spec in model.inputs] == ["unused", "x"]
    assert_matches(model)


def test_output_twice_and_constant(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "net.onnx",
        [node("Relu", "x", "a"), node("Identity", "a", "b"), node("Identity", "w", "c")],
        {"x": [1, 4]},
        {"a": [1, 4], "b": [1, 4], "c": [2, 3]},
        [weight("w", 2, 3)],
    )
    assert_matches(import_onnx(path))


def hard_gate(x: torch.Tensor) -> torch.Tensor:
    return functional.relu6(x + 3) / 6


HARD_SWISH = {
    "product divided": lambda x: x * functional.relu6(x + 3) / 6,
    "gate divided": lambda x: x * hard_gate(x),
    "product scaled": lambda x: x * functional.hardtanh(x + 3, 0, 6) * (1 / 6),
    "scaled inside": lambda x: x * torch.clamp(x / 6 + 0.5, min=0, max=1),
    "two bounds": lambda x: torch.clamp(torch.clamp(x + 3, min=0), max=6).div(6.0) * x,
    "one operator": functional.hardswish,
}
SWISH = {
    "product": lambda x: x * torch.sigmoid(x),
    "gate first": lambda x: torch.sigmoid(x) * x,
    "quotient": lambda x: x / (1 + torch.exp(-x)),
    "one operator": functional.silu,
}


class Gated(nn.Module):
    """A convolution, an activation, and squeeze-and-excite made of dense layers."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor], flat: bool) -> None:
        super().__init__()
        self.stem = zoo.ConvNorm(3, 16, (3,), 2)
        self.reduce, self.expand = nn.Linear(16, 4), nn.Linear(4, 16)
        self.spelling, self.flat = act, flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.spelling(self.stem(x))
        means = x.view(x.size(0), x.size(1), -1).mean(-1) if self.flat else x.mean([2, 3])
        gate = hard_gate(self.expand(torch.relu(self.reduce(means))))
        if self.flat:
            return x * gate.view(gate.size(0), -1, 1, 1)
        return x * gate.unsqueeze(-1).unsqueeze(-1)


GATE = {"relax.add": 4, "relax.clip": 1, "relax.matmul": 2, "relax.mean": 1, "relax.multiply": 2}
REST = {"relax.nn.conv2d": 1, "relax.nn.relu": 1, "relax.reshape": 2}


def canonical_gated(path: Path, act: Callable, flat: bool, exporter: str, opset: int) -> Counter:
    model = Gated(act, flat)
    zoo.randomise(model, 0)
    zoo.save(model.eval(), 16, path, exporter, opset)
    imported = import_onnx(path)
    assert_canonical(imported)
    assert_matches(imported)
    return ops_of(imported)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("spelling", HARD_SWISH)
def test_spellings_of_hard_swish(spelling: str, opset: int, flat: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    found = canonical_gated(path, HARD_SWISH[spelling], flat, "torchscript", opset)
    assert found == Counter(GATE) + Counter(REST) + Counter(
        {"relax.multiply": 2, "relax.add": 1, "relax.clip": 1}
    )


@pytest.mark.parametrize("spelling", SWISH)
def test_spellings_of_swish(spelling: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    found = canonical_gated(path, SWISH[spelling], False, "torchscript", 17)
    assert found == Counter(GATE) + Counter(REST) + Counter({"relax.nn.silu": 1})


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (HARD_SWISH["product divided"], {"relax.multiply": 2, "relax.add": 1, "relax.clip": 1}),
        (SWISH["quotient"], {"relax.nn.silu": 1}),
    ],
)
def test_spellings_through_dynamo(act: Callable, expected: dict, tmp_path: Path) -> None:
    found = canonical_gated(tmp_path / "net.onnx", act, True, "dynamo", 18)
    assert found == Counter(GATE) + Counter(REST) + Counter(expected)
