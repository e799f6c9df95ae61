"""Debian packages of any architecture, unpacked into a folder: nothing of the system changes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from syncnas_tvm.errors import BuildError


def unpack_packages(
    packages: Sequence[str], architecture: str, state: Path, root: Path, dependencies: bool = True
) -> None:
    """Download ``packages`` (with what they depend on) from this machine's own Debian sources into
    ``state`` and unpack them below ``root``.

    apt gets lists, caches and a status file of its own, so that neither root rights nor multiarch
    are needed. Raises BuildError where this is no Debian or a download fails.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise BuildError(
                f"{tool} is not here: the emulated board is made of Debian packages and needs Debian or "
                "Ubuntu"
            )
    archives = state / "archives"
    for folder in (state / "lists" / "partial", archives / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").write_text("")
    options = _options(state.resolve(), architecture)
    _run(["apt-get", "-qq", *options, "update"])
    if dependencies:
        _run(["apt-get", "-qq", *options, "-y", "--download-only", "install", *packages])
    else:
        _run(["apt-get", "-qq", *options, "download", *packages], archives)
    root.mkdir(parents=True, exist_ok=True)
    for package in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)])


def _options(state: Path, architecture: str) -> list[str]:
    values = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        # Scripts that belong to the system's own apt would write into the system.
        "Dir::Etc::parts": state / "no-parts",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "true",
    }
    return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        problem = next(
            (line for line in lines if line.startswith("E:")), (lines or ["no output"])[-1]
        )
        raise BuildError(f"{command[0]} failed: {problem}")
