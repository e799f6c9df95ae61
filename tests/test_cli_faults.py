"""What goes wrong while a command runs: kills, Ctrl-C, foreign files, noise, exceptions."""

import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from cli_tools import Shell

from syncnas_tvm.artifact import read_manifest, written_aside
from syncnas_tvm.errors import ArtifactError


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("faults"))
    done = shell("compile", shell.model, "--output", "good", "--seed", 1)
    assert done.returncode == 0, done.stderr
    return shell


def compile_arguments(shell, output, *more):
    return ("compile", shell.model, "--output", output, "--seed", 1, *more)


def left_overs(shell, output):
    return list(shell.folder.glob(f".{output}.*"))


def wait_for(process, condition):
    while not condition() and process.poll() is None:
        time.sleep(0.002)


def test_the_folder_is_there_at_every_moment(tmp_path):
    """A reader beside a compile that replaces the folder always finds one, whole."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "manifest.json").write_text("old")
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append((folder / "manifest.json").is_file())

    reader = threading.Thread(target=watch)
    reader.start()
    for number in range(200):
        with written_aside(folder) as aside:
            (aside / "manifest.json").write_text(str(number))
    done.set()
    reader.join()
    assert (folder / "manifest.json").read_text() == "199"
    assert len(seen) > 100
    assert all(seen)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_kill_leaves_no_half_written_folder(shell):
    moments = random.Random(0)
    for number in range(6):
        process = shell.start(*compile_arguments(shell, "killed"))
        if number % 2:  # somewhere while the folder is written
            wait_for(process, lambda: left_overs(shell, "killed"))
            time.sleep(moments.uniform(0, 2.5))
        else:
            time.sleep(moments.uniform(0.3, 4))
        process.kill()
        process.communicate()
        if (shell.folder / "killed").exists():
            read_manifest(shell.folder / "killed")
    assert shell(*compile_arguments(shell, "killed")).returncode == 0
    read_manifest(shell.folder / "killed")
    assert left_overs(shell, "killed") == []


def test_kill_leaves_the_earlier_folder(shell):
    shutil.copytree(shell.folder / "good", shell.folder / "kept")
    before = read_manifest(shell.folder / "kept")
    process = shell.start(*compile_arguments(shell, "kept"))
    wait_for(process, lambda: left_overs(shell, "kept"))
    process.kill()
    process.communicate()
    assert left_overs(shell, "kept")
    assert read_manifest(shell.folder / "kept") == before
    assert shell(*compile_arguments(shell, "kept", "--lanes", "gpu")).returncode == 0
    assert read_manifest(shell.folder / "kept").lanes == ("gpu",)
    assert left_overs(shell, "kept") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["start", "writing"])
def test_interrupt(shell, moment, number):
    process = shell.start(*compile_arguments(shell, "interrupted", "--json"))
    if moment == "start":
        time.sleep(0.7)
    else:
        wait_for(process, lambda: left_overs(shell, "interrupted"))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert not (shell.folder / "interrupted").exists()
    assert left_overs(shell, "interrupted") == []


def test_foreign_files_are_not_overwritten(shell):
    folder = shell.folder / "foreign"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    assert "other files" in shell.fails(*compile_arguments(shell, "foreign"))
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]


def test_a_failed_verification_keeps_the_earlier_folder(shell):
    shutil.copytree(shell.folder / "good", shell.folder / "verified")
    before = read_manifest(shell.folder / "verified")
    line = shell.fails(*compile_arguments(shell, "verified", "--tolerance", "1e-30"))
    assert "differs from onnxruntime" in line
    assert read_manifest(shell.folder / "verified") == before
    assert left_overs(shell, "verified") == []


@pytest.mark.parametrize("name", ["model.so", "plan.json", "timeline.json"])
def test_tampered_files_are_refused(shell, name):
    folder = shell.folder / f"tampered-{name}"
    shutil.copytree(shell.folder / "good", folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    line = shell.fails("run", folder)
    assert name in line
    assert "changed" in line
    with pytest.raises(ArtifactError):
        read_manifest(folder)


FRAME = """
import ctypes, os, sys, time, warnings
from syncnas_tvm.cli import Parser, end, run_command
from syncnas_tvm.errors import InputError
from syncnas_tvm.progress import StageProgress
{work}
end(run_command(Parser("test", ""), work))
"""


def start(shell, work, *arguments):
    """Start a command that consists of the function ``work``."""
    (shell.folder / "command.py").write_text(FRAME.format(work=textwrap.dedent(work)))
    return subprocess.Popen(
        [sys.executable, "-m", "command", *arguments],
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(shell, work, *arguments):
    """Run a command that consists of the function ``work``."""
    process = start(shell, work, *arguments)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_nothing_but_json_on_standard_output(shell):
    noise = """
        def work(command):
            print("python")
            os.write(1, b"descriptor\\n")
            ctypes.CDLL(None).puts(b"c library")
            os.system("echo child")
            warnings.warn("deprecated")
            command.print_json({"a": float("nan"), "b": [1.5, float("inf")]})
    """
    done = python(shell, noise, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"a": None, "b": [1.5, None]}
    for word in ("python", "descriptor", "c library", "child"):
        assert word in done.stderr
    assert "deprecated" not in done.stderr
    assert "deprecated" in python(shell, noise, "--debug").stderr


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        ("InputError('a\\nb')", 2, "error: a b\n"),
        ("ValueError('a\\nb')", 1, "error: unexpected ValueError: a b; --debug shows"),
        ("OSError(28, 'No space left on device', '/x')", 1, "error: /x: No space left on device\n"),
        ("MemoryError()", 1, "error: unexpected MemoryError; --debug shows"),
    ],
)
def test_exceptions_are_one_line(shell, raised, code, line):
    work = f"def work(command):\n    raise {raised}\n"
    done = python(shell, work)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
    shown = python(shell, work, "--debug").stderr
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith(line.strip())


def test_an_interrupt_that_got_lost_stops_the_command(shell):
    """The planner takes Ctrl-C as the end of its search; the command must end all the same."""
    work = """
        def work(command):
            with StageProgress(("plan", "build"), command.interrupts.check) as progress:
                progress("plan", "")
                try:
                    os.kill(os.getpid(), 2)
                except KeyboardInterrupt:
                    pass
                progress("build", "")
            command.print("done")
    """
    done = python(shell, work)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_signal_inside_exec_and_noisy_destructors(shell):
    """Python would end itself with the signal; a destructor would write below the last line."""
    work = """
        class Noisy:
            def __del__(self):
                os.write(2, b"destroyed\\n")

        def work(command):
            noisy = Noisy()
            exec("os.kill(os.getpid(), 2)")
    """
    done = python(shell, work)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    work = work.replace("os.kill(os.getpid(), 2)", "raise InputError('x')")
    done = python(shell, work)
    assert (done.returncode, done.stderr) == (2, "error: x\n")


def test_a_reader_that_goes_away_is_no_error(shell):
    work = """
        def work(command):
            for _ in range(100_000):
                command.print("line")
    """
    process = start(shell, work)
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1
