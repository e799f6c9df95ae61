"""The folder that ``compile`` writes: what is in it, written all at once or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from syncnas_tvm._version import __version__
from syncnas_tvm.errors import ArtifactError, InputError
from syncnas_tvm.frontend import TensorSpec
from syncnas_tvm.targets.model import WeightMemory
from syncnas_tvm.work import Lane

FORMAT = 1
MANIFEST = "manifest.json"
MODEL, PLAN, TIMELINE = "model.so", "plan.json", "timeline.json"
FILES = (MODEL, PLAN, TIMELINE)
# The executable's bytecode and the runtime have to be of the same release.
RUNTIME_PACKAGES = ("apache-tvm", "apache-tvm-ffi")


@dataclass(frozen=True)
class Manifest:
    """What a compiled folder says of itself.

    ``machine`` is the CPU lane's LLVM triple, ``cpu`` its processor; ``lanes`` the lanes that the
    plan uses; ``files`` maps file names to SHA-256 digests (hexadecimal), ``types`` lanes to the type
    of their floats (float32 where a lane is not in it). ``cpus`` are the cores of the CPU lane (empty:
    any), ``cpu_threads`` its threads. ``gpu_weights`` is where the GPU lane reads weights from, ``buffer``
    or ``texture``.
    """

    target: str
    machine: str
    cpu: str
    runs_on_host: bool
    lanes: tuple[Lane, ...]
    syncs: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: Mapping[str, str]
    files: Mapping[str, str]
    types: Mapping[str, str] = field(default_factory=dict)
    cpus: tuple[int, ...] = ()
    cpu_threads: int = 1
    gpu_weights: WeightMemory = "buffer"

    @property
    def runs_here(self) -> bool:
        """Whether it was compiled for this kind of machine."""
        if not self.runs_on_host:
            return False
        from tvm.target import codegen

        return bool(
            self.cpu == str(codegen.llvm_get_system_cpu())
            and self.machine == str(codegen.llvm_get_system_triple())
        )

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return {"format": FORMAT, **asdict(self)}


def versions() -> dict[str, str]:
    """Versions of this project and of the packages that the executable depends on."""
    return {"syncnas-tvm": __version__, **{name: version(name) for name in RUNTIME_PACKAGES}}


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(folder: Path) -> None:
    """Raise InputError where ``folder`` cannot be written without losing somebody's files."""
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise InputError(
                f"--output {folder} is a folder with other files in it; name a new or empty folder, "
                "or one that an earlier compile wrote"
            )
    elif folder.exists():
        raise InputError(f"--output {folder} is a file; name a folder")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place at the end, if nothing failed.

    Killed at any moment, ``folder`` is the old one or the new one, never a half of either.
    """
    check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    old = folder.parent / f".{folder.name}.old-{os.getpid()}"
    _remove_left_over(folder)
    aside.mkdir()
    try:
        yield aside
        if folder.exists() and not _exchange(aside, folder):
            folder.rename(old)
        if not folder.exists():
            aside.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _remove_left_over(folder: Path) -> None:
    """Remove what a killed compile left beside ``folder``; restore the old folder if it had gone."""
    for path in folder.parent.glob(f".{folder.name}.*-*"):
        kind, _, process = path.name.removeprefix(f".{folder.name}.").partition("-")
        if kind not in ("partial", "old") or not process.isdecimal() or _is_alive(int(process)):
            continue
        if kind == "old" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot (other than Linux, old kernels)."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, data: object) -> None:
    """Write ``data`` as indented JSON."""
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json; raises ArtifactError naming the file and what to do."""
    again = "compile the model again"
    path = folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise ArtifactError(f"{folder} {what}; give the folder that 'compile --output' wrote")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ArtifactError(f"{path} has another format than this version reads; {again}")
        for name in ("inputs", "outputs"):
            data[name] = tuple(
                TensorSpec(s["name"], tuple(s["shape"]), s["dtype"]) for s in data[name]
            )
        lists = {name: tuple(data[name]) for name in ("lanes", "cpus") if name in data}
        manifest = Manifest(**{**data, **lists})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a valid manifest ({error}); {again}") from error
    for name in FILES:
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} lacks {name}; {again}")
        if manifest.files.get(name) != digest(folder / name):
            raise ArtifactError(f"{folder / name} was changed after compilation; {again}")
    for name in RUNTIME_PACKAGES:
        built, here = manifest.versions.get(name), version(name)
        if built != here:
            raise ArtifactError(
                f"{folder} was compiled with {name} {built}, here is {here}; {again}, or install "
                f"{name}=={built}"
            )
    return manifest
