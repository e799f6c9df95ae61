"""The strategy search: the tree, the Optuna sampler, workers that die, storages."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from nas_worker import reward
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from postgres import postgres_server

from syncnas_tvm.errors import InputError, SyncNASError
from syncnas_tvm.nas.crew import Crew
from syncnas_tvm.nas.results import MEASURED, results
from syncnas_tvm.nas.sampler import DEATH, LIMITS, Exhausted
from syncnas_tvm.nas.strategy import SyncStrategy, strategies
from syncnas_tvm.nas.study import fail_stale, open_storage, open_study
from syncnas_tvm.nas.tree import StrategyTree
from syncnas_tvm.nas.worker import Outcome, Worker

SCRIPT = Path(__file__).parent / "nas_worker.py"


def search(stages, seed, samples):
    tree = StrategyTree(stages, seed)
    found = []
    for _ in range(samples):
        strategy = tree.ask()
        if strategy is None:
            break
        found.append(strategy)
        tree.tell(strategy, reward(strategy))
    return found


@pytest.mark.parametrize("stages", [1, 4])
def test_the_space_is_searched_once_and_then_exhausted(stages):
    found = search(stages, 0, 10_000)
    assert sorted(map(str, found)) == sorted(map(str, strategies(stages)))


def test_same_seed_same_search():
    assert search(6, 3, 40) == search(6, 3, 40)
    assert search(6, 3, 40) != search(6, 4, 40)


def test_it_finds_the_best_sooner_than_chance():
    best = max(strategies(6), key=reward)  # one of 486: a random order needs 243 on average
    samples = [search(6, seed, 486).index(best) + 1 for seed in range(10)]
    assert sorted(samples)[5] < 60


def test_running_evaluations_are_not_suggested_and_repel():
    tree = StrategyTree(4, 0)
    asked = []
    for _ in range(54):
        strategy = tree.ask()
        assert strategy not in asked
        tree.start(strategy)
        asked.append(strategy)
    assert tree.exhausted
    assert tree.ask() is None


def test_a_virtual_loss_sends_the_next_worker_elsewhere():
    tree = StrategyTree(3, 0, exploration=0.0)
    for strategy in list(strategies(3))[:12]:
        tree.tell(strategy, 10.0 if strategy.kinds[0] == "a" else 1.0)
    first = tree.ask()
    assert first.kinds[0] != "n"
    beginnings = set()
    for _ in range(4):
        strategy = tree.ask()
        tree.start(strategy)
        beginnings.add(strategy.kinds[:2])
    assert len(beginnings) > 1


def test_a_reward_counts_once():
    tree = StrategyTree(3, 0)
    strategy = tree.ask()
    tree.tell(strategy, 1.0)
    tree.tell(strategy, 100.0)
    assert len(tree) == 1


@pytest.fixture(params=["study.db", "study.log", "postgresql"])
def storage(request, tmp_path):
    if request.param != "postgresql":
        yield str(tmp_path / request.param)
        return
    with postgres_server() as url:
        yield url


def start_worker(storage, log, stages=3, trials=18, seconds=0.05):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), storage, str(stages), str(trials), str(seconds), str(log)]
    )


def study_of(storage, stages=3):
    return open_study(open_storage(storage), "test", stages, {"of": "tests"})


def names(study, state=TrialState.COMPLETE):
    return [t.user_attrs.get("strategy") for t in study.get_trials(states=(state,))]


def test_a_search_goes_on_from_its_study(storage):
    def evaluate(strategy):
        return Outcome(reward(strategy), {"name": str(strategy)})

    assert Worker(study_of(storage), evaluate, 3, 7).run() == 7
    study = study_of(storage)
    assert Worker(study, evaluate, 3, 7).run() == 0
    assert Worker(study, evaluate, 3, 1000).run() == 11  # then the space is exhausted
    assert sorted(names(study)) == sorted(map(str, strategies(3)))
    with pytest.raises(Exhausted):
        study.ask().suggest_categorical("sync0", ("n", "a", "c"))
    assert study.best_trial.user_attrs["name"] == "sync3_012_aaa"


def test_other_settings_are_refused(storage):
    study_of(storage)
    with pytest.raises(
        InputError, match="study 'test' has of tests, not other; give the same flags"
    ):
        open_study(open_storage(storage), "test", 3, {"of": "other"})


def test_workers_share_and_a_dead_ones_trial_is_retried(storage, tmp_path):
    """Two workers; one is killed in mid-trial: nothing finished is lost, nothing is done twice."""
    study_of(storage)
    log = tmp_path / "log"
    victim = start_worker(storage, log, trials=18, seconds=0.4)
    other = start_worker(storage, log, trials=18, seconds=0.05)
    study = study_of(storage)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        mine = [t for t in study.get_trials() if "strategy" in t.user_attrs]
        if len(mine) >= 4 and log.exists():
            break
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert other.wait(150) == 0  # a journal's lock, left by the dead, is broken after 30 s
    assert sorted(names(study)) == sorted(map(str, strategies(3)))
    evaluated = Counter(log.read_text().split())
    # A worker that finds nothing left to begin fails its trial before it has a strategy.
    interrupted = Counter(n for n in names(study, TrialState.FAIL) if n)
    assert sum(interrupted.values()) <= 1
    assert evaluated == Counter(names(study)) + interrupted


def test_only_silent_trials_are_failed(storage):
    study = study_of(storage)
    trial = study.ask()
    wanted = dict(trial.relative_params)
    assert fail_stale(study, 60) == []
    time.sleep(0.05)
    assert fail_stale(study, 0.01) == [trial.number]
    assert study.ask().relative_params == wanted  # it is evaluated again, at once


def test_a_failing_evaluation_is_noted_and_given_up(storage):
    study = study_of(storage, 1)

    def evaluate(strategy):
        if str(strategy) == "sync1_0_c":
            raise RuntimeError("out of memory")
        return Outcome(1.0)

    assert Worker(study, evaluate, 1, 10, poll_s=0.01).run() == 1
    failed = [t for t in study.get_trials() if t.user_attrs.get("error")]
    assert [t.user_attrs["error"] for t in failed] == ["RuntimeError: out of memory"] * 3


def memory_study(stages=3):
    return open_study(InMemoryStorage(), "test", stages, {})


def work(study, evaluate, trials=1000):
    return Worker(study, evaluate, 3, trials, poll_s=0.01).run()


def succeed(strategy):
    return Outcome(reward(strategy))


def test_where_every_evaluation_fails_the_worker_ends_and_no_strategy_is_lost():
    def evaluate(strategy):
        raise RuntimeError("CUDA out of memory")

    study = memory_study()
    for _ in range(4):
        with pytest.raises(SyncNASError, match=r"3 strategies in a row failed.*CUDA out of memory"):
            work(study, evaluate)
    assert len(study.get_trials()) == len(set(names(study, TrialState.FAIL))) == 12
    assert work(study, succeed) == 18


def test_strategies_that_do_not_fit_are_no_successes_between_failures():
    seen = []

    def evaluate(strategy):
        seen.append(strategy)
        if len(seen) % 2:
            raise RuntimeError("CUDA out of memory")
        return Outcome(0.0, {"feasible": False})

    with pytest.raises(SyncNASError, match="in a row failed"):
        work(memory_study(), evaluate)
    assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), InputError("no such data")])
def test_an_interruption_ends_the_worker_and_does_not_count_as_a_failure(cause):
    seen = []

    def evaluate(strategy):
        seen.append(strategy)
        raise cause

    study = memory_study()
    for _ in range(30):
        with pytest.raises(type(cause)):
            work(study, evaluate)
    assert len(set(seen)) == 1  # each time the same goes on, from its checkpoint
    assert work(study, succeed) == 18


def test_only_a_strategy_whose_workers_die_again_and_again_is_given_up():
    study = memory_study()
    first = study.ask().relative_params
    for _ in range(LIMITS[DEATH] - 1):
        fail_stale(study, 0.0)
        assert study.ask().relative_params == first
    fail_stale(study, 0.0)
    assert study.ask().relative_params != first
    assert {t.user_attrs["error"] for t in study.get_trials(states=(TrialState.FAIL,))} == {
        "its worker died"
    }


class Working(Crew):
    """A crew that evaluates a strategy itself whenever it looks after its workers."""

    evaluations: list

    def _alive(self):
        if self.evaluations:
            with suppress(InputError):
                work(self.study, self.evaluations.pop(0), len(results(self.study)) + 1)
        return bool(self.evaluations)


def test_a_crew_tells_what_failed_and_keeps_what_finished():
    def fail(strategy):
        raise InputError("no such data")

    said, kept, study = [], [], memory_study()
    config = {"config": {"name": "any"}, "latency_us": 6000.0}
    work(study, lambda strategy: Outcome(0.9, config), 1)
    (best,) = names(study)
    study.set_user_attr(MEASURED, {best: 3000.0})
    crew = Working(study, 3, said.append, kept.append, poll_s=0.0)
    crew.evaluations = [fail, lambda strategy: Outcome(0.5, config)]
    crew.watch()
    (tried,) = set(names(study)) - {best}
    assert said[0] == f"{tried} failed: InputError: no such data"
    assert f"2/3 {tried}: accuracy 0.5000, 6.00 ms predicted; best {best} 0.9000, " in said[1]
    assert "6.00 ms predicted, 3.00 ms measured; 0 running" in said[1]
    assert [[r.strategy for r in found] for found in kept] == [[best, tried]]


def test_a_storage_that_is_none(tmp_path):
    (tmp_path / "no.db").write_text("this is not a database, is it? " * 40)
    with pytest.raises(InputError, match=r"--storage .*no.db cannot be opened"):
        open_storage(str(tmp_path / "no.db"))
    with pytest.raises(InputError, match="--storage nosql"):
        open_storage("nosql://host/x")
    for text in ("garbage", "[]\n", "garbage\nand more\n", "{}\n"):
        (tmp_path / "no.log").write_text(text)
        with pytest.raises(InputError, match=r"--storage .*no.log cannot be opened"):
            open_storage(str(tmp_path / "no.log"))


def test_strategies_enqueued_by_hand_come_first(storage):
    study = study_of(storage)
    study.enqueue_trial({"sync0": "c", "sync1": "n", "sync2": "a"})
    seen = []

    def evaluate(strategy):
        seen.append(strategy)
        return Outcome(1.0)

    Worker(study, evaluate, 3, 2).run()
    assert seen[0] == SyncStrategy(("c", "n", "a"))
    assert len(set(seen)) == 2
