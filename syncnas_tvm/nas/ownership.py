"""Whose results a folder has: those of one search. Its files are named after strategies alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.study import as_json, difference

OWNER = "search.json"


@contextmanager
def owned(folder: Path, study: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Open the study in this context; where that succeeds, the folder is its own from then on.

    Raises InputError, before anything is done, where the folder is another search's.
    """
    path, wanted = folder / OWNER, {"study": study, **as_json(settings)}
    found = _read(path) if path.exists() else None
    if found is not None and (other := difference(found, wanted)):
        raise InputError(
            f"--output {folder} has the results of a search (study '{found.get('study')}') with"
            f" {other}, or another --output"
        )
    yield
    if found != wanted:
        with file_written_aside(path) as aside:
            aside.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged; name another --output") from error
    return found if isinstance(found, dict) else {}
