"""How outputs are compared with onnxruntime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from syncnas_tvm.errors import VerificationError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.verify import Deviation, compare_with_onnxruntime, deviation


def array(*values: float) -> np.ndarray:
    return np.array(values, "float32")


def test_relative_to_the_largest_value_of_the_output() -> None:
    found = deviation({"y": array(1.5, -10.0)}, {"y": array(1.0, -10.0)})
    assert found == Deviation(0.5, 0.05, "y")


def test_the_worst_output_counts() -> None:
    ours = {"a": array(1.0), "b": array(110.0), "c": array(0.0)}
    reference = {"a": array(2.0), "b": array(100.0), "c": array(0.0)}
    assert deviation(ours, reference) == Deviation(10.0, 0.5, "a")


def test_equal_outputs() -> None:
    for values in (array(0, 0), array(np.inf, 1), array(np.nan, 1), array()):
        found = deviation({"y": values}, {"y": values.copy()})
        assert (found.max_abs, found.max_rel) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (array(np.nan, 1), array(1, 1)),
        (array(1, 1), array(np.nan, 1)),
        (array(np.inf, 1), array(1, 1)),
        (array(np.inf, 1), array(-np.inf, 1)),
        (array(1, 1), array(0, 0)),
        (array(1, 1), array(1, 1, 1)),
        (array(1, 1).reshape(1, 2), array(1, 1)),
    ],
    ids=["nan", "no nan", "inf", "signs", "not zero", "length", "rank"],
)
def test_what_no_tolerance_allows(ours: np.ndarray, reference: np.ndarray) -> None:
    found = deviation({"y": ours}, {"y": reference})
    assert found.max_rel == np.inf
    with pytest.raises(VerificationError):
        found.check(1e6)


def test_integers() -> None:
    ours, reference = np.array([250], "uint8"), np.array([5], "uint8")
    assert deviation({"y": ours}, {"y": reference}).max_abs == 245


def test_check() -> None:
    Deviation(1.0, 1e-4, "y").check(1e-4)
    message = (
        r"output 'y' differs from onnxruntime's by 0.0002 relative \(1 absolute\), more than "
        r"0.0001; nothing was written"
    )
    with pytest.raises(VerificationError, match=message):
        Deviation(1.0, 2e-4, "y").check(1e-4)
    with pytest.raises(VerificationError):
        Deviation(1.0, float("nan"), "y").check(1e-4)


@pytest.fixture
def doubled(tmp_path: Path):
    info = helper.make_tensor_value_info
    shape = [2]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, shape)],
        [info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    return import_onnx(tmp_path / "m.onnx")


def test_all_inputs_are_tried(doubled) -> None:
    """A model that is right on the first input only is found out."""

    def wrong_above_ten(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = arrays["x"]
        return {"y": np.where(x > 10, x * 2.5, x * 2)}

    small, large = {"x": array(1, 2)}, {"x": array(20, 1)}
    assert compare_with_onnxruntime(wrong_above_ten, doubled, [small]).max_rel == 0
    found = compare_with_onnxruntime(wrong_above_ten, doubled, [small, large])
    assert found == Deviation(10.0, 0.25, "y")
    assert compare_with_onnxruntime(wrong_above_ten, doubled, [large, small]) == found
