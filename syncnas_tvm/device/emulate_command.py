"""``python -m syncnas_tvm.device emulate``: an emulated board to try things on."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from syncnas_tvm.cli import Command, Parser, check_writable, positive_int, run_command

DEFAULT_BOARD = Path("build") / "board"
KEY = "rk3399"


def make_parser() -> Parser:
    """The flags of the command."""
    parser = Parser(
        "device emulate",
        "Start an emulated aarch64 board (qemu-user, PoCL), a TVM tracker and our server, all on the "
        "loopback, until Ctrl-C.",
    )
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="FOLDER", help="what 'device build' wrote"
    )
    parser.add_argument(
        "--board",
        type=Path,
        default=DEFAULT_BOARD,
        metavar="FOLDER",
        help=f"where the board is, or is set up; 1 GB ({DEFAULT_BOARD})",
    )
    parser.add_argument("--port", type=positive_int, default=9190, help="of the tracker (9190)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _work(command: Command) -> None:
    options = command.options
    check_writable("--board", options.board)
    from syncnas_tvm.device.board import set_up_board
    from syncnas_tvm.device.bundle import BUNDLE
    from syncnas_tvm.device.processes import board_server, tracker
    from syncnas_tvm.errors import InputError

    if not (options.bundle / BUNDLE).is_file():
        raise InputError(f"--bundle {options.bundle}: give the folder that 'device build' wrote")
    board = set_up_board(options.board)
    address = f"127.0.0.1:{options.port}"
    flags = [f"--tracker={address}", f"--key={KEY}"]
    logs = board.folder
    with (
        tracker(options.port, logs / "tracker.log"),
        board_server(board, options.bundle, logs / "work", flags, logs / "server.log"),
    ):
        command.print(f"the board is registered as '{KEY}'; run something on it:")
        command.print(
            f"    python -m syncnas_tvm.run out/ --rpc-tracker {address} --rpc-key {KEY}\n"
            "Ctrl-C ends it."
        )
        while True:
            time.sleep(0.5)
            command.interrupts.check()
