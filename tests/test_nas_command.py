"""The search as a command: workers, a coordinator that is killed, another process that joins, files."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import optuna
import pytest
from nas_models import narrow_config
from optuna.trial import TrialState

from syncnas_tvm import search
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas import extra, measuring
from syncnas_tvm.nas.config_file import config_to_json, read_config
from syncnas_tvm.nas.flags import devices_of
from syncnas_tvm.nas.results import results
from syncnas_tvm.nas.study import open_storage, open_study
from syncnas_tvm.nas.worker import Outcome, Worker
from syncnas_tvm.targets import load_target

FLAGS = (
    "--data", "digits", "--width", "0.1", "--images", "192", "--epochs", "1", "--batch", "64",
    "--warmup-epochs", "0", "--ema", "0", "--heartbeat-seconds", "1",
)  # fmt: skip


def start(folder, trials, *more):
    command = [sys.executable, "-m", "syncnas_tvm.search", *FLAGS, "--output", str(folder)]
    command += ["--trials", str(trials), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, seconds=900, code=0):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, err
    return out, err


def trials_of(folder):
    study = optuna.load_study(study_name="syncnas", storage=open_storage(str(folder / "study.db")))
    return study.get_trials()


def names(trials, state=TrialState.COMPLETE):
    return [t.user_attrs["strategy"] for t in trials if t.state == state]


def studies_in(folder):
    return optuna.get_all_study_names(open_storage(str(folder / "study.db")))


def wait_for(there, seconds=900):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := there():
            return found
        time.sleep(0.2)
    raise AssertionError(f"nothing in {seconds} s")


def finished_in(folder):
    try:
        return (folder / "study.db").exists() and names(trials_of(folder))
    except KeyError:  # the study is being made
        return []


def test_a_search_from_start_to_files(tmp_path):
    """Two workers; their progress; then the same command with more trials, which goes on."""
    out, err = finish(start(tmp_path, 3, "--workers", "2"))
    assert err.startswith("mobilenet_v2 on rk3399: cpu ")
    progress = [line for line in err.splitlines() if "/3 sync" in line]
    assert len(progress) >= 3  # two that begin the last one at once are 4
    for word in ("accuracy 0.", "ms predicted; best sync", " running, ", " min left"):
        assert word in progress[0]
    first = names(trials_of(tmp_path))
    assert f"{len(first)} strategies evaluated" in out
    out, _ = finish(start(tmp_path, len(first) + 1, "--json"))
    found = json.loads(out)
    assert {r["strategy"] for r in found["results"]} > set(first)
    assert all(r["latency_us"] <= r["budget_us"] for r in found["results"])
    rows = list(csv.DictReader((tmp_path / "results.csv").open(newline="")))
    assert [float(r["accuracy"]) for r in rows] == sorted(
        (float(r["accuracy"]) for r in rows), reverse=True
    )
    assert read_config(tmp_path / "best.json").name == rows[0]["strategy"]
    for name in ("best.svg", "pareto.png", "pareto.html"):
        assert (tmp_path / name).stat().st_size > 1000
    assert len(list((tmp_path / "weights").glob("*.pth"))) == len(rows) == len(first) + 1
    best = (tmp_path / "best.json").read_text()
    _, err = finish(start(tmp_path, 1, "--budget", "0.5", "--study", "other"), code=2)
    assert "a search (study 'syncnas') with budget 1.0, not 0.5; give the same flags" in err
    assert (tmp_path / "best.json").read_text() == best
    assert list(studies_in(tmp_path)) == ["syncnas"]


def test_an_interrupted_search_has_its_results(tmp_path):
    process = start(tmp_path, 500)
    wait_for(lambda: (tmp_path / "results.csv").exists())
    assert (tmp_path / "best.json").exists()
    process.send_signal(signal.SIGINT)
    out, err = finish(process, code=130)
    assert err.splitlines()[-1] == "interrupted"
    assert "strategies evaluated; see results.csv, best.json, best.svg, pareto.png, pare" in out
    assert str(tmp_path) in out
    assert (tmp_path / "pareto.html").exists()


def test_a_search_whose_evaluations_all_fail_says_so_and_ends(tmp_path):
    (tmp_path / "training").touch()
    out, err = finish(start(tmp_path, 2, "--images", "64"), code=2)
    assert out == ""
    lines = err.splitlines()
    assert sum(" failed: FileExistsError: " in line for line in lines) >= 3
    assert lines[-1].startswith(
        "error: a worker ended: 3 strategies in a row failed, the last with"
    )
    assert "Traceback" in (tmp_path / "logs" / "worker-0.log").read_text()


def test_a_search_in_which_nothing_fits_says_what_would(tmp_path):
    (tmp_path / "best.json").write_text("of a search before")
    out, err = finish(start(tmp_path, 2, "--budget", "0.01"), code=2)
    assert "2/2 sync" in err
    assert "; nothing fits yet; " in err
    assert "error: nothing fits --budget 0.01: there is no best.json" in err
    assert "best" not in out
    least = min(float(t.user_attrs["latency_us"]) for t in trials_of(tmp_path))
    told = re.search(r"takes the least, ([\d.]+) ms; give --budget ([\d.]+) or more", out)
    assert float(told[1]) == pytest.approx(least / 1e3, abs=0.01)
    assert 0.01 < float(told[2]) < 1
    assert not (tmp_path / "best.json").exists()


@pytest.mark.parametrize("package", extra.NEEDED)
def test_what_is_needed_at_the_end_is_asked_for_at_the_beginning(package, monkeypatch, capsys):
    assert {"matplotlib", "plotly"} < set(extra.NEEDED)
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(SystemExit):
        search.main([])
    assert capsys.readouterr().err.startswith(f"error: {package} is not installed")


def test_a_killed_coordinator_and_one_that_joins(tmp_path):
    """kill -9 of the coordinator: its worker goes on, the same command joins, nothing is lost."""
    coordinator = start(tmp_path, 5)
    before = wait_for(lambda: finished_in(tmp_path))
    os.kill(coordinator.pid, signal.SIGKILL)
    coordinator.wait()
    finish(start(tmp_path, 5))
    trials = trials_of(tmp_path)
    evaluated = Counter(names(trials))
    assert set(before) <= set(evaluated)
    assert set(evaluated.values()) == {1}
    assert len(evaluated) in (5, 6)  # both began the last one at once


def test_each_of_the_best_is_measured_once(tmp_path, monkeypatch):
    """What --measure keeps in the study; that a searched model compiles: test_nas_training.py."""
    config = narrow_config()
    with pytest.raises(InputError, match="'rk3399' is not this machine"):
        measuring.measure_us(config, load_target("rk3399"))
    study = open_study(open_storage(str(tmp_path / "study.db")), "test", 7, {})
    facts = {"latency_us": 500.0, "config": config_to_json(config)}
    Worker(study, lambda strategy: Outcome(0.5, facts), 7, 2).run()
    monkeypatch.setattr(measuring, "measure_us", lambda config, target: 420.0)
    said = []
    for _ in range(2):
        measuring.measure_best(study, results(study), 1, load_target("host"), said.append)
    (line,) = said
    measured = [r for r in results(study) if "measured_us" in r.facts]
    assert [r.latency_us for r in measured] == [420.0]
    assert line.endswith("0.50 ms predicted, 0.42 ms measured")


@pytest.mark.parametrize("device", ["meta", "cuda:99", "phone"])
def test_a_device_that_cannot_compute_is_refused(device):
    with pytest.raises(InputError, match=f"--devices {device}: torch has no such device here"):
        devices_of(f"cpu,{device}")
