"""TVM's runtime libraries for aarch64 Linux, out of the official wheels and checked."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from syncnas_tvm.artifact import digest
from syncnas_tvm.errors import BuildError, error_line

_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_24_aarch64")
_PYTHON = "3.11"


@dataclass(frozen=True)
class RuntimeWheel:
    """A wheel, the libraries that a device needs of it, and the SHA-256 of the file."""

    package: str
    version: str
    sha256: str
    libraries: tuple[str, ...]


# The versions that pyproject.toml pins; the digests are those that PyPI shows for the files.
WHEELS = (
    RuntimeWheel(
        "apache-tvm",
        "0.27.0.post1",
        "4acfdb7653e4e1ba7a707bdf2833db72eb8fda7d04d99141f2a4e1da43171fb7",
        ("tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_runtime_extra.so"),
    ),
    RuntimeWheel(
        "apache-tvm-ffi",
        "0.1.14.post1",
        "c7a759781d4fbf2b99fa12f2741f250b882b06acc2747bb02831d491d1ac7d3c",
        ("tvm_ffi/lib/libtvm_ffi.so",),
    ),
)


def fetch_runtime(folder: Path, downloads: Path) -> dict[str, str]:
    """Put TVM's runtime libraries for aarch64 Linux into ``folder``; their SHA-256 by name.

    Wheels that are in ``downloads`` already are used. Raises BuildError where a download fails, or
    a file is not the one that was published, or this machine's TVM has another version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for wheel in WHEELS:
        _check_version(wheel)
        with zipfile.ZipFile(_download(wheel, downloads)) as archive:
            for name in wheel.libraries:
                target = folder / Path(name).name
                target.write_bytes(archive.read(name))
                target.chmod(0o755)
                files[target.name] = digest(target)
    return files


def _check_version(wheel: RuntimeWheel) -> None:
    here = version(wheel.package)
    if here != wheel.version:
        raise BuildError(
            f"{wheel.package} {here} is installed here, bundles are made for {wheel.version}: models "
            f"compiled here would not run on the device; pip install {wheel.package}=={wheel.version}"
        )


def _download(wheel: RuntimeWheel, downloads: Path) -> Path:
    found = _checked(wheel, downloads)
    if found is not None:
        return found
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", f"--python-version={_PYTHON}"]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    command += [f"--dest={downloads}", f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _checked(wheel, downloads)
    if found is not None:
        return found
    if done.returncode:
        problem = error_line(RuntimeError(done.stderr))
        raise BuildError(f"downloading {wheel.package} for aarch64 failed: {problem}")
    raise BuildError(
        f"the wheel of {wheel.package} {wheel.version} for aarch64 in {downloads} is not the published "
        "one (its SHA-256 differs); remove it and check where pip downloads from"
    )


def _checked(wheel: RuntimeWheel, downloads: Path) -> Path | None:
    stem = wheel.package.replace("-", "_")
    for path in sorted(downloads.glob(f"{stem}-{wheel.version}-*aarch64.whl")):
        if digest(path) == wheel.sha256:
            return path
    return None
