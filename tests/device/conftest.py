"""The emulated board, a bundle built for it, and a model compiled for it: once for all tests here."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from board_tools import KEPT, Lab, small_model

import syncnas_tvm
from syncnas_tvm.device.board import Board, set_up_board
from syncnas_tvm.device.bundle import build_bundle
from syncnas_tvm.device.emulate_command import free_port
from syncnas_tvm.device.processes import tracker
from syncnas_tvm.errors import BuildError
from syncnas_tvm.planner import Budget
from syncnas_tvm.targets import load_target


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Test processes share what is kept: the first sets it up, the others wait and find it."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def board() -> Board:
    try:
        with one_at_a_time():
            return set_up_board(KEPT / "board")
    except BuildError as error:
        pytest.skip(f"no emulated board here: {error}")


@pytest.fixture(scope="session")
def bundle(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this process's own; the compiled C++ is shared."""
    folder = tmp_path_factory.mktemp("device") / "bundle"
    with one_at_a_time():
        build_bundle(load_target("rk3399"), folder, KEPT / "work")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="session")
def both_lanes(model: Path) -> Path:
    """The model compiled for the RK3399, every region that can be split on both lanes."""
    output = model.parent / "both"
    syncnas_tvm.compile_onnx(
        model, target="rk3399", output=output, split_all=True, budget=Budget(evaluations=50)
    )
    return output


@pytest.fixture(scope="session")
def tracker_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A tracker for all tests: starting one imports TVM twice."""
    port = free_port()
    with tracker(port, tmp_path_factory.mktemp("tracker") / "tracker.log"):
        yield port


@pytest.fixture
def lab(board: Board, bundle: Path, tmp_path: Path, tracker_port: int) -> Lab:
    return Lab(board, bundle, tmp_path, tracker_port)
