"""Cores and sensors of the device: the CPU lane runs where the target says, heat is read."""

import os
from pathlib import Path

import psutil
import pytest
from board_tools import KEY, Lab, start_long_run, wait_until

import syncnas_tvm
from syncnas_tvm.device.board import Board
from syncnas_tvm.runtime.remote import load_on_device

SECONDS = 60.0
CORE = max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def one_core(model: Path) -> Path:
    """The model on the CPU lane, which has this machine's last core."""
    target, output = model.parent / "one-core.toml", model.parent / "one-core"
    target.write_text(f'inherits = "rk3399"\ncpus = [{CORE}]\n[cpu]\nnum-cores = 1\n')
    syncnas_tvm.compile_onnx(model, target=target, output=output, lanes="cpu")
    return output


def test_the_cpu_lane_is_bound_to_the_targets_cores(
    lab: Lab, one_core: Path, tmp_path: Path
) -> None:
    with lab.running() as server:
        device = load_on_device(one_core, lab.address, KEY, SECONDS).device
        assert (device["cpus"], device["cpu_threads"]) == ([CORE], 1)
        wait_until(lambda: not server.children())
        client = start_long_run(lab, one_core, tmp_path, server)
        (session,) = server.children()
        wait_until(lambda: psutil.Process(session.pid).cpu_affinity() == [CORE])
        client.kill()
        client.communicate()


def with_sensors(board: Board, folder: Path, *values: str) -> Board:
    """The board with thermal zones: qemu looks for files of the system in the board's folder first."""
    (folder / "root").mkdir(parents=True)
    (folder / "qemu").symlink_to(board.folder / "qemu")
    for path in board.root.iterdir():
        (folder / "root" / path.name).symlink_to(path)
    for number, value in enumerate(values):
        zone = folder / "root" / "sys" / "class" / "thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(value)
    return Board(folder)


def test_the_hottest_sensor_counts(lab: Lab, one_core: Path, tmp_path: Path) -> None:
    """Thousandths of a degree, as the kernel has them, or degrees; one sensor is switched off."""
    board = with_sensors(lab.board, tmp_path / "board", "48500\n", "", "52\n", "-274000\n")
    hot = Lab(board, lab.bundle, lab.folder, lab.port)
    with hot.running():
        assert load_on_device(one_core, hot.address, KEY, SECONDS).celsius() == 52
