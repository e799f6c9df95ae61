"""``tune`` through a real tracker and real servers on the loopback, and what may go wrong on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from cli_tools import Shell
from tune_tools import KEY, Farm, lines, native_server, twin_target

from syncnas_tvm.cost_models.tuned import tuned_samples
from syncnas_tvm.runtime.tracker import request_device
from syncnas_tvm.targets import load_target
from syncnas_tvm.tuning.record_files import read_records

TRIALS = 20


@pytest.fixture(scope="module")
def server() -> Path:
    return native_server()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with a small model, and a target that is like this machine but reached over RPC."""
    shell = Shell(tmp_path_factory.mktemp("tune"))
    twin_target(shell.folder / "twin.toml")
    return shell


@pytest.fixture
def farm(server: Path, tmp_path: Path) -> Farm:
    return Farm(server, tmp_path)


def flags(farm: Farm, output: Path, *more: object) -> list[object]:
    return [
        "tiny.onnx", "--target", "./twin.toml", *farm.flags, "--output", output, "--rpc-timeout", 20,
        *more,
    ]  # fmt: skip


def wait(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def check(folder: Path, target: Path, trials: int) -> None:
    """No record lost, none doubled, no broken line."""
    problems: list[str] = []
    found = read_records(folder, problems)
    assert problems == []
    assert not any(record.failed for record in found)
    keys = [(r.workload, str(r.target["kind"]), r.sampled) for r in found]
    assert len(set(keys)) == trials
    # A tiling is measured once, and once more where it is compared with the rule's own.
    assert max(Counter(keys).values()) <= 2
    device = load_target(target)
    assert {s.kernel.lane for s in tuned_samples(folder, device)} >= {"cpu"}


def test_two_devices_and_a_compile(farm: Farm, shell: Shell, tmp_path: Path) -> None:
    """Both lanes' kernels, the device's costs, and a compile that predicts with what was measured."""
    records, target = tmp_path / "records", shell.folder / "twin.toml"
    with farm.open(2):
        done = shell("tune", *flags(farm, records, "--trials", TRIALS, "--json"))
        assert done.returncode == 0, done.stderr
        assert all("session done" in farm.log(f"server{i}").read_text() for i in range(2))
    result = json.loads(done.stdout)
    assert result["trials"] == TRIALS
    assert result["failures"] == []
    assert 0 < result["refined"] + 1 <= result["measured"] + 1 <= result["kernels"]
    check(records, target, TRIALS)
    costs = json.loads((records / "costs.json").read_text())
    assert 0 < costs["to_gpu"]["latency_us"] < 5e3
    assert 0 < costs["enqueue_us"] < 5e3
    assert 1 <= costs["cpu_contention"] <= 2
    compiled = shell(
        "compile", "tiny.onnx", "--target", "./twin.toml", "--tuning-records", records, "--output",
        tmp_path / "out", "--evaluations", 50, "--json", "--verbose",
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    assert f"of {result['kernels']} kernels were measured while tuning" in compiled.stderr
    assert json.loads(compiled.stdout)["tuning"]["records"] >= TRIALS


def kill_at(count: int, process: subprocess.Popen, records: Path) -> None:
    """Kill a tuning when so many records are there."""
    wait(lambda: lines(records) >= count or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()


def test_killed_and_resumed(farm: Farm, shell: Shell, tmp_path: Path) -> None:
    """kill -9 in the middle of a measurement, twice; then to the end."""
    records = tmp_path / "records"
    command = flags(farm, records, "--trials", TRIALS, "--lanes", "cpu", "--json")
    with farm.open(1):
        for at in (1, 9):
            kill_at(at, shell.start("tune", *command), records)
        done = shell("tune", *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == TRIALS
    check(records, shell.folder / "twin.toml", TRIALS)


def test_server_killed_and_started_again(farm: Farm, shell: Shell, tmp_path: Path) -> None:
    """What was being measured is measured again; nothing is taken for a kernel that fails."""
    records = tmp_path / "records"
    command = flags(farm, records, "--trials", TRIALS, "--lanes", "cpu", "--json")
    with farm.open(1) as (server,):
        process = shell.start("tune", *command)
        wait(lambda: lines(records) >= 1 and server.children())
        server.kill()
        time.sleep(1)
        farm.start()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["trials"] == TRIALS
    check(records, shell.folder / "twin.toml", TRIALS)


def test_no_device_any_more(farm: Farm, shell: Shell, tmp_path: Path) -> None:
    """One line, and records that another run goes on from."""
    records = tmp_path / "records"
    command = flags(farm, records, "--trials", TRIALS, "--lanes", "cpu", "--rpc-timeout", 2)
    with farm.open(1) as (server,):
        process = shell.start("tune", *command)
        wait(lambda: lines(records) >= 1)
        server.kill()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    *_, line = err.splitlines()
    assert line.startswith("error: ")
    assert f"no device is registered as '{KEY}'" in line
    problems: list[str] = []
    assert read_records(records, problems)
    assert problems == []


def test_a_device_that_hangs(farm: Farm, tmp_path: Path) -> None:
    """Two devices; a session of one is stopped: what it had is measured in the end, too."""
    from test_tuning import HOST, groups

    from syncnas_tvm.tuning.device_runner import DeviceRunner
    from syncnas_tvm.tuning.tune import tune_kernels

    with farm.open(2) as servers:
        stopped: list[psutil.Process] = []

        def stop_one() -> None:
            wait(lambda: servers[0].children())
            stopped.extend(servers[0].children())
            stopped[0].send_signal(signal.SIGSTOP)

        thread = threading.Thread(target=stop_one)
        thread.start()
        runner = DeviceRunner(HOST, farm.address, KEY, timeout_s=3)
        try:
            (result,) = tune_kernels(
                groups("dense 3x3", "cpu"), HOST, tmp_path / "records", trials=8, runner=runner
            )
        finally:
            runner.close()
            thread.join()
        assert stopped
    assert result.measured == 8
    assert not any(record.failed for record in read_records(tmp_path / "records", []))


def test_no_tracker_and_no_free_device(farm: Farm, shell: Shell, tmp_path: Path) -> None:
    assert "no tracker at 127.0.0.1" in shell.fails("tune", *flags(farm, tmp_path / "records"))
    with farm.open(1):
        session = request_device(farm.address, KEY, 10)
        start = time.monotonic()
        line = shell.fails("tune", *flags(farm, tmp_path / "records", "--rpc-timeout", 1))
        assert "were busy for 1 s" in line
        assert time.monotonic() - start < 30
        del session
    assert not (tmp_path / "records").exists()


def test_flags(shell: Shell, tmp_path: Path) -> None:
    some = ["tiny.onnx", "--output", tmp_path / "r"]
    assert "go together" in shell.fails("tune", *some, "--rpc-key", KEY)
    assert "does not run on this machine" in shell.fails("tune", *some, "--target", "rk3399")
    assert "give HOST:PORT" in shell.fails(
        "tune", *some, "--rpc-tracker", "nowhere", "--rpc-key", KEY
    )
