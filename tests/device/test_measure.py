"""``measure`` on the emulated board: both lanes against the prediction, and what goes wrong."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from board_tools import KEY, Lab, session_folders, wait_until

from syncnas_tvm.cost_models import cost_model_of
from syncnas_tvm.cost_models.calibrated import read_calibration
from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.measure import main
from syncnas_tvm.runtime import tracker
from syncnas_tvm.targets import load_target


def on_board(lab: Lab, folder: Path, *flags: object) -> list[str]:
    where = ["--rpc-tracker", f"127.0.0.1:{lab.port}", "--rpc-key", KEY]
    return [str(folder), *where, *map(str, flags)]


def test_both_lanes_and_a_calibration_by_them(
    lab: Lab, both_lanes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trace, file = tmp_path / "t.json", tmp_path / "k.jsonl"
    flags = ["--repeat", 3, "--json", "--trace", trace, "--kernels", file]
    with lab.running():
        assert main(on_board(lab, both_lanes, *flags)) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["device"]["gpu"]
    assert data["latency_us"]["predicted"] > 0
    assert 0 < data["latency_us"]["measured"]["min"] <= data["latency_us"]["measured"]["median"]
    predicted = data["timelines"]["predicted"]["spans"]
    for lane in ("cpu", "gpu"):
        # One measured kernel or join for each that was predicted, whatever it was launched as.
        rows = [row for row in data["rows"] if row["lane"] == lane]
        wanted = [s["name"] for s in predicted if s["lane"] == lane and s["kind"] == "kernel"]
        assert [r["name"] for r in rows if r["kind"] == "kernel"] == wanted
        assert all(row["steps"] == 1 and row["measured_us"] > 0 for row in rows)
    ways = {t["direction"]: t for t in data["totals"] if t["kind"] == "transfer"}
    assert ways.keys() == {"cpu to gpu", "gpu to cpu"}
    processes = {e["pid"] for e in json.loads(trace.read_text())["traceEvents"]}
    assert processes == {0, 1}
    # What was measured corrects the cost model: the emulated board is no RK3399.
    samples, target = Dataset.read(file), load_target("rk3399")
    assert len(samples) == data["kernels"] > 6
    assert {s.device for s in samples} == {KEY}
    convolutions = samples.where(lambda s: bool(s.kernel.macs))
    bias = np.array([target.learned[k.lane].network_bias for k in convolutions.kernels])
    off = [
        np.abs(np.log(model.predict(convolutions.kernels)[0] / bias / convolutions.latency_us))
        for model in (cost_model_of(target), read_calibration(file, target))
    ]
    assert np.mean(off[1]) < 0.5 * np.mean(off[0])


def test_a_device_that_is_lost(
    lab: Lab, both_lanes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with lab.running() as server:

        def end_session() -> None:
            wait_until(lambda: server.children() and session_folders(lab.work), 60)
            wait_until(lambda: list(lab.work.glob("syncnas-server-*/*/model.so")), 60)
            time.sleep(1)  # it runs by now
            for session in server.children():
                session.kill()

        thread = threading.Thread(target=end_session)
        thread.start()
        code = main(on_board(lab, both_lanes, "--repeat", 100_000))
        thread.join()
    said = capfd.readouterr()
    assert (code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "on the device" in said.err


def test_no_device_with_that_key(
    lab: Lab, both_lanes: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracker, "_ANSWER_S", 1.0)
    assert main(on_board(lab, both_lanes)) == 2
    assert f"no device is registered as '{KEY}'" in capfd.readouterr().err
