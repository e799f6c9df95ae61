"""A search's study: where it is kept, what it is of, and which of its trials have died."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from syncnas_tvm.errors import InputError, error_line
from syncnas_tvm.nas.sampler import DEATH, FAILURE, StrategySampler

SETTINGS = "syncnas:settings"
DIGEST = "data digest"
"""The setting that tells the training images from others; the first studies have none."""
BEAT = "syncnas:beat"
JOURNAL_SUFFIXES = (".log", ".journal")


def open_storage(where: str) -> BaseStorage:
    """The storage at ``where``: an SQLite file, a journal file (``.log``), or a database's URL.

    Raises InputError where it cannot be opened.
    """
    try:
        if "://" not in where and Path(where).suffix in JOURNAL_SUFFIXES:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            _check_journal(Path(where))
            return JournalStorage(JournalFileBackend(where))
        if "://" not in where:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
            where = f"sqlite:///{Path(where).absolute()}"
        options = {"connect_args": {"timeout": 120}} if where.startswith("sqlite") else {}
        return RDBStorage(where.replace("postgresql://", "postgresql+psycopg://"), options)
    except ImportError as error:
        raise InputError(
            f"--storage {_shown(where)}: {error}; pip install 'syncnas-tvm[postgresql]'"
        ) from error
    except Exception as error:  # SQLAlchemy, its drivers and Optuna have no common base
        raise InputError(
            f"--storage {_shown(where)} cannot be opened ({error_line(error)}); name another"
        ) from error


def open_study(
    storage: BaseStorage,
    name: str,
    stages: int,
    settings: Mapping[str, Any],
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
) -> optuna.Study:
    """The study ``name``, made where there is none.

    Raises InputError naming the first of ``settings`` in which the one that is there differs. One that
    does not know its images takes those of ``settings`` for its own, which ``say`` gets a line about.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storage,
        sampler=StrategySampler(stages, seed),
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )
    wanted = as_json(settings)
    found = study.user_attrs.get(SETTINGS)
    if found is not None and (other := difference(found, wanted)):
        raise InputError(
            f"study '{name}' has {other}, or another --study with an --output of its own"
        )
    if found != wanted:
        study.set_user_attr(SETTINGS, wanted)
        if found is not None:
            say(
                f"study '{name}' does not know its images: it takes these, and no others from now on"
            )
    return study


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` as they are read again: tuples are lists."""
    return dict(json.loads(json.dumps(dict(settings))))


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first setting in which both differ, how, and what to give instead; empty where they agree.

    That ``found`` does not know its images is no difference.
    """
    # Images come last: where flags choose others of the same files, the flags are what differs.
    for key in sorted(set(found) | set(wanted), key=lambda key: (key == DIGEST, key)):
        if found.get(key) == wanted.get(key) or (key == DIGEST and key not in found):
            continue
        other = f"{key} {found.get(key)}, not {wanted.get(key)}"
        if key == DIGEST:
            return f"{other}: other training images; give --data the ones that it was made with"
        return f"{other}; give the same flags"
    return ""


@contextmanager
def heartbeat(study: optuna.Study, trial_id: int, every_s: float) -> Iterator[None]:
    """Note again and again, in the storage, that the trial is alive.

    Optuna's own heartbeat needs a database; this one works with journals too, and begins before the
    strategy is claimed for good.
    """
    done = threading.Event()
    storage = study._storage

    def beat() -> None:
        while not done.is_set():
            try:
                storage.set_trial_system_attr(trial_id, BEAT, time.time())
            except UpdateFinishedTrialError:
                return
            except Exception:
                pass
            done.wait(every_s)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def fail_stale(study: optuna.Study, grace_s: float) -> list[int]:
    """Fail the trials whose worker has not been heard of for ``grace_s`` seconds; their numbers.

    Their strategies are evaluated again. Clocks of machines that share a study may differ by less
    than that.
    """
    failed = []
    storage = study._storage
    for trial in storage.get_all_trials(study._study_id, states=(TrialState.RUNNING,)):
        started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        heard = max(started, float(trial.system_attrs.get(BEAT, 0.0)))
        if time.time() - heard > grace_s:
            try:
                storage.set_trial_user_attr(trial._trial_id, FAILURE, DEATH)
                storage.set_trial_user_attr(trial._trial_id, "error", "its worker died")
                storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            except UpdateFinishedTrialError:  # it has ended after all, or another worker was first
                continue
            failed.append(trial.number)
    return failed


def _check_journal(path: Path) -> None:
    """Optuna takes a line that it cannot read for one that is still being written."""
    beginning = b'{"op_code"'
    if path.exists():
        with path.open("rb") as file:
            if not beginning.startswith(file.read(len(beginning))):
                raise ValueError("it is no journal of Optuna's")


def _shown(where: str) -> str:
    """A URL without its password."""
    scheme, separator, rest = where.partition("://")
    return f"{scheme}://...@{rest.rpartition('@')[2]}" if separator and "@" in rest else where
