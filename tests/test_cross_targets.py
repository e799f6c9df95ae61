"""Targets that this machine is not: compiled here, checked as files, their OpenCL kernels run here.

Linking needs ``ziglang`` from PyPI (part of the ``test`` extra) or Debian's
``g++-aarch64-linux-gnu``.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import graph_nets
import numpy as np
import pytest
import tvm
import zoo

import syncnas_tvm
from syncnas_tvm.artifact import digest
from syncnas_tvm.errors import ArtifactError, BuildError, InputError, TargetError
from syncnas_tvm.frontend import ImportedModel, import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import Budget
from syncnas_tvm.targets import Target, load_target

HAS_ZIG = importlib.util.find_spec("ziglang") is not None
HAS_GCC = shutil.which("aarch64-linux-gnu-g++") is not None
linked = pytest.mark.skipif(
    not (HAS_ZIG or HAS_GCC), reason="no linker for aarch64: pip install ziglang"
)
CROSS = ("rk3399", "android-adreno", "android-mali", "android")
SIZE = 64
ET_DYN, AARCH64 = 3, 183


@dataclass(frozen=True)
class Elf:
    """What is looked at of a 64-bit little-endian ELF file."""

    kind: int
    machine: int
    needed: tuple[str, ...]
    undefined: tuple[str, ...]
    defined: tuple[str, ...]
    alignment: int

    @staticmethod
    def read(path: Path) -> Elf:
        data = path.read_bytes()
        assert data[:6] == b"\x7fELF\x02\x01", f"{path} is no 64-bit little-endian ELF file"
        kind, machine = struct.unpack_from("<HH", data, 16)
        programs, sections = struct.unpack_from("<QQ", data, 32)
        program_size, programs_count, section_size, section_count = struct.unpack_from(
            "<HHHH", data, 54
        )
        loads = [
            struct.unpack_from("<Q", data, programs + i * program_size + 48)[0]
            for i in range(programs_count)
            if struct.unpack_from("<I", data, programs + i * program_size)[0] == 1
        ]
        headers = [
            struct.unpack_from("<IIQQQQIIQQ", data, sections + i * section_size)
            for i in range(section_count)
        ]

        def text(section: int, offset: int) -> str:
            begin = headers[section][4] + offset
            return data[begin : data.index(b"\0", begin)].decode()

        needed, undefined, defined = [], [], []
        for _, type_, _, _, offset, size, link, _, _, entry in headers:
            if type_ == 6:  # the dynamic section
                for at in range(offset, offset + size, entry):
                    tag, value = struct.unpack_from("<qQ", data, at)
                    if tag == 1:
                        needed.append(text(link, value))
            elif type_ == 11:  # the dynamic symbols
                for at in range(offset + entry, offset + size, entry):
                    name, _, _, index = struct.unpack_from("<IBBH", data, at)
                    (defined if index else undefined).append(text(link, name))
        return Elf(
            kind, machine, tuple(needed), tuple(undefined), tuple(defined), min(loads, default=0)
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = zoo.Mobile(zoo.SMALL, 1, 10)
    zoo.randomise(network, 0)
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    zoo.save(network.eval(), SIZE, path, "torchscript", 17)
    return path


def compiled(model: Path, target: str | Path | Target, folder: Path):
    return syncnas_tvm.compile_onnx(
        model, target=target, output=folder, split_all=True, budget=Budget(evaluations=50)
    )


@linked
@pytest.mark.parametrize("name", CROSS)
def test_compile_without_the_device(name: str, model: Path, tmp_path: Path) -> None:
    result = compiled(model, name, tmp_path / "out")
    target = load_target(name)

    elf = Elf.read(tmp_path / "out" / "model.so")
    assert (elf.kind, elf.machine) == (ET_DYN, AARCH64)
    assert any("vm_main" in symbol or "cpu_" in symbol for symbol in elf.defined)
    if name.startswith("android"):
        # No NDK: whatever the library needs, its process has it already.
        assert elf.needed == ()
        assert elf.alignment == 16384
        allowed = {"TVMFFIErrorSetRaisedFromCStrParts", "expf", "memcpy", "memset"}
        runtime = {s for s in elf.undefined if s.startswith(("TVM", "__TVM"))}
        assert set(elf.undefined) - runtime <= allowed

    # The kernels of the GPU lane are inside, as text; those of the CPU lane are not OpenCL.
    code = (tmp_path / "out" / "model.so").read_bytes()
    gpu_kernels = {k for c in result.choice.candidates for k in c.work.kernels("gpu")}
    assert code.count(b"__kernel void") >= len(gpu_kernels) > 0

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["target"] == target.name
    assert manifest["machine"] == target.cpu["mtriple"]
    assert manifest["cpu"] == target.cpu["mcpu"]
    assert manifest["runs_on_host"] is False
    assert manifest["lanes"] == ["cpu", "gpu"]
    assert manifest["files"]["model.so"] == digest(tmp_path / "out" / "model.so")
    timelines = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert list(timelines) == ["predicted"]
    assert result.deviation is None
    assert result.latency_us["both"].predicted > 0
    assert result.latency_us["both"].measured is None

    with pytest.raises(ArtifactError, match=rf"compiled for target '{target.name}' \(aarch64-"):
        syncnas_tvm.load(tmp_path / "out")


@pytest.mark.skipif(not HAS_ZIG, reason="pip install ziglang")
@pytest.mark.parametrize("name", ["rk3399", "android-adreno"])
def test_zig_links(name: str, model: Path, tmp_path: Path) -> None:
    """The recipe for machines without a cross compiler from their distribution."""
    target = load_target(name)
    zig = tuple(command for command in target.link.commands if "ziglang" in command)
    assert len(zig) == 1
    only_zig = replace(target, link=replace(target.link, commands=zig))
    assert only_zig.link.find()[:3] == (sys.executable, "-m", "ziglang")
    compiled(model, only_zig, tmp_path / "out")
    elf = Elf.read(tmp_path / "out" / "model.so")
    assert (elf.kind, elf.machine) == (ET_DYN, AARCH64)
    if name == "rk3399":
        # Old boards have an old C library, and no C++ library is needed.
        assert not any("c++" in library for library in elf.needed)


@pytest.mark.skipif(not HAS_GCC, reason="apt-get install g++-aarch64-linux-gnu")
def test_gcc_links(model: Path, tmp_path: Path) -> None:
    target = load_target("rk3399")
    only_gcc = replace(target, link=replace(target.link, commands=("aarch64-linux-gnu-g++",)))
    compiled(model, only_gcc, tmp_path / "out")
    assert Elf.read(tmp_path / "out" / "model.so").machine == AARCH64


@linked
def test_a_target_of_ones_own(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "board.toml"
    file.write_text(
        'inherits = "rk3399"\ndescription = "another board"\n[cpu]\nmcpu = "cortex-a76"\n'
        "[costs]\nenqueue_us = 33\n"
    )
    result = compiled(model, file, tmp_path / "out")
    assert result.target.name == "board"
    assert result.target.costs.enqueue_us == 33
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["target"], manifest["cpu"]) == ("board", "cortex-a76")
    assert Elf.read(tmp_path / "out" / "model.so").machine == AARCH64


def test_no_linker(model: Path, tmp_path: Path) -> None:
    target = load_target("rk3399")
    without = replace(target, link=replace(target.link, commands=("no-such-linker-anywhere",)))
    with pytest.raises(TargetError, match=r"no linker .* 'no-such-linker-anywhere'.*ziglang"):
        compiled(model, without, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_linker_that_fails(model: Path, tmp_path: Path) -> None:
    target = load_target("rk3399")
    broken = replace(target, link=replace(target.link, commands=("false",)))
    with pytest.raises(BuildError, match=r"linking model.so for target 'rk3399' with 'false'"):
        compiled(model, broken, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_verify_needs_the_device(model: Path) -> None:
    with pytest.raises(InputError, match="target 'rk3399' does not run on this machine"):
        syncnas_tvm.compile_onnx(model, target="rk3399", verify=True)


# Kernels for mobile GPUs, run on the OpenCL of this machine.


def here(name: str, folder: Path) -> Target:
    """The GPU lane of target ``name`` beside this machine's CPU; nothing of it is linked."""
    gpu = load_target(name).gpu
    lines = [f"{key} = {json.dumps(value)}" for key, value in gpu.items()]
    file = folder / f"{name}-gpu-here.toml"
    file.write_text('inherits = "host"\n[gpu]\n' + "\n".join(lines) + "\n")
    phone = load_target(name)
    # Tiles and layouts follow from these, so they have to be the phone's.
    return replace(
        load_target(file),
        vector_lanes=phone.vector_lanes,
        channel_step=phone.channel_step,
        link=phone.link,
    )


def check_on_opencl(imported: ImportedModel, graph: RegionGraph, plan: Plan, target: Target):
    inputs = graph_nets.random_inputs(imported.mod)
    feeds = {s.name: a for s, a in zip(imported.inputs, inputs, strict=True)}
    expected = list(imported.original.run(feeds).values())
    found = graph_nets.run_compiled(apply_plan(graph, plan), target, inputs)
    for ours, reference in zip(found, expected, strict=True):
        assert graph_nets.relative_error(ours, reference) <= 1e-4


@pytest.mark.parametrize("name", ["rk3399", "android-mali", "android-adreno"])
@pytest.mark.parametrize("split", [False, True], ids=["gpu", "both"])
def test_mobile_gpu_kernels_compute_the_same(
    name: str, split: bool, model: Path, tmp_path: Path
) -> None:
    target = here(name, tmp_path)
    assert target.gpu_config()["device"] == load_target(name).gpu["device"]
    imported = import_onnx(model)
    graph = RegionGraph(imported.mod, target.channel_step)
    plan = Plan(graph_nets.placed(graph, "gpu"))
    if split:
        plan = next(
            p
            for p in graph_nets.all_plans(graph)
            if all(d.rule == "ChannelSplit" for d in p.decisions[-3:])
        )
    check_on_opencl(imported, graph, plan, target)


def test_a_whole_network_in_mobile_gpu_kernels(tmp_path: Path) -> None:
    target = here("android-mali", tmp_path)
    imported = import_onnx(zoo.export("mobilenet_v3_large", size=32, width=0.5))
    graph = RegionGraph(imported.mod, target.channel_step)
    check_on_opencl(imported, graph, Plan(graph_nets.placed(graph, "gpu")), target)


def test_the_phones_kernels_are_what_is_run_here(tmp_path: Path) -> None:
    """OpenCL code for the phone and for the GPU lane of the stand-in above: the same text."""
    phone = load_target("android-mali")
    graph = graph_nets.graph_of(lambda n, x: n.mbconv(x, 24, 8), channels=8)
    plan = Plan(graph_nets.placed(graph, "gpu"))

    def kernels(target: Target) -> set[str]:
        executable = build(apply_plan(graph, plan), target)
        source = opencl_source(executable.mod)
        return {part.strip() for part in source.split("__kernel")[1:]}

    assert kernels(phone) == kernels(here("android-mali", tmp_path))
    # Cores of this machine have more registers than a phone's work items.
    assert kernels(phone) != kernels(load_target("host"))
    assert len(kernels(phone)) >= 3


def opencl_source(module: tvm.runtime.Module) -> str:
    """The OpenCL code in a built module and those imported into it."""
    if module.kind == "opencl":
        return str(module.inspect_source("cl"))
    return "".join(opencl_source(inner) for inner in module.imports)


def test_cpu_kernels_for_neon_compute_the_same(tmp_path: Path) -> None:
    """Four-wide tiles, which no test of this machine's own width sees."""
    target = replace(load_target("host"), vector_lanes=4, channel_step=8)
    imported = import_onnx(zoo.export("mobilenet_v3_large", size=32, width=0.5))
    graph = RegionGraph(imported.mod, 8)
    inputs = graph_nets.random_inputs(imported.mod)
    feeds = {s.name: a for s, a in zip(imported.inputs, inputs, strict=True)}
    (expected,) = imported.original.run(feeds).values()
    plan = Plan(graph_nets.placed(graph, "cpu"))
    (found,) = graph_nets.run_compiled(apply_plan(graph, plan), target, inputs)
    assert graph_nets.relative_error(found, expected) <= 1e-4
    assert np.abs(expected).max() > 0
