"""GPU kernels stay within what their target's OpenCL promises, and the checks notice when not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import graph_nets
import pytest
import tvm
import zoo
from kernel_limits import Compiler, gpu_kernels, kernel_source, launch_problems, problems
from kernel_limits import source_problems as in_source
from tvm.script import ir as I
from tvm.script import tirx as T

from syncnas_tvm.errors import TargetError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.lowering import build, lower
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.schedule.narrow_vectors import NarrowVectors
from syncnas_tvm.targets import Target, load_target
from syncnas_tvm.targets.model import OpenCLLimits

HALF = LaneTypes("float32", "float16")


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler()


def on_gpu(graph: RegionGraph) -> tvm.IRModule:
    return apply_plan(graph, Plan(graph_nets.placed(graph, "gpu")))


def block() -> RegionGraph:
    return graph_nets.graph_of(lambda n, x: n.mbconv(n.excite(x, 8), 40, 24), channels=24, size=14)


@pytest.mark.parametrize(
    ("name", "types"),
    [("rk3399", FLOAT32), ("android-adreno", HALF), ("android-mali", FLOAT32)],
    ids=["rk3399", "android-adreno in halves", "android-mali"],
)
def test_kernels_of_a_network_are_within_the_limits(
    name: str, types: LaneTypes, compiler: Compiler
) -> None:
    target = load_target(name)
    model = zoo.export("mobilenet_v3_large", size=32, width=0.5)
    graph = RegionGraph(import_onnx(model).mod, target.channel_step)
    assert problems(on_gpu(graph), target, types, compiler) == []


def test_a_gpu_with_small_work_groups(compiler: Compiler) -> None:
    target = load_target("rk3399")
    small = replace(target, gpu={**target.gpu, "max_num_threads": 16, "max_threads_per_block": 16})
    assert problems(on_gpu(block()), small, FLOAT32, compiler) == []


def test_launches_beyond_the_limits_are_noticed() -> None:
    target = load_target("rk3399")
    kernels = dict(gpu_kernels(lower(on_gpu(block()), target)))
    assert len(kernels) >= 4
    tight = replace(
        target,
        gpu={**target.gpu, "max_threads_per_block": 16},
        opencl=OpenCLLimits(max_buffer_bytes=1000),
    )
    found = [
        p for name, function in kernels.items() for p in launch_problems(name, function, tight)
    ]
    assert any("a work group of" in problem for problem in found)
    assert any("a buffer of" in problem for problem in found)


@I.ir_module
class Shared:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((64,), "float32"), b: T.Buffer((64,), "float32")):
        with T.sblock("root"):
            cache = T.sblock_alloc_buffer((16384,), scope="shared")
            for i in T.thread_binding(64, thread="threadIdx.x"):
                with T.sblock("b"):
                    vi = T.axis.spatial(64, i)
                    cache[vi] = a[vi]
                    b[vi] = cache[vi]


def test_local_memory_beyond_the_limit_is_noticed() -> None:
    target = load_target("rk3399")
    assert launch_problems("k", Shared["main"], target) == ["k: 65536 bytes of local memory"]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("float16 a = vload16(0, x);", "vectors of 16"),
        ("vstore_half16_rte(a, 0, x);", "vectors of 16"),
        ("double y = x[0];", "'double'"),
        ("half4 y = 0;", "'half4'"),
        ("#pragma OPENCL EXTENSION cl_khr_fp64 : enable", "extension cl_khr_fp64"),
        ("read_imagef(t, s); /* */ image2d_t z;", "'image2d_t'"),
        ("x[0] = sub_group_reduce_add(x[0]);", "'sub_group_reduce_add'"),
    ],
)
def test_code_beyond_the_limits_is_noticed(code: str, problem: str) -> None:
    target = replace(load_target("rk3399"), opencl=OpenCLLimits(max_vector_lanes=8))
    assert in_source(f"// float16 in a comment\n{code}", target) == [problem]
    assert in_source("float8 y = vload8(0, x); vstore_half8_rte(y, 0, z);", target) == []


def test_the_compiler_notices_what_is_not_opencl_1_2(compiler: Compiler) -> None:
    assert compiler.problems("__kernel void f(__global float* x) { x[0] = 1.0f; }") == []
    assert compiler.problems("__kernel void f(__global float* x) { x[0] = no_such_name; }")
    assert compiler.problems("__kernel void f(__global float* x) { generic float* y = x; }")


# Vectors


@I.ir_module
class Before:
    @T.prim_func(s_tir=True)
    def add(a: T.Buffer((4, 16), "float32"), b: T.Buffer((4, 16), "float32")):
        T.func_attr({"target": T.target({"kind": "opencl"})})
        for i in T.thread_binding(4, thread="threadIdx.x"):
            for c in T.vectorized(16):
                with T.sblock("b"):
                    vi, vc = T.axis.remap("SS", [i, c])
                    b[vi, vc] = a[vi, vc] + T.float32(1)


@I.ir_module
class Expected:
    @T.prim_func(s_tir=True)
    def add(a: T.Buffer((4, 16), "float32"), b: T.Buffer((4, 16), "float32")):
        T.func_attr({"target": T.target({"kind": "opencl"})})
        for i in T.thread_binding(4, thread="threadIdx.x"):
            for c_0 in T.unroll(2):
                for c_1 in T.vectorized(8):
                    with T.sblock("b"):
                        vi = T.axis.spatial(4, i)
                        vc = T.axis.spatial(16, c_0 * 8 + c_1)
                        b[vi, vc] = a[vi, vc] + T.float32(1)


def test_narrow_vectors() -> None:
    tvm.ir.assert_structural_equal(NarrowVectors(8)(Before), Expected)
    tvm.ir.assert_structural_equal(NarrowVectors(16)(Before), Before)


def wide(lanes: int) -> Target:
    """This machine with the CPU vectors of AVX-512 and an OpenCL that can do ``lanes``."""
    host = load_target("host")
    return replace(host, vector_lanes=16, opencl=OpenCLLimits(max_vector_lanes=lanes))


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_vectors_are_as_narrow_as_the_device_wants(lanes: int) -> None:
    graph = block()
    inputs = graph_nets.random_inputs(graph.mod)
    mod = on_gpu(graph)
    assert in_source(kernel_source(build(mod, wide(16)).mod), wide(lanes)) != []
    assert in_source(kernel_source(build(mod, wide(lanes)).mod), wide(lanes)) == []
    (expected,) = graph_nets.evaluate(graph.mod, inputs)
    (found,) = graph_nets.run_compiled(mod, wide(lanes), inputs)
    assert graph_nets.relative_error(found, expected) <= 1e-5


def test_the_limit_of_the_opencl_that_was_set_up_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from syncnas_tvm.targets import host

    monkeypatch.setattr(host.opencl_setup, "max_vector_lanes", lambda: 8)
    assert load_target("host").opencl.max_vector_lanes == 8
    monkeypatch.setattr(host.opencl_setup, "max_vector_lanes", lambda: None)
    assert load_target("host").opencl == OpenCLLimits()
    assert load_target("rk3399").opencl == OpenCLLimits()


def test_limits_in_a_target_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'inherits = "rk3399"\n[opencl]\nmax_vector_lanes = 4\nextensions = ["cl_khr_fp16"]\n'
    )
    assert load_target(file).opencl == OpenCLLimits(4, extensions=("cl_khr_fp16",))
    file.write_text('inherits = "rk3399"\n[opencl]\nmax_vector_lanes = 3\n')
    with pytest.raises(TargetError, match=r"'opencl.max_vector_lanes' must be one of 1, 2, 4"):
        load_target(file)
