"""A search's state on disk: saved at its end or interruption, continued by the next one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.errors import InputError
from syncnas_tvm.planner.cost_mode import CostMode
from syncnas_tvm.planner.space import Space

FORMAT = 3
FLAG = "--search-state"


@dataclass(frozen=True)
class StateFile:
    """The file at ``path``, for searches of one model and target in one cost mode."""

    path: Path
    target: str

    def load(self, space: Space, mode: CostMode) -> Mapping[str, Any] | None:
        """The state to continue from; None where there is no file.

        Raises InputError where it is none, or of another model, space, target or cost mode.
        """
        if not self.path.exists():
            return None
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            found, state = dict(data["of"]), data["state"]
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, not {FORMAT}")
            if data["sha256"] != _digest(json.dumps(state)):
                raise ValueError("it was damaged or changed since it was saved")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{FLAG} {self.path}: not the state of a search ({error}); name another file,"
                " or delete this one"
            ) from error
        for what, value in self._of(space, mode).items():
            if found.get(what) != value:
                shown = "other decisions" if what == "decisions" else f"{what} '{found.get(what)}'"
                raise InputError(
                    f"{FLAG} {self.path}: is of a search with {shown}"
                    + ("" if what == "decisions" else f", not '{value}'")
                    + "; name another file, or delete this one"
                )
        return state

    def save(self, space: Space, mode: CostMode, state: Mapping[str, Any]) -> None:
        """Write the state aside, then in place of what was there."""
        with file_written_aside(self.path) as aside:
            digest = _digest(json.dumps(state))
            data = {"format": FORMAT, "of": self._of(space, mode), "sha256": digest, "state": state}
            aside.write_text(json.dumps(data), encoding="utf-8")

    def _of(self, space: Space, mode: CostMode) -> dict[str, Any]:
        """What a state depends on; the kernels in the space stand for the model."""
        hashed = hashlib.sha256(repr(space.regions).encode())
        for candidate in space.all():
            hashed.update(repr((candidate.decision, candidate.work)).encode())
        return {
            "target": self.target,
            "cost mode": mode.name,
            "sync_us": mode.sync_us,
            "decisions": hashed.hexdigest()[:16],
        }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
