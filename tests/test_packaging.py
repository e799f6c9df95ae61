"""The package as users get it: wheel, source distribution, and what ends up in an environment."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

import syncnas_tvm
from syncnas_tvm import backend, opencl_setup
from syncnas_tvm._version import __version__
from syncnas_tvm.errors import DeviceError

ROOT = Path(__file__).resolve().parent.parent
LINKED_FOLDERS = ("passes", "cost_models", "targets")
PLUGIN = "syncnas_tvm/libsyncnas_opencl.so"


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def source_files() -> set[str]:
    """The Python files and data that belong into the package, as the wheel names them."""
    package = ROOT / "syncnas_tvm"
    folders = [package, *(package / name for name in LINKED_FOLDERS)]
    names: set[str] = set()
    for folder in folders:
        # rglob does not follow the links below `folder`, but takes a link as its own start.
        for path in folder.resolve().rglob("*"):
            inside = path.relative_to(folder.resolve())
            if path.suffix in {".py", ".toml", ".typed", ".json", ".npz"} and path.is_file():
                names.add(str(Path("syncnas_tvm") / folder.relative_to(package) / inside))
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built the long way, from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    code = (
        "import sys; from scikit_build_core.build import build_sdist; "
        "print(build_sdist(sys.argv[1]))"
    )
    pip("install", "--target", str(folder / "tools"), "scikit-build-core>=0.10")
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env={"PYTHONPATH": str(folder / "tools"), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(sdist))
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = source_files() - names
    assert not missing
    assert {PLUGIN, "syncnas_tvm/py.typed", "syncnas_tvm/targets/host.toml"} <= names
    # Nothing lands beside the package: no top-level passes/, targets/, tests/.
    tops = {name.split("/")[0] for name in names}
    assert tops == {"syncnas_tvm", f"syncnas_tvm-{__version__}.dist-info"}


@pytest.mark.slow
def test_wheel_serves_every_python(wheel: Path) -> None:
    assert wheel.name.startswith(f"syncnas_tvm-{__version__}-py3-none-")


@pytest.mark.slow
def test_wheel_loads_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """`import tvm` finds the device through the installed wheel, not through this tree."""
    pip("install", "--no-deps", "--target", str(tmp_path), str(wheel))
    code = (
        "import tvm, syncnas_tvm.backend as b; "
        "import syncnas_tvm.passes, syncnas_tvm.targets, syncnas_tvm.cost_models; "
        "print(b.__file__, b.plugin_path(), tvm.opencl(0).exist)"
    )
    # -S leaves out the editable install's hook; the other packages come back by path.
    site = Path(distribution("numpy").locate_file(""))
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{site}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    module, plugin, exists = done.stdout.split()
    assert module == str(tmp_path / "syncnas_tvm" / "backend.py")
    assert plugin == str(tmp_path / PLUGIN)
    assert exists == "True"


@pytest.mark.slow
def test_plugin_has_no_run_path(wheel: Path, tmp_path: Path) -> None:
    """It must use the TVM that loaded it, never one of the (deleted) build environment."""
    with zipfile.ZipFile(wheel) as archive:
        plugin = archive.extract(PLUGIN, tmp_path)
    dynamic = subprocess.run(
        ["readelf", "--dynamic", plugin], capture_output=True, text=True, check=True
    ).stdout
    assert "RUNPATH" not in dynamic
    assert "RPATH" not in dynamic
    assert "libtvm_runtime.so" in dynamic


@pytest.mark.slow
def test_links_survive_in_the_source_distribution(wheel: Path) -> None:
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name: member for member in archive.getmembers()}
        prefix = sdist.name.removesuffix(".tar.gz")
        for folder in LINKED_FOLDERS:
            link = members.get(f"{prefix}/syncnas_tvm/{folder}")
            is_link = link is not None and link.issym() and link.linkname == f"../{folder}"
            is_copy = f"{prefix}/syncnas_tvm/{folder}/__init__.py" in members
            assert is_link or is_copy
            assert f"{prefix}/{folder}/__init__.py" in members


def test_entry_point_is_the_loader() -> None:
    import tvm  # noqa: F401  (the plugin's libraries come from it)

    (found,) = [
        entry for entry in entry_points(group="tvm.backends") if entry.name == "syncnas_opencl"
    ]
    assert found.load() is backend.load
    backend.load()  # a second call does nothing
    assert backend.plugin_path().is_file()


def test_versions_agree() -> None:
    assert distribution("syncnas-tvm").version == __version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    # Built against and run with the same TVM.
    built_with = {line for line in project["build-system"]["requires"] if "tvm" in line}
    assert built_with == {line for line in project["project"]["dependencies"] if "tvm" in line}


def test_base_install_needs_no_torch() -> None:
    requires = distribution("syncnas-tvm").requires or []
    assert any(line.startswith("torch==2.13.0") for line in requires)
    assert not any(line.startswith("torch") and "extra ==" not in line for line in requires)


def test_backend_applies_what_setup_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "record.json"
    record.write_text('{"environment": {"SYNCNAS_A": "new", "SYNCNAS_B": "new"}}')
    monkeypatch.setattr(backend, "setup_record", lambda: record)
    monkeypatch.setenv("SYNCNAS_A", "the user's own")
    monkeypatch.delenv("SYNCNAS_B", raising=False)
    backend.apply_setup()
    monkeypatch.setenv("SYNCNAS_B", backend.os.environ["SYNCNAS_B"])  # restored afterwards
    assert backend.os.environ["SYNCNAS_A"] == "the user's own"
    assert backend.os.environ["SYNCNAS_B"] == "new"
    record.write_text("not json")
    backend.apply_setup()


def test_setup_keeps_the_systems_opencl(capsys: pytest.CaptureFixture[str]) -> None:
    assert opencl_setup.main(["--source", "auto"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("OpenCL: ")
    assert "device '" in line


def test_setup_prefers_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text("{}")
    found = [
        opencl_setup.FoundDevice("slow", "PoCL", is_gpu=False),
        opencl_setup.FoundDevice("Adreno", "QUALCOMM", is_gpu=True),
    ]
    monkeypatch.setattr(opencl_setup, "_probe", lambda variables: found)
    monkeypatch.setattr(opencl_setup, "setup_record", lambda: record)
    line = opencl_setup.setup()
    assert line == "OpenCL: QUALCOMM of this system, GPU device 'Adreno'"
    assert not record.exists()  # an older set-up would hide the driver


def test_setup_order_on_a_bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device: Debian's package where apt can be used, PyPI's otherwise and when apt fails."""
    steps: list[str] = []
    monkeypatch.setattr(opencl_setup, "_probe", lambda variables: [])
    monkeypatch.setattr(opencl_setup, "_set_up_from_pypi", lambda: steps.append("pypi") or "line")

    def run(command: list[str]) -> None:
        steps.append(" ".join(command[:2]))
        raise DeviceError("no network")

    monkeypatch.setattr(opencl_setup, "_run", run)
    monkeypatch.setattr(opencl_setup, "_can_use_apt", lambda: False)
    assert opencl_setup.setup() == "line"
    assert steps == ["pypi"]
    steps.clear()
    monkeypatch.setattr(opencl_setup, "_can_use_apt", lambda: True)
    assert opencl_setup.setup() == "line"
    assert steps == ["apt-get install", "apt-get update", "pypi"]


def test_setup_says_what_to_do_when_nothing_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opencl_setup, "_probe", lambda variables: [])
    assert opencl_setup.main(["--source", "system"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert "pocl-opencl-icd" in line


def test_package_is_found_where_it_should_be() -> None:
    assert (ROOT / "syncnas_tvm") in [Path(folder).resolve() for folder in syncnas_tvm.__path__]
