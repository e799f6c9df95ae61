"""Says in one line what to install where the packages of the extra ``[nas]`` are missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from syncnas_tvm.cli import USER_ERROR

NEEDED = ("torch", "optuna", "matplotlib", "plotly")


def require() -> None:
    """End the command, before it has flags to parse, where a package is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"error: {missing[0]} is not installed; pip install 'syncnas-tvm[nas]'", file=sys.stderr
        )
        raise SystemExit(USER_ERROR)
