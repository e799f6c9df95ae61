"""Turns a built executable into ``model.so`` with the target's own link recipe."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tvm import relax

from syncnas_tvm.errors import BuildError
from syncnas_tvm.targets import Target


def export_library(executable: relax.VMExecutable, target: Target, path: Path) -> None:
    """Write ``executable`` as a shared library for ``target``.

    Raises TargetError where no linker for it is installed, BuildError where linking fails.
    """
    executable.export_library(str(path), fcompile=linker(target, path.name))


def linker(target: Target, name: str) -> Callable[..., None]:
    """What TVM's ``export_library`` takes as ``fcompile``; ``name`` is for its errors.

    Raises TargetError where no linker for ``target`` is installed.
    """
    command = target.link.find()

    def link(output: str, objects: list[str], options: list[str] | None = None) -> None:
        arguments = ["-shared", "-fPIC", "-o", output, *objects, *target.link.options]
        done = subprocess.run(
            [*command, *arguments, *(options or [])], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BuildError(
                f"linking {name} for target '{target.name}' with '{' '.join(command)}' failed: "
                f"{_last_line(done.stderr)}"
            )

    link.output_format = "so"  # type: ignore[attr-defined]
    link.object_format = "o"  # type: ignore[attr-defined]
    triple = str(target.cpu_config()["mtriple"])
    link.get_target_triple = lambda: triple  # type: ignore[attr-defined]
    return link


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "the linker said nothing"
