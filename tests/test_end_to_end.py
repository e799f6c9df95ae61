"""Every network through the whole compiler, in three forms: one lane, the other, and both.

"Both" splits every region that can be split. Kernels are not measured here: plans do not depend on
it in these forms, except for the shares.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import zoo

import syncnas_tvm
from syncnas_tvm.compile_result import CompileResult
from syncnas_tvm.passes.rule import rule
from syncnas_tvm.verify import deviation

TOLERANCE = 1e-4
SIZES = dict.fromkeys(zoo.RANDOM_MODELS, 64) | dict.fromkeys(zoo.TRAINED_MODELS, 224)
FORMS = {"cpu": {"lanes": "cpu"}, "gpu": {"lanes": "gpu"}, "both": {"split_all": True}}


pytestmark = pytest.mark.usefixtures("nothing_measured")


def both_lanes(result: CompileResult) -> list[str]:
    """Regions that the plan runs on both lanes."""
    return [
        region
        for candidate in result.choice.candidates
        for region in candidate.decision.regions
        if candidate.work.kernels("cpu") and candidate.work.kernels("gpu")
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SIZES)
def test_network(name: str, form: str, tmp_path: Path) -> None:
    path = zoo.export(name, size=SIZES[name])
    folder = tmp_path / "out"
    result = syncnas_tvm.compile_onnx(path, output=folder, timed=False, seed=1, **FORMS[form])

    # What the compiler itself found.
    assert result.deviation is not None
    assert result.deviation.max_rel <= TOLERANCE

    # What was asked for is what was compiled.
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["lanes"] == (["cpu", "gpu"] if form == "both" else [form])
    split = [r.name for r in result.graph.regions if rule("ChannelSplit").applies(result.graph, r)]
    if form == "both":
        assert set(both_lanes(result)) >= set(split)
        assert result.syncs >= len(split)
    else:
        assert both_lanes(result) == []
        assert result.syncs == (2 if form == "gpu" else 0)

    # What a user gets from the folder, on an input of their own, against onnxruntime.
    image = np.random.default_rng(7).uniform(-1, 2, (1, 3, SIZES[name], SIZES[name]))
    image = image.astype("float32")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, {"input": image}), strict=True))
    model = syncnas_tvm.load(folder)
    first = model(image)
    assert list(first) == names
    assert deviation(first, expected).max_rel <= TOLERANCE
    # Nothing of one run is left in the next.
    model(np.zeros_like(image))
    for key, array in model(image).items():
        np.testing.assert_array_equal(array, first[key])
