"""Target files: those that ship, the user's own, and what is said of broken ones."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from syncnas_tvm.errors import TargetError
from syncnas_tvm.targets import (
    KERNEL_KINDS,
    LaneThreads,
    Link,
    Transfer,
    lane_threads,
    load_target,
    target_names,
)
from syncnas_tvm.targets import host as host_module

NAMES = ["android", "android-adreno", "android-mali", "host", "rk3399"]
every_target = pytest.mark.parametrize("name", NAMES)


def write(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_names_that_ship() -> None:
    assert target_names() == NAMES


@every_target
def test_every_target_that_ships_is_complete(name: str) -> None:
    target = load_target(name)
    assert target.name == ("android-adreno" if name == "android" else name)
    assert target.channel_step % target.vector_lanes == 0
    for lane in ("cpu", "gpu"):
        peak = target.peak(lane)  # type: ignore[arg-type]
        assert set(peak.efficiency) == set(KERNEL_KINDS)
        assert 0 < peak.reached_gflops("pointwise") <= peak.gflops
    assert len(target.cpus) in (0, target.cpu_threads)
    assert hash(target) == hash(load_target(name))
    assert target == load_target(name)


@every_target
def test_tvm_takes_every_target_that_ships(name: str) -> None:
    target = load_target(name)
    cpu, gpu = target.cpu_target(), target.gpu_target()
    assert cpu.kind.name == "llvm"
    assert gpu.kind.name == "opencl"
    assert str(gpu.host) == str(cpu)
    assert int(cpu.attrs["num-cores"]) == target.cpu_threads
    if name.startswith("android"):
        assert cpu.attrs["mtriple"] == "aarch64-linux-android"
        assert "mali" in gpu.keys if name == "android-mali" else "adreno" in gpu.keys


def test_loading_a_target_does_not_import_tvm() -> None:
    code = "import sys, syncnas_tvm.targets as t; t.load_target('host'); assert 'tvm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_native_is_what_llvm_finds() -> None:
    target = load_target("host")
    assert target.cpu["mcpu"] == "native"
    config = target.cpu_config()
    assert "native" not in config.values()
    assert "-" in config["mtriple"]


def test_a_file_that_inherits_overrides_single_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'inherits = "rk3399"\n[costs]\nenqueue_us = 33\n[costs.to_gpu]\nlatency_us = 1.5\n'
        "[peak.gpu.efficiency]\ndepthwise = 0.5\n",
    )
    mine, base = load_target(path), load_target("rk3399")
    assert mine.name == "my"
    assert mine.costs == dataclasses.replace(
        base.costs, enqueue_us=33, to_gpu=Transfer(1.5, base.costs.to_gpu.gbytes_per_s)
    )
    assert mine.gpu_peak.efficiency == {**base.gpu_peak.efficiency, "depthwise": 0.5}
    assert mine.cpu == base.cpu


def test_a_file_may_inherit_from_a_file_next_to_it(tmp_path: Path) -> None:
    write(tmp_path, 'inherits = "rk3399"\ndescription = "one"\nchannel_step = 4\n', "one.toml")
    two = write(tmp_path, 'inherits = "one.toml"\ndescription = "two"\n', "two.toml")
    target = load_target(str(two))
    assert (target.description, target.channel_step) == ("two", 4)


PEAK = 'inherits = "rk3399"\n[peak.cpu.efficiency]\n'
MALFORMED = [
    ("x = [", r"my\.toml is not valid TOML"),
    ("", r"'peak' is missing; add it"),
    ("link = 3", r"'peak' is missing; add it"),
    ('inherits = "host"\ncpu = 3', r"'cpu' must be a table"),
    ('inherits = "host"\npeak = 3', r"'peak' must be a table"),
    ('inherits = "rk3399"\nspeed = 3', r"'speed' is not a key"),
    ('inherits = "rk3399"\nvector_lane = 3', r"did you mean 'vector_lanes'"),
    ('inherits = "rk3399"\nvector_lanes = "4"', r"'vector_lanes' must be a whole number.*'4'"),
    ('inherits = "rk3399"\nvector_lanes = true', r"'vector_lanes' must be a whole number"),
    ('inherits = "rk3399"\nvector_lanes = 0', r"'vector_lanes' must be a whole number"),
    ('inherits = "rk3399"\ncpus = [1, "2"]', r"'cpus' must be a list of core numbers"),
    ('inherits = "rk3399"\ncosts = 3', r"'costs' must be a table"),
    ('inherits = "rk3399"\n[costs]\nenqueue = 3', r"'costs\.enqueue' is not a key"),
    ('inherits = "rk3399"\n[costs]\nenqueue_us = -3', r"'costs\.enqueue_us' must be a number"),
    ('inherits = "rk3399"\n[costs]\nenqueue_us = nan', r"'costs\.enqueue_us'"),
    ('inherits = "rk3399"\n[costs]\ncpu_contention = 0.5', r"'costs\.cpu_contention'.*from 1 to 2"),
    ('inherits = "rk3399"\n[costs.to_gpu]\nlatency = 1', r"'costs\.to_gpu\.latency' is not a key"),
    (PEAK + "depthwise = 1.5", r"'peak\.cpu\.efficiency\.depthwise' must be .* to 1"),
    (PEAK + "depth = 0.5", r"did you mean 'depthwise'"),
    ('inherits = "rk3399"\n[peak.npu]\ngflops = 5', r"'peak\.npu' is not a key"),
    ('inherits = "rk3399"\n[cpu]\nkind = "cuda"', r"'cpu\.kind' must be 'llvm'"),
    ('inherits = "rk3399"\n[gpu]\nhost = "llvm"', r"'gpu\.host' must not be set"),
    ('inherits = "rk3399"\n[link]\nmode = "magic"', r"'link\.mode' must be 'host' or 'cross'"),
    ('inherits = "rk3399"\n[link]\ncommands = []', r"'link\.commands' must name"),
    ('inherits = "rk3999"', r"unknown target 'rk3999'; did you mean 'rk3399'"),
    ('inherits = "my.toml"', r"goes round in a circle"),
    ("inherits = 3", r"'inherits' must be"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), MALFORMED)
def test_a_malformed_file_is_named_with_its_key(tmp_path: Path, text: str, found: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TargetError, match=found) as caught:
        load_target(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("andriod", r"unknown target 'andriod'; did you mean 'android'"),
        ("phone", r"unknown target 'phone'; take one of android, "),
        ("no/such.toml", r"no target file 'no/such\.toml'"),
        ("../targets/host", r"no target file"),
    ],
)
def test_an_unknown_target_is_named(name: str, found: str) -> None:
    with pytest.raises(TargetError, match=found):
        load_target(name)


def test_what_tvm_does_not_take_is_a_target_error(tmp_path: Path) -> None:
    path = write(tmp_path, 'inherits = "rk3399"\n[gpu]\nno_such_attribute = 3\n')
    with pytest.raises(TargetError, match=r"target 'my': TVM does not take its \[gpu\] table"):
        load_target(path).gpu_target()


class TestHost:
    @pytest.mark.parametrize(
        ("cores", "wanted", "expected"),
        [
            ((0,), "", LaneThreads(1, 1, (0,))),
            ((0, 1), "", LaneThreads(1, 1, (1,))),
            ((0, 1, 2, 3, 4), "", LaneThreads(2, 3, (3, 4))),
            ((2, 5, 7, 9), "3", LaneThreads(3, 1, (5, 7, 9))),
            ((0, 1), "4", LaneThreads(4, 1, (0, 1))),
        ],
    )
    def test_cores_are_divided_between_the_lanes(
        self,
        monkeypatch: pytest.MonkeyPatch,
        cores: tuple[int, ...],
        wanted: str,
        expected: LaneThreads,
    ) -> None:
        monkeypatch.setenv(host_module.CPU_THREADS_VARIABLE, wanted)
        assert lane_threads(cores) == expected

    @pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5"])
    def test_a_wrong_number_of_threads_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, wanted: str
    ) -> None:
        monkeypatch.setenv(host_module.CPU_THREADS_VARIABLE, wanted)
        with pytest.raises(TargetError, match="SYNCNAS_CPU_THREADS"):
            load_target("host")

    def test_threads_reach_the_target(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(host_module.CPU_THREADS_VARIABLE, "1")
        one = load_target("host")
        monkeypatch.setenv(host_module.CPU_THREADS_VARIABLE, "3")
        three = load_target("host")
        assert (one.cpu_threads, three.cpu_threads) == (1, 3)
        assert three.cpu_peak.gflops == pytest.approx(3 * one.cpu_peak.gflops)

    @pytest.mark.parametrize(
        ("flags", "lanes"),
        [("fpu sse4_2", 4), ("fpu avx avx2 fma", 8), ("avx2 avx512f avx512dq", 16)],
    )
    def test_vector_width_follows_the_processors_flags(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, lanes: int
    ) -> None:
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        info = write(tmp_path, f"processor\t: 0\nflags\t\t: {flags}\n", "cpuinfo")
        assert host_module.vector_lanes(info) == lanes

    def test_neon_has_four_lanes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        assert host_module.vector_lanes() == 4


class TestLink:
    def test_the_first_installed_command_is_taken(self) -> None:
        link = Link("cross", ("no-such-linker --fast", "sh -c 'exit 0'"), hint="install it")
        assert link.find() == ("sh", "-c", "exit 0")

    def test_a_python_module_counts_when_it_is_installed(self) -> None:
        link = Link("cross", ("python -m no_such_module cc", "python -m json.tool x"))
        assert link.find() == (sys.executable, "-m", "json.tool", "x")

    def test_none_installed_is_an_error_with_the_hint(self) -> None:
        with pytest.raises(TargetError, match=r"'no-such-linker'.*apt-get install thing"):
            Link("cross", ("no-such-linker",), hint="apt-get install thing").find()

    def test_android_needs_no_libraries_and_large_pages(self) -> None:
        options = load_target("android").link.options
        assert "-nostdlib" in options
        assert "-Wl,-z,max-page-size=16384" in options


def test_nothing_to_move_costs_nothing() -> None:
    move = Transfer(latency_us=100, gbytes_per_s=2)
    assert move.us(0) == 0
    assert move.us(4000) == 102
