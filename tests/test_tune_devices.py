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

from syncnas_tvm import tune
from syncnas_tvm.cost_models.tuned import tuned_samples
from syncnas_tvm.runtime.tracker import request_device
from syncnas_tvm.targets import load_target
from syncnas_tvm.tuning.record_files import read_records
from syncnas_tvm.tuning.session import TRIALS_A_VISIT

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


def test_kills_and_devices_that_come_and_go(farm: Farm, shell: Shell, tmp_path: Path) -> None:
    """kill -9 of the tuner; of the server, which starts again; of the server, for good. Then to the end:
    what was being measured is measured again, and nothing is taken for a kernel that fails."""
    records, trials = tmp_path / "records", 5 * TRIALS_A_VISIT
    command = flags(farm, records, "--trials", trials, "--lanes", "cpu", "--json")

    def await_records(count: int, process: subprocess.Popen) -> None:
        wait(lambda: lines(records) >= count or process.poll() is not None)
        assert process.poll() is None, process.communicate()

    with farm.open(1) as (server,):
        first = shell.start("tune", *command)
        await_records(1, first)
        first.kill()
        first.communicate()

        second = shell.start("tune", *command, "--rpc-timeout", 8)
        await_records(lines(records) + 1, second)
        server.kill()
        server = farm.start()
        await_records(lines(records) + 2, second)
        server.kill()
        _, err = second.communicate(timeout=60)
        assert second.returncode == 2, err
        *_, line = err.splitlines()
        assert line.startswith(f"error: no device is registered as '{KEY}'")
        assert lines(records) < trials

        farm.start()
        done = shell("tune", *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == trials
    check(records, shell.folder / "twin.toml", trials)


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
        runner = DeviceRunner(HOST, farm.address, KEY, timeout_s=2)
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


def test_errors_before_anything_is_measured(
    farm: Farm, shell: Shell, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object) -> str:
        some = [str(shell.model), "--output", str(tmp_path / "records")]
        assert tune.main([*some, *map(str, arguments)]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    assert "go together" in fails("--rpc-key", KEY)
    assert "does not run on this machine" in fails("--target", "rk3399")
    assert "give HOST:PORT" in fails("--rpc-tracker", "nowhere", "--rpc-key", KEY)
    assert "no tracker at 127.0.0.1" in fails(*farm.flags)
    with farm.open(1):
        session = request_device(farm.address, KEY, 10)
        start = time.monotonic()
        assert "were busy for 1 s" in fails(*farm.flags, "--rpc-timeout", 1)
        assert time.monotonic() - start < 30  # the time-out is the user's
        del session
    assert not (tmp_path / "records").exists()
