"""What the demo is made of, `make demo` runs the whole; links and flags in the documentation."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cli_tools import ROOT

sys.path.insert(0, str(ROOT / "examples"))


def test_the_cat_is_a_cat(tmp_path):
    import demo

    demo.export_model(tmp_path / "model.onnx")
    image = demo.cat_image()
    assert (image.shape, image.dtype) == ((1, 3, 224, 224), np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits,) = session.run(["logits"], {"image": image})
    assert np.argsort(-logits[0])[:3].tolist() == [285, 282, 281]
    assert set(np.argsort(-logits[0])[:5]) <= demo.NAMES.keys()


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_between_pages(page):
    for target in page.read_text().split("](")[1:]:
        link = target.partition(")")[0].partition("#")[0]
        if link and "://" not in link:
            assert (page.parent / link).exists(), link


def test_flags_are_documented():
    from syncnas_tvm import compile, inspect, run

    text = Path(ROOT / "docs/cli.md").read_text()
    for module in (compile, run, inspect):
        for action in module.make_parser()._actions:
            for flag in action.option_strings:
                if flag not in ("-h", "--help"):
                    assert f"`{flag}" in text, flag
