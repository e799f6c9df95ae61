"""The folder to copy to a device: programs, libraries, header, start script and instructions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from syncnas_tvm.artifact import digest, versions, write_json
from syncnas_tvm.device.bundle_texts import readme, start_script
from syncnas_tvm.device.cross_build import LIBRARY, PROGRAMS, compile_all, configure, source_folder
from syncnas_tvm.device.toolchain import Toolchain, android_toolchain, linux_toolchain
from syncnas_tvm.device.wheels import fetch_runtime
from syncnas_tvm.errors import BuildError, InputError
from syncnas_tvm.targets import Target

BUNDLE = "bundle.json"
FORMAT = 1
_ANDROID_LIBRARIES = ("libtvm_runtime.so", "libtvm_ffi.so")


def build_bundle(
    target: Target,
    output: Path,
    work: Path,
    tvm_libraries: Path | None = None,
    report: Callable[[str], None] = lambda stage: None,
) -> Toolchain:
    """Make ``output`` a bundle for ``target``; intermediate files and downloads stay in ``work``.

    ``tvm_libraries`` is a folder with TVM's runtime for Android, which no wheel has. ``output`` is
    written at once or not at all. Raises BuildError where a tool is missing or fails, InputError
    where ``output`` holds other files or the target is this machine.
    """
    triple = str(target.cpu_config()["mtriple"])
    if target.is_host or not triple.startswith("aarch64"):
        raise InputError(
            f"target '{target.name}' needs no bundle: it is no aarch64 device ({triple}); "
            "name one such as rk3399 or android"
        )
    android = "android" in triple
    work = work.resolve()
    # What is missing is said before anything is downloaded.
    toolchain = android_toolchain() if android else linux_toolchain(work)
    source_folder()
    with _written_aside(output) as aside:
        library_folder = aside / "lib"
        report("libraries")
        if android:
            _copy_android_libraries(tvm_libraries, library_folder)
        else:
            fetch_runtime(library_folder, work / "downloads")
        report("build")
        build = work / triple
        configure(build, toolchain, library_folder)
        compile_all(build, toolchain)
        _assemble(target, triple, toolchain, build, aside)
    return toolchain


def _assemble(target: Target, triple: str, toolchain: Toolchain, build: Path, folder: Path) -> None:
    (folder / "bin").mkdir()
    for name in PROGRAMS:
        shutil.copy2(build / name, folder / "bin" / name)
    shutil.copy2(build / LIBRARY, folder / "lib" / LIBRARY)
    root = source_folder()
    shutil.copytree(root / "runtime" / "include", folder / "include")
    shutil.copy2(root / "LICENSE", folder / "LICENSE")
    script = folder / "start-server.sh"
    script.write_text(start_script(target.name), encoding="utf-8")
    script.chmod(0o755)
    (folder / "README.md").write_text(readme(target, toolchain.name), encoding="utf-8")
    files = {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    about = {"format": FORMAT, "target": target.name, "machine": triple, "versions": versions()}
    write_json(folder / BUNDLE, {**about, "files": files})


def _copy_android_libraries(source: Path | None, folder: Path) -> None:
    """TVM publishes no runtime for Android: it has to be built from its sources with the NDK."""
    missing = [n for n in _ANDROID_LIBRARIES if source is None or not (source / n).is_file()]
    if source is None or missing:
        where = f"{source} lacks {', '.join(missing)}" if source else "--tvm-libraries is not given"
        raise BuildError(
            f"TVM's runtime for Android is missing ({where}): build {', '.join(_ANDROID_LIBRARIES)} from "
            "TVM's sources of the same version with the NDK and name their folder: --tvm-libraries"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.glob("libtvm*.so"):
        shutil.copy2(path, folder / path.name)


@contextmanager
def _written_aside(output: Path) -> Iterator[Path]:
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / BUNDLE).is_file():
        raise InputError(f"--output {output} holds other files; name a new or empty folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    old = aside.with_name(f"{aside.name}.old")
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())
        if output.exists():
            output.rename(old)
        aside.rename(output)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
