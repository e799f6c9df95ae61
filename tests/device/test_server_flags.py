"""The server's command line, on the emulated board."""

import subprocess

import pytest
from board_tools import Lab


def say(lab: Lab, *flags: str) -> subprocess.CompletedProcess[str]:
    """What the server has to say about flags with which it does not start."""
    command = lab.board.command(lab.bundle / "bin" / "syncnas-server", *flags)
    environment = lab.board.environment([lab.bundle / "lib"])
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_help(lab: Lab) -> None:
    done = say(lab, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    flags = "host port port-end tracker key custom-addr work-dir load session-seconds memory-mb"
    assert all(f"--{flag}=" in done.stdout for flag in flags.split())
    assert "trusted networks only" in done.stdout


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--tracker=here", "give HOST:PORT"),
        ("--tracker=here:port", "not a number"),
        ("--port=70000", "not a number from 0 to 65535"),
        ("--port=90.5", "not a port"),
        ("--memory-mb=-1", "not a number"),
        ("--key=a b", "use letters"),
        ("--speed=1", "unknown flag '--speed=1'"),
        ("--load=nothing.so", "nothing.so"),
        ("--work-dir=/proc/none", "--work-dir=/proc/none"),
    ],
)
def test_wrong_flags(lab: Lab, flag: str, reason: str) -> None:
    done = say(lab, flag)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
