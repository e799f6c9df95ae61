"""The base at the width that meets a budget: it fits, it is the strongest, and searches get its trunk."""

import json
import re

import pytest

from syncnas_tvm import search
from syncnas_tvm.cost_models import Roofline
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas import ZOO, crew
from syncnas_tvm.nas.allocate import Allocator
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.flags import FIT, task_of
from syncnas_tvm.nas.model import Mobile
from syncnas_tvm.nas.scaled_base import MULTIPLES, STEPS, scaled_base
from syncnas_tvm.nas.task import SearchTask
from syncnas_tvm.targets import load_target

BASE = ZOO["mobilenet_v2"]
RK3399 = load_target("rk3399")
DIGITS = ("--data", "digits", "--width", "0.1", "--threads", "1")


@pytest.fixture(scope="module")
def allocator():
    return Allocator(BASE, RK3399, Roofline(RK3399))


def parsed(*flags):
    return search.make_parser().parse_args([*DIGITS, *flags])


def widths_that_fit(allocator, budget, multiple):
    """All widths below 1, the widest first."""
    for step in range(STEPS - 1, 0, -1):
        network = BASE.scaled(step / STEPS, multiple)
        if allocator.time_base(network) <= budget * allocator.base_us:
            yield network


@pytest.mark.parametrize("budget", [0.9, 0.5])
def test_it_is_the_widest_that_fits_and_the_strongest(allocator, budget):
    found = scaled_base(allocator, budget)
    network = BASE.scaled(found.width, found.multiple)
    wider = BASE.scaled(found.width + 1 / STEPS, found.multiple)
    assert found.latency_us == allocator.time_base(network) <= budget * allocator.base_us
    assert allocator.time_base(wider) > budget * allocator.base_us
    macs = count(Mobile(network)).macs
    for multiple in MULTIPLES:
        other = next(widths_that_fit(allocator, budget, multiple))
        assert count(Mobile(other)).macs <= macs, multiple


@pytest.mark.parametrize("budget", [1.0, 1.5])
def test_the_budget_of_the_base_is_met_by_the_base(allocator, budget):
    found = scaled_base(allocator, budget)
    assert (found.width, found.latency_us) == (1.0, allocator.base_us)


def test_it_is_of_the_whole_base_whatever_the_branches_are_made_of(allocator):
    narrow = Allocator(BASE.scaled(0.6), RK3399, allocator.model, whole=BASE)
    assert scaled_base(narrow, 0.5) == scaled_base(allocator, 0.5)


def test_a_budget_that_no_width_meets(allocator, capsys):
    with pytest.raises(
        InputError, match=r"--budget 0\.01: 'mobilenet_v2' is too slow at any width"
    ):
        scaled_base(allocator, 0.01)
    assert search.main([*DIGITS, "--trunk", FIT, "--budget", "0.01"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --budget 0.01: 'mobilenet_v2' is too slow")


def test_the_flag_resolves_to_the_scaled_base():
    task = task_of(parsed("--trunk", FIT, "--budget", "0.5"), None, "cpu")
    found = scaled_base(task.allocator, 0.5)
    assert (task.trunk, task.trunk_multiple) == (found.width, found.multiple)
    assert task.network == BASE.scaled(found.width, found.multiple)
    numbers = ("--trunk", str(found.width), "--trunk-multiple", str(found.multiple))
    assert task_of(parsed("--budget", "0.5", *numbers), None, "cpu") == task
    assert task_of(parsed("--trunk", FIT), None, "cpu").network == BASE


def test_a_number_is_taken_as_it_is_and_rounded_as_networks_are_published():
    task = task_of(parsed("--trunk", "0.75"), None, "cpu")
    assert task.network == BASE.scaled(0.75, 8)
    assert task_of(parsed(), None, "cpu").network == BASE


def test_workers_get_the_numbers(tmp_path, monkeypatch, capsys):
    """With what the user gave before them; then they resolve nothing."""
    started = []
    monkeypatch.setattr(crew.Crew, "start", lambda self, arguments, log: started.append(arguments))
    monkeypatch.setattr(crew.Crew, "watch", lambda self: [])
    flags = [*DIGITS, "--output", str(tmp_path), "--trunk", FIT, "--budget", "0.5"]
    assert search.main([*flags, "--workers", "2"]) == 2  # for nothing was evaluated
    task = task_of(parsed("--trunk", FIT, "--budget", "0.5"), None, "cpu")
    us = task.allocator.time_base(task.network)
    said = f"--trunk fit: the base at width {task.trunk:g}, channels in multiples of {task.trunk_multiple}, takes {us / 1e3:.2f} ms"
    assert said in capsys.readouterr().err.splitlines()
    monkeypatch.delattr(SearchTask, "fitted")
    for number, arguments in enumerate(started):
        options = search.make_parser().parse_args(arguments)
        assert options.as_worker == number
        assert task_of(options, None, "cpu") == task
    assert len(started) == 2


def test_a_search_and_the_same_command_again(tmp_path, capfd):
    """It goes on, with the trunk that was found before."""
    flags = [*DIGITS, "--output", str(tmp_path), "--trunk", FIT, "--budget", "0.5"]
    flags += ["--images", "64", "--epochs", "1", "--ema", "0", "--warmup-epochs", "0"]
    assert search.main([*flags, "--trials", "1"]) == 0
    err = capfd.readouterr().err
    assert "1/1 sync" in err
    width, multiple, ms = re.search(
        r"--trunk fit: the base at width (0\.\d+), channels in multiples of (\d), takes (.+) ms",
        err,
    ).groups()
    assert search.main([*flags, "--trials", "2", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert {r["trial"] for r in found["results"]} == {0, 1}
    assert found["task"]["trunk"] == float(width)
    assert found["task"]["trunk multiple"] == int(multiple)
    for result in found["results"]:
        assert result["budget_us"] == pytest.approx(0.5 * found["base_us"])
        assert 0.95 * result["budget_us"] < 1000 * float(ms) <= result["budget_us"]


@pytest.mark.parametrize("text", ["foo", "FIT", "", "0", "-1", "0.01", "9", "nan", "inf"])
def test_what_is_no_trunk(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed("--trunk", text)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument --trunk: '{text}' is neither 'fit' nor a number between 0.05 and 8" in line


def test_a_multiple_beside_the_trunk_that_fits():
    with pytest.raises(InputError, match="--trunk-multiple: --trunk fit chooses it"):
        task_of(parsed("--trunk", FIT, "--trunk-multiple", "4"), None, "cpu")
