"""What goes into a bundle, and what is said where something for it is missing."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cli_tools import Shell

from syncnas_tvm.artifact import digest
from syncnas_tvm.device import bundle, wheels
from syncnas_tvm.device.bundle import build_bundle
from syncnas_tvm.device.bundle_texts import readme, start_script
from syncnas_tvm.device.cross_build import configure
from syncnas_tvm.device.toolchain import android_toolchain, linux_toolchain
from syncnas_tvm.errors import BuildError, InputError
from syncnas_tvm.targets import load_target

FAKE_NDK = Path(__file__).resolve().parent / "device" / "fake.toolchain.cmake"


@pytest.fixture
def ndk(tmp_path: Path) -> Path:
    """An NDK that has the toolchain file and nothing else."""
    file = tmp_path / "ndk" / "build" / "cmake" / "android.toolchain.cmake"
    file.parent.mkdir(parents=True)
    file.write_text(FAKE_NDK.read_text())
    return tmp_path / "ndk"


def test_android_configures(ndk: Path, tmp_path: Path) -> None:
    """The CMake project takes the NDK's toolchain file; no NDK is here to compile with."""
    pytest.importorskip("ziglang")
    compiler = linux_toolchain(tmp_path / "zig").flags[-1].split("=")[1]
    (ndk / "compiler").symlink_to(compiler)
    toolchain = android_toolchain({"ANDROID_NDK_HOME": str(ndk)})
    configure(tmp_path / "build", toolchain, tmp_path)
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert "FAKE_NDK_SAW:STRING=arm64-v8a;android-26;c++_static" in cache
    assert (
        "SYNCNAS_DEVICE_TOOLS:BOOL=ON" in cache or "SYNCNAS_DEVICE_TOOLS:UNINITIALIZED=ON" in cache
    )
    targets = subprocess.run(
        ["cmake", "--build", str(tmp_path / "build"), "--target", "help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert all(name in targets for name in ("syncnas-server", "syncnas-run", "syncnas_opencl"))


def test_no_ndk(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"set ANDROID_NDK_HOME.*Models compile without it"):
        android_toolchain({})
    with pytest.raises(BuildError, match="is no Android NDK"):
        android_toolchain({"ANDROID_NDK_HOME": str(tmp_path)})


def test_no_tvm_for_android(ndk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK_HOME", str(ndk))
    target = load_target("android")
    with pytest.raises(BuildError, match=r"TVM's runtime for Android is missing.*--tvm-libraries"):
        build_bundle(target, tmp_path / "out", tmp_path / "work")
    with pytest.raises(BuildError, match=r"lacks libtvm_runtime.so, libtvm_ffi.so"):
        build_bundle(target, tmp_path / "out", tmp_path / "work", tmp_path)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_wrong_targets_and_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target 'host' needs no bundle"):
        build_bundle(load_target("host"), tmp_path / "out", tmp_path / "work")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        build_bundle(load_target("rk3399"), tmp_path / "mine", tmp_path / "work")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_file_that_was_tampered_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file that lies there nor what pip brings is used unless it is the published one."""
    genuine = wheels.WHEELS[1]
    planted = tmp_path / "apache_tvm_ffi-0.1.14.post1-cp311-cp311-manylinux_2_28_aarch64.whl"
    planted.write_bytes(b"not a wheel")
    other = replace(genuine, sha256="0" * 64)
    monkeypatch.setattr(wheels, "WHEELS", (other,))
    with pytest.raises(
        BuildError, match=r"is not the published one \(its SHA-256 differs\)|failed"
    ):
        wheels.fetch_runtime(tmp_path / "lib", tmp_path)
    assert not list((tmp_path / "lib").iterdir())


def test_versions_have_to_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "version", lambda name: "0.26.0")
    with pytest.raises(
        BuildError, match=r"apache-tvm 0.26.0 is installed here, bundles are made for"
    ):
        wheels.fetch_runtime(tmp_path, tmp_path)


def test_command_line(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANDROID_NDK")}
    shell.environment = {
        k: v for k, v in shell.environment.items() if k in environment or "PYTHON" in k
    }
    line = shell.fails("device", "build", "--target", "android", "--output", "bundle", code=2)
    assert "ANDROID_NDK_HOME" in line
    line = shell.fails("device", "emulate", "--bundle", "nothing", code=2)
    assert "give the folder that 'device build' wrote" in line
    assert "build|emulate" in shell.fails("device", "destroy", code=2)


def test_texts() -> None:
    target = load_target("rk3399")
    text = readme(target, "a compiler")
    assert "runs whatever it is sent" in text
    assert "--rpc-key rk3399" in text
    done = subprocess.run(["sh", "-n"], input=start_script("rk3399"), text=True, check=False)
    assert done.returncode == 0


def test_digests_in_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bundle.json has the digest of every file, so that a damaged copy can be found."""
    import json

    def pretend(build: Path, _toolchain: object) -> None:
        for name in (*bundle.PROGRAMS, bundle.LIBRARY):
            (build / name).write_bytes(name.encode())

    monkeypatch.setattr(bundle, "configure", lambda build, *_: build.mkdir(parents=True))
    monkeypatch.setattr(bundle, "compile_all", pretend)
    monkeypatch.setattr(bundle, "fetch_runtime", lambda folder, _: folder.mkdir(parents=True))
    output = tmp_path / "bundle"
    for _ in range(2):  # an older bundle is replaced
        build_bundle(load_target("rk3399"), output, tmp_path / f"work{_}")
    about = json.loads((output / "bundle.json").read_text())
    assert about["machine"] == "aarch64-linux-gnu"
    files = {p for p in output.rglob("*") if p.is_file() and p.name != "bundle.json"}
    assert {output / name for name in about["files"]} == files
    assert all(digest(output / name) == value for name, value in about["files"].items())
    assert os.access(output / "start-server.sh", os.X_OK)
