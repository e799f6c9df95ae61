"""The whole chain on an emulated board: compile, upload, run on each lane and on both, compare.

    make emulated-board

Builds a bundle for the RK3399, sets up qemu-user with arm64 PoCL in build/board, starts a tracker and
the server on the loopback, compiles the ImageNet-trained EfficientNet-Lite0 for the CPU lane, the GPU
lane and both, runs a picture of a cat through each over RPC and through the C++ example, and compares
with onnxruntime. The first run compiles every OpenCL kernel under emulation: minutes; PoCL keeps them.

Latencies are those of an emulator: they say that the measuring works, nothing about a board. The last
column is the ratio to the CPU lane of the same run.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

import syncnas_tvm
from syncnas_tvm.device.board import set_up_board
from syncnas_tvm.device.bundle import build_bundle
from syncnas_tvm.device.emulate_command import free_port
from syncnas_tvm.device.processes import board_server, tracker
from syncnas_tvm.report import ms, table
from syncnas_tvm.runtime.remote import load_on_device
from syncnas_tvm.targets import load_target

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]
LANES = {"cpu": {"lanes": "cpu"}, "gpu": {"lanes": "gpu"}, "both": {"split_all": True}}
KEY, TARGET = "rk3399", "rk3399"
TIMEOUT_S = 3600.0
CAT_CLASSES = range(281, 287)


def trained(folder: Path) -> Path:
    """EfficientNet-Lite0 with its trained weights."""
    import demo

    path = folder / "efficientnet_lite0.onnx"
    if not path.is_file():
        demo.export_model(path)
    return path


def mobilenet_v2(folder: Path) -> Path:
    """MobileNetV2 with random weights: there is no trained one among the packages used here."""
    import zoo

    path = folder / "mobilenet_v2.onnx"
    if not path.is_file():
        network = zoo.Mobile(zoo.NETS["mobilenet_v2"], 1.0, 1000)
        zoo.randomise(network, 0)
        zoo.save(network.eval(), 224, path, "torchscript", 17)
    return path


MODELS = {"efficientnet_lite0": trained, "mobilenet_v2": mobilenet_v2}


class Chain:
    """Runs compiled folders on the board, over RPC and by the C++ example."""

    def __init__(self, folder: Path, model: Path, image: np.ndarray) -> None:
        self.folder = folder
        self.model = model
        self.image = image
        session = onnxruntime.InferenceSession(str(model))
        self.expected = session.run(None, {session.get_inputs()[0].name: image})[0]
        self.board = set_up_board(folder / "board")
        self.bundle = folder / "bundle"
        build_bundle(load_target(TARGET), self.bundle, folder / "work")
        np.save(folder / "cat.npy", image)

    def compiled(self, lane: str) -> Path:
        """The model for ``lane``."""
        output = self.folder / f"{self.model.stem}-{lane}"
        syncnas_tvm.compile_onnx(self.model, target=TARGET, output=output, **LANES[lane])
        return output

    def error(self, found: np.ndarray) -> float:
        """Relative to onnxruntime's output."""
        return float(np.abs(found - self.expected).max() / np.abs(self.expected).max())

    def over_rpc(
        self, compiled: Path, port: int, repeat: int
    ) -> tuple[np.ndarray, list[float], int]:
        """The output, latencies in us, and how many kernels the GPU ran."""
        model = load_on_device(compiled, ("127.0.0.1", port), KEY, TIMEOUT_S)
        (found,) = model(self.image).values()
        latencies_us = model.time(self.image, repeat=repeat, warmup=1)
        timeline = model.profile(self.image)
        return found, latencies_us, len(timeline.lane_spans("gpu"))

    def standalone(self, compiled: Path) -> np.ndarray:
        """The output of the C++ example, which has no Python and no network."""
        program = self.bundle.resolve() / "bin" / "syncnas-run"
        flags = [
            f"--input={self.folder / 'cat.npy'}",
            "--repeat=1",
            f"--output={self.folder / 'cpp'}",
        ]
        command = self.board.command(program, str(compiled), *flags)
        environment = self.board.environment([self.bundle.resolve() / "lib"])
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return np.load(self.folder / "cpp0.npy")


def main() -> int:
    """Print the table; 1 where an output is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "emulated-board")
    parser.add_argument("--model", choices=MODELS, default="efficientnet_lite0")
    parser.add_argument("--lanes", nargs="+", choices=LANES, default=list(LANES))
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    import demo

    options.folder.mkdir(parents=True, exist_ok=True)
    print("Setting up the board and the bundle ...", flush=True)
    chain = Chain(options.folder.resolve(), MODELS[options.model](options.folder), demo.cat_image())
    port, rows, good, base_us = free_port(), [], True, 0.0
    flags = [f"--tracker=127.0.0.1:{port}", f"--key={KEY}", f"--port={free_port()}"]
    logs = options.folder
    with (
        tracker(port, logs / "tracker.log"),
        board_server(chain.board, chain.bundle, logs / "sessions", flags, logs / "server.log"),
    ):
        for lane in options.lanes:
            print(f"{options.model} on {lane} ...", flush=True)
            start = time.monotonic()
            compiled = chain.compiled(lane)
            found, latencies_us, gpu_kernels = chain.over_rpc(compiled, port, options.repeat)
            alone = chain.standalone(compiled)
            errors = (chain.error(found), chain.error(alone))
            same_top = int(found.argmax()) == int(chain.expected.argmax())
            is_cat = options.model != "efficientnet_lite0" or int(found.argmax()) in CAT_CLASSES
            good &= max(errors) < 1e-4 and same_top and is_cat
            median = float(np.median(latencies_us))
            base_us = base_us or median
            rows.append(
                (lane, f"{errors[0]:.1e}", f"{errors[1]:.1e}", str(int(found.argmax())), str(gpu_kernels),
                 ms(median), f"{median / base_us:.2f}", f"{time.monotonic() - start:.0f} s")
            )  # fmt: skip
    head = ("lanes", "error", "error C++", "top-1", "GPU kernels", "latency", "ratio", "took")
    print(f"\n{options.model}, onnxruntime's top-1 is {int(chain.expected.argmax())}")
    print(table(head, rows, left=1))
    print("all outputs are onnxruntime's" if good else "WRONG OUTPUTS")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
