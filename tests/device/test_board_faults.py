"""What goes wrong between this machine and a device: each ends in one line or in a recovery."""

import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tvm
from board_tools import KEY, Lab, session_folders, start_long_run, wait_until
from tvm.rpc import RPCSession

from syncnas_tvm.artifact import read_manifest
from syncnas_tvm.device.board import Board
from syncnas_tvm.device.emulate_command import free_port
from syncnas_tvm.device.processes import end_tree
from syncnas_tvm.errors import ArtifactError, DeviceError
from syncnas_tvm.runtime import tracker
from syncnas_tvm.runtime.remote import RemoteExecutable, load_on_device
from syncnas_tvm.runtime.tracker import request_device

SECONDS = 60.0


@pytest.fixture(scope="module")
def cpu_lane(model: Path) -> Path:
    """The model on the CPU lane alone: nothing here is about the GPU."""
    import syncnas_tvm

    output = model.parent / "cpu"
    syncnas_tvm.compile_onnx(model, target="rk3399", output=output, lanes="cpu")
    return output


def only_line(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=40)
    assert process.returncode == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_server_killed_in_mid_run(lab: Lab, cpu_lane: Path, tmp_path: Path) -> None:
    with lab.running() as server:
        client = start_long_run(lab, cpu_lane, tmp_path, server)
        (session,) = server.children()
        server.kill()
        assert "on the device failed" in only_line(client)
        assert not psutil.wait_procs([session], timeout=10)[1], "the session outlived its server"
    # The next server removes what the killed one could not.
    assert session_folders(lab.work)
    with lab.server():
        assert len(list(lab.work.iterdir())) == 1
        assert not session_folders(lab.work)


def test_client_killed(lab: Lab, cpu_lane: Path, tmp_path: Path) -> None:
    with lab.running() as server:
        client = start_long_run(lab, cpu_lane, tmp_path, server)
        client.kill()
        client.communicate()
        wait_until(lambda: not server.children() and not session_folders(lab.work), 15)
        # The device is free again.
        load_on_device(cpu_lane, lab.address, KEY, SECONDS)
    assert list(lab.work.iterdir()) == []


def test_tracker_restarted(lab: Lab, cpu_lane: Path) -> None:
    lab = Lab(lab.board, lab.bundle, lab.folder, free_port())
    with lab.tracker() as first, lab.server():
        end_tree(first)
        wait_until(lambda: "lost the tracker" in lab.log, 10)
        with lab.tracker():
            # Within the time that a client waits for a device to come back.
            load_on_device(cpu_lane, lab.address, KEY, SECONDS)
        # More often where this machine is slow: a tracker that does not answer is asked again.
        assert lab.log.count("registered as") >= 2


def test_server_that_hangs(lab: Lab, cpu_lane: Path) -> None:
    with lab.running() as server:
        model = load_on_device(cpu_lane, lab.address, KEY, timeout_s=3)
        (session,) = server.children()
        session.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(DeviceError, match="took longer than 3 s and was given up"):
            model.time(*model.random_inputs().values())
        assert time.monotonic() - start < 10
        session.send_signal(signal.SIGKILL)


def run_for_long(lab: Lab, folder: Path) -> None:
    model = load_on_device(folder, lab.address, KEY, SECONDS)
    model.time(*model.random_inputs().values(), repeat=100_000)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [("--session-seconds=1", "its 1 s are over"), ("--memory-mb=20", "the limit is 20")],
)
def test_limits(lab: Lab, cpu_lane: Path, flag: str, reason: str) -> None:
    with lab.running(flag) as server:
        with pytest.raises(DeviceError, match=r"failed|not fit|none of this project"):
            run_for_long(lab, cpu_lane)
        wait_until(lambda: reason in lab.log)
        wait_until(lambda: not server.children() and not session_folders(lab.work))


class OldNumber(Board):
    """The server's process has the number of one that was killed, as it may be in a container."""

    def command(self, program: Path | str, *arguments: str) -> list[str]:
        (work,) = (a.split("=")[1] for a in arguments if a.startswith("--work-dir="))
        left = f'mkdir -p "{work}/syncnas-server-$$/1"; exec "$@"'
        return ["/bin/sh", "-c", left, "sh", *super().command(program, *arguments)]


def test_left_overs_of_a_server_with_the_same_number(lab: Lab) -> None:
    lab = Lab(OldNumber(lab.board.folder), lab.bundle, lab.folder, lab.port)
    with lab.running() as server:
        assert [path.name for path in lab.work.iterdir()] == [f"syncnas-server-{server.pid}"]
        assert not session_folders(lab.work)


class FullBoard(Board):
    """The kernel refuses to write more than 50 KB into a file."""

    def command(self, program: Path | str, *arguments: str) -> list[str]:
        limited = 'trap "" XFSZ; ulimit -f 100; exec "$@"'
        return ["/bin/sh", "-c", limited, "sh", *super().command(program, *arguments)]


def test_work_folder_is_full(lab: Lab, cpu_lane: Path) -> None:
    full = Lab(FullBoard(lab.board.folder), lab.bundle, lab.folder, lab.port)
    with full.running(), pytest.raises(DeviceError, match=r"model.so did not fit on the device"):
        load_on_device(cpu_lane, full.address, KEY, SECONDS)


def test_wrong_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "_ANSWER_S", 1.0)
    with lab.running(), pytest.raises(DeviceError, match=r"registered as 'phone'.*'board'"):
        request_device(lab.address, "phone", SECONDS)


def test_no_tracker() -> None:
    with pytest.raises(DeviceError, match=r"no tracker at 127.0.0.1:.*rpc_tracker"):
        request_device(("127.0.0.1", free_port()), KEY, SECONDS)


def test_not_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "_ANSWER_S", 1.0)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(DeviceError, match="is no TVM tracker"):
        request_device(silent.getsockname(), KEY, SECONDS)


def test_bundle_of_another_tvm(lab: Lab, cpu_lane: Path, tmp_path: Path) -> None:
    """Bytecode of another TVM would crash the device's VM; its own runtime notices, not this machine."""
    manifest = json.loads((cpu_lane / "manifest.json").read_text())
    manifest["versions"]["apache-tvm"] = "0.26.0"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "model.so").symlink_to(cpu_lane / "model.so")
    wrong = (
        r"loading the model on the device failed: [^\n]*apache-tvm 0.26.0, this device's runtime"
    )
    with lab.running():
        session = request_device(lab.address, KEY, SECONDS)
        with pytest.raises(DeviceError, match=wrong) as raised:
            RemoteExecutable(tmp_path, read_manifest(cpu_lane), session, SECONDS)
        assert "\n" not in str(raised.value)
        RemoteExecutable(cpu_lane, read_manifest(cpu_lane), session, SECONDS)


def fail_in_a_registered_function(session: RPCSession) -> None:
    session.get_function("syncnas.runner.load")("nothing")


def fail_in_a_function_of_a_module(session: RPCSession) -> None:
    session.get_function("syncnas.runner.load")("")["output"](0)


def fail_to_allocate(session: RPCSession) -> None:
    tvm.runtime.empty((1 << 40,), "float32", session.device("opencl"))


def fail_in_tvms_own_function(session: RPCSession) -> None:
    session.load_module("nothing.so")


def fail_in_the_servers_function(session: RPCSession) -> None:
    session.get_function("tvm.rpc.server.workpath")("../up")


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (fail_in_a_registered_function, "manifest.json"),
        (fail_in_a_function_of_a_module, "no outputs yet"),
        (fail_to_allocate, "OpenCL"),
        (fail_in_tvms_own_function, "nothing.so"),
        (fail_in_the_servers_function, "is outside of the work folder"),
    ],
)
def test_errors_arrive(
    fail: Callable[[RPCSession], None], reason: str, lab: Lab, cpu_lane: Path
) -> None:
    """Whose code fails: the client is told why, and the session goes on."""
    with lab.running():
        session = request_device(lab.address, KEY, SECONDS)
        model = RemoteExecutable(cpu_lane, read_manifest(cpu_lane), session, SECONDS)
        with pytest.raises(Exception, match=reason):
            fail(session)
        outputs = model(*model.random_inputs().values())
        assert all(np.isfinite(output).all() for output in outputs.values())


def test_a_folder_for_this_machine(tmp_path: Path, cpu_lane: Path) -> None:
    manifest = json.loads((cpu_lane / "manifest.json").read_text())
    folder = tmp_path / "host"
    folder.mkdir()
    for name in ("model.so", "plan.json", "timeline.json"):
        (folder / name).symlink_to(cpu_lane / name)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "runs_on_host": True}))
    with pytest.raises(ArtifactError, match="was compiled for this machine"):
        load_on_device(folder, ("127.0.0.1", free_port()), KEY, SECONDS)


def test_garbage_is_turned_away(lab: Lab, cpu_lane: Path) -> None:
    """Four kinds of strangers, and then a client that is served."""
    with lab.running():
        port = int(lab.log.split("listening on 127.0.0.1:")[1].split(",")[0])
        hello = struct.pack("<i", 0xFF271)
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            hello + struct.pack("<i", 2**31 - 1),
            hello + struct.pack("<i", -5),
            hello + struct.pack("<i", 11) + b"client:nope",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                stranger.sendall(data)
                with suppress(ConnectionError):  # it need not hear us out
                    stranger.shutdown(socket.SHUT_WR)
                    stranger.recv(100)
        wait_until(lambda: lab.log.count("turned away") == 4)
        load_on_device(cpu_lane, lab.address, KEY, SECONDS)


def test_tvms_own_tools(lab: Lab) -> None:
    """TVM's Python client and its query command work with our server, on whatever port it got."""
    with lab.running("--port=0"):
        query = [sys.executable, "-m", "tvm.exec.query_rpc_tracker", "--host=127.0.0.1"]
        done = subprocess.run(
            [*query, f"--port={lab.port}"], capture_output=True, text=True, timeout=60, check=False
        )
        assert f"server:{KEY}" in done.stdout, done
        session = request_device(lab.address, KEY, SECONDS)
        session.upload(bytearray(b"hello"), "greeting.txt")
        assert bytes(session.download("greeting.txt")) == b"hello"
        # TVM's own file functions end the session when a name is refused.
        with pytest.raises(Exception, match=r"outside of the work folder|kShutdown"):
            session.download("../../secret")
