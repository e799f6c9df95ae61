"""Compile for the RK3399, upload, run on both lanes and profile, on the emulated board."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from board_tools import KEY, SIZE, Lab
from cli_tools import Shell

TOLERANCE = 1e-4  # relative, per output


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype("float32")


@pytest.fixture(scope="module")
def expected(model: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model))
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_run_command(
    lab: Lab, both_lanes: Path, image: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", image)
    flags = ["--input", "x.npy", "--repeat", 5, "--output-file", "y.npz", "--profile", "p.json"]
    with lab.running():
        done = Shell(tmp_path)(
            "run", both_lanes, "--rpc-tracker", f"127.0.0.1:{lab.port}", "--rpc-key", KEY, *flags,
            "--sustained", 2, "--json",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert error(np.load(tmp_path / "y.npz")["output"], expected) < TOLERANCE
    assert result["outputs"]["output"]["top5"][0][0] == expected.argmax()
    # The GPU lane's weights were uploaded when the model was loaded.
    device = result["device"]
    assert device["gpu"]
    assert device["weights"] > 0
    assert device["cpu_threads"] == 2
    latency = result["latency_us"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p90"]
    windows = result["sustained"]
    assert len(windows) >= 2
    assert all(w["runs"] > 0 and w["median_us"] > 0 for w in windows)
    check_trace(json.loads((tmp_path / "p.json").read_text())["traceEvents"])


def check_trace(events: list[dict]) -> None:
    slices = [event for event in events if event["ph"] == "X"]
    thread, cpu, gpu = ([e for e in slices if e["tid"] == row] for row in range(3))
    assert thread
    assert cpu
    assert gpu
    # One clock: what the GPU does falls into the run that the CPU's thread saw.
    last = max(event["ts"] + event["dur"] for event in thread + cpu)
    assert all(event["ts"] >= 0 and event["ts"] + event["dur"] <= last for event in gpu)


def test_without_python(
    lab: Lab, both_lanes: Path, image: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    """examples/android_cpp on the board: no RPC, no Python."""
    np.save(tmp_path / "x.npy", image)
    done = standalone(
        lab, both_lanes, tmp_path, "--input=x.npy", "--repeat=3", "--output=y", "--profile=p.json"
    )
    assert done.returncode == 0, done.stderr
    assert "latency  min" in done.stdout
    assert error(np.load(tmp_path / "y0.npy"), expected) < TOLERANCE
    profile = json.loads((tmp_path / "p.json").read_text())
    assert {event["name"][:4] for event in profile["events"]} >= {"cpu_", "gpu_"}
    assert profile["queue"]


def test_without_python_errors(lab: Lab, both_lanes: Path, tmp_path: Path) -> None:
    wrong = np.zeros((1, 3, SIZE, SIZE + 1), "float32")
    np.save(tmp_path / "x.npy", wrong)
    assert "another shape or type" in one_line(lab, both_lanes, tmp_path, "--input=x.npy")
    assert "manifest.json cannot be read" in one_line(lab, tmp_path / "none", tmp_path)
    # Bytecode of another TVM would crash the VM.
    manifest = json.loads((both_lanes / "manifest.json").read_text())
    manifest["versions"]["apache-tvm"] = "0.26.0"
    old = tmp_path / "old"
    old.mkdir()
    (old / "manifest.json").write_text(json.dumps(manifest))
    said = one_line(lab, old, tmp_path)
    assert "compiled with apache-tvm 0.26.0, this device's runtime is 0.27.0.post1" in said


def standalone(
    lab: Lab, folder: Path, where: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    command = lab.board.command(lab.bundle / "bin" / "syncnas-run", str(folder), *flags)
    return subprocess.run(
        command, cwd=where, env=lab.board.environment([lab.bundle / "lib"]),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def one_line(lab: Lab, folder: Path, where: Path, *flags: str) -> str:
    done = standalone(lab, folder, where, *flags)
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
