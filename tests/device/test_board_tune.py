"""``tune`` on the emulated board, and a compile that takes what it found."""

import json
from pathlib import Path

from board_tools import KEY, Lab
from cli_tools import Shell

from syncnas_tvm.cost_models.tuned import tuned_samples
from syncnas_tvm.targets import load_target


def test_tune_command(lab: Lab, model: Path, tmp_path: Path) -> None:
    shell, records = Shell(tmp_path), tmp_path / "records"
    with lab.running():
        done = shell(
            "tune", model, "--target", "rk3399", "--rpc-tracker", f"127.0.0.1:{lab.port}", "--rpc-key",
            KEY, "--output", records, "--trials", 6, "--lanes", "cpu", "--json",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["trials"], result["failures"]) == (6, [])
    samples = tuned_samples(records, load_target("rk3399"))
    assert len(samples) == result["measured"] > 0
    assert all(0 < sample.latency_us < 1e6 for sample in samples)
    compiled = shell(
        "compile", model, "--target", "rk3399", "--tuning-records", records, "--lanes", "cpu",
        "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    assert json.loads(compiled.stdout)["tuning"]["kernels"] > 0
