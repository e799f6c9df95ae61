"""Half precision: types by lane, conversions at the borders, the OpenCL code, and what comes out."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
import zoo
from assembly import assembly, hottest_loop
from cli_tools import tiny_model
from skimage import data
from tvm import relax, te, tirx

import syncnas_tvm
from syncnas_tvm.artifact import read_manifest
from syncnas_tvm.candidates import decision_space
from syncnas_tvm.compile_job import CompileJob
from syncnas_tvm.cost_models.roofline import Roofline
from syncnas_tvm.errors import InputError, TargetError
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.calls import LANE_ATTR
from syncnas_tvm.graph.dataflow import Dataflow, dtype_of
from syncnas_tvm.graph.fusion import groups_of
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.half import transfer_costs
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.lowering import build_kernels
from syncnas_tvm.partition_passes import PartitionPasses
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.insert_transfers import InsertTransfers
from syncnas_tvm.passes.lift_constants import ConstantLifter
from syncnas_tvm.passes.pack_lanes import PackLanes
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.runtime.lanes import gpu_device
from syncnas_tvm.schedule.layout import pack
from syncnas_tvm.schedule.opencl_half import install, store_half
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.targets import Transfer, load_target
from syncnas_tvm.work import Kernel, Phase, Sync, Work

pytestmark = pytest.mark.usefixtures("nothing_measured")

HALF_GPU = LaneTypes(gpu="float16")
HALF = LaneTypes("float16", "float16")


def test_work_follows_the_types():
    conv = Kernel("nn.conv2d", ((1, 8, 4, 4), (8, 8, 1, 1), (1, 8, 4, 4)), "float32", "cpu")
    on_gpu = replace(conv, lane="gpu")
    index = Kernel("argmax", ((1, 8), (1,)), "int64", "gpu")
    work = Work((Phase((conv,), (on_gpu, index), Sync("sum", 512, 512, (conv,))),))
    (phase,) = HALF_GPU.work(work).phases
    assert [k.dtype for k in (*phase.cpu, *phase.gpu)] == ["float32", "float16", "int64"]
    assert phase.gpu[0].bytes_moved * 2 == phase.cpu[0].bytes_moved
    assert (phase.output.cpu_bytes, phase.output.gpu_bytes) == (256, 256)
    assert FLOAT32.work(work) is work
    # A lane of halves is fed halves whatever the other lane has.
    (phase,) = LaneTypes(cpu="float16").work(work).phases
    assert phase.output.cpu_bytes == 512


def test_converting_costs_what_the_cpu_moves():
    target = load_target("rk3399")
    plain = target.costs.to_gpu
    assert transfer_costs(FLOAT32, target) == transfer_costs(HALF, target) == target.costs
    found = transfer_costs(HALF_GPU, target).to_gpu
    # Per byte of the copy the CPU reads two and writes one, at 8 GB/s.
    extra_us = found.us(1 << 20) - plain.us(1 << 20) - target.cpu_peak.launch_us
    assert extra_us == pytest.approx(3 * (1 << 20) / 8e3)
    assert isinstance(found, Transfer)
    half, full = found.us(1 << 19), plain.us(1 << 20)
    assert half - found.latency_us < (full - plain.latency_us) * 1.5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RegionGraph:
    path = tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
    return RegionGraph(import_onnx(path).mod, load_target("host").channel_step)


def test_a_given_cost_model_pays_for_converting_too(tiny):
    target = load_target("rk3399")
    job = CompileJob(Path("tiny.onnx"), target, HALF_GPU, PartitionPasses(), lambda *_: None)
    _, costs = job.knowledge(tiny, decision_space(tiny, HALF_GPU), "both", Roofline(target))
    assert costs == transfer_costs(HALF_GPU, target)


def _alternating(graph: RegionGraph) -> Plan:
    """Regions on either lane in turn."""
    lanes = ("gpu", "cpu")
    return Plan(
        tuple(Decision.of(n, "Place", lane=lanes[i % 2]) for i, n in enumerate(graph.names))
    )


@pytest.mark.parametrize("types", [FLOAT32, HALF_GPU, HALF], ids=str)
def test_values_have_the_type_of_their_lane(tiny, types):
    mod = InsertTransfers()(apply_plan(tiny, _alternating(tiny)))
    mod = PackLanes(PackedSchedules(8, 16, 8, types=types))(mod)
    lanes, casts = set(), 0
    for gv, function in mod.functions_items():
        if not isinstance(function, relax.Function) or LANE_ATTR not in (function.attrs or {}):
            continue
        if gv.name_hint.startswith("edge_"):
            casts += gv.name_hint.startswith("edge_cast")
            continue
        lane = str(function.attrs[LANE_ATTR])
        lanes.add(lane)
        values = [*function.params, *Dataflow(function).outputs]
        assert {dtype_of(v) for v in values} == {types.of(lane)}
    assert lanes == {"cpu", "gpu"}
    main = mod["main"]
    assert dtype_of(main.params[0]) == "float32"
    assert str(main.ret_ty.dtype) == "float32"
    copies = [
        binding.value
        for block in main.body.blocks
        for binding in block.bindings
        if getattr(binding.value, "ty_args", None)
    ]
    assert copies
    assert {str(call.ty_args[0].dtype) for call in copies} == {types.gpu}
    assert bool(casts) == types.half


def test_operators_without_a_rule_compute_in_float32(tmp_path):
    """A softmax between halves; data that only moves is not converted for it."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 8, 4, 4), "float32"))
    with builder.function("k", [x], attrs={LANE_ATTR: "gpu", "global_symbol": "k"}):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.softmax(x, axis=1))
            z = builder.emit(relax.op.reshape(y, (1, 128)))
            out = builder.emit_output(z)
        builder.emit_func_output(out)
    mod = PackLanes(PackedSchedules(8, 16, 8, types=HALF_GPU))(builder.get())
    found = [
        (str(node.op).split(".")[-1], node.dtype)
        for node in Dataflow(mod["k"]).nodes
        if node.op != "call_tir"
    ]
    assert found == [
        ("astype", "float32"),
        ("softmax", "float32"),
        ("astype", "float16"),
        ("reshape", "float16"),
    ]


def test_code_with_halves_in_memory_only():
    source = """\
// Function: f_kernel
#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#elif defined(cl_amd_fp16)
#else
#error "no half"
#endif

__kernel void f_kernel(__global half* restrict a_ptr, __global half* restrict out_ptr) {
  half4 x = ((half4)(a_ptr[(i[0] + 1)], a_ptr[(i[0] + 1)], a_ptr[(i[0] + 1)], a_ptr[(i[0] + 1)]));
  half2 y = ((half2)(a_ptr[0], a_ptr[1]));
  vstore4((convert_half4(vload4(0, a_ptr + (8 * i)))), 0, out_ptr + 4);
  out_ptr[min(i, 3)] = ((half)max(a_ptr[i], 0.0f));
}
"""
    head, kernel = store_half(source).split("#endif\n\n")
    assert "pragma" not in head
    assert "#error" not in head
    assert "// Function: f_kernel\n" in head
    assert kernel.splitlines() == [
        "__kernel void f_kernel(__global half* restrict a_ptr, __global half* restrict out_ptr) {",
        "  float4 x = ((float4)(load_half(a_ptr + (i[0] + 1))));",
        "  float2 y = ((float2)(load_half(a_ptr + 0), load_half(a_ptr + 1)));",
        "  vstore_half4_rte((convert_float4(load_half_n(4, a_ptr + (8 * i)))), 0, out_ptr + 4);",
        "  vstore_half_rte(((float)max(load_half(a_ptr + i), 0.0f)), min(i, 3), out_ptr);",
        "}",
    ]
    without = "// Function: g\n__kernel void g(__global float* a_ptr) { a_ptr[0] = 1.0f; }\n"
    assert store_half(without) == without


def test_every_half_is_read_and_written_exactly():
    """All 63488 finite halves through a GPU kernel that copies them, subnormals included."""
    halves = np.arange(1 << 16, dtype="uint16").view("float16")
    halves = halves[np.isfinite(halves)].reshape(-1, 8)
    a = te.placeholder(halves.shape, "float16", name="a")
    out = te.compute(halves.shape, lambda i, j: a[i, j] * tirx.const(1.0, "float16"), name="out")
    sch = tvm.s_tir.Schedule(te.create_prim_func([a, out]))
    row, lane = sch.get_loops(sch.get_sblock("out"))
    sch.vectorize(lane)
    group, item = sch.split(row, [None, 64])
    sch.bind(group, "blockIdx.x")
    sch.bind(item, "threadIdx.x")
    install()
    function = sch.mod["main"].with_attr("global_symbol", "copy")
    run = tvm.tirx.build(function, target=load_target("host").gpu_target())["copy"]
    device = gpu_device()
    result = tvm.runtime.tensor(np.zeros_like(halves), device)
    run(tvm.runtime.tensor(halves, device), result)
    np.testing.assert_array_equal(result.numpy(), halves)


@pytest.mark.parametrize("vectors", [True, False])
def test_a_name_is_of_halves_in_the_kernel_that_says_so(vectors):
    """Two kernels of one module whose tensors have the same names and opposite types."""
    shape = (64, 8)

    def cast(source: str, target: str, name: str) -> tirx.PrimFunc:
        a = te.placeholder(shape, source, name="a")
        out = te.compute(shape, lambda i, j: a[i, j].astype(target), name="out")
        sch = tvm.s_tir.Schedule(te.create_prim_func([a, out]))
        row, lane = sch.get_loops(sch.get_sblock("out"))
        if vectors:
            sch.vectorize(lane)
        group, item = sch.split(row, [None, 64])
        sch.bind(group, "blockIdx.x")
        sch.bind(item, "threadIdx.x")
        return sch.mod["main"].with_attr("global_symbol", name)

    install()
    kernels = {
        "narrow": cast("float32", "float16", "narrow"),
        "widen": cast("float16", "float32", "widen"),
        "keep": cast("float32", "float32", "keep"),
    }
    built = tvm.tirx.build(tvm.IRModule(kernels), target=load_target("host").gpu_target())
    device = gpu_device()

    def run(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
        result = tvm.runtime.tensor(np.zeros(shape, dtype), device)
        built[name](tvm.runtime.tensor(array, device), result)
        return result.numpy()

    full = np.random.default_rng(0).standard_normal(shape).astype("float32")
    half = full.astype("float16")
    np.testing.assert_array_equal(run("narrow", full, "float16"), half)
    np.testing.assert_array_equal(run("widen", half, "float32"), half.astype("float32"))
    np.testing.assert_array_equal(run("keep", full, "float32"), full)


def _kernel(name: str) -> tuple[relax.Function, tuple[tuple[int, ...], ...]]:
    """A lane function of one operator with an epilogue, and its inputs' shapes."""
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> relax.Expr:
        return relax.const((rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype("f4"))

    shapes = {"stem": (1, 3, 14, 14), "matmul": (1, 40)}
    x = relax.Var("x", relax.TensorType(shapes.get(name, (1, 24, 14, 14)), "float32"))
    make = {
        "pointwise": lambda: relax.op.nn.conv2d(x, weight(40, 24, 1, 1)),
        "dense": lambda: relax.op.nn.conv2d(x, weight(16, 24, 3, 3), padding=1, strides=2),
        "stem": lambda: relax.op.nn.conv2d(x, weight(16, 3, 3, 3), padding=1, strides=2),
        "depthwise": lambda: relax.op.nn.conv2d(x, weight(24, 1, 5, 5), padding=2, groups=24),
        "pool": lambda: relax.op.nn.max_pool2d(x, pool_size=3, strides=2, padding=1),
        "reduce": lambda: relax.op.mean(x, axis=[2, 3], keepdims=True),
        "elementwise": lambda: relax.op.nn.silu(x),
        "matmul": lambda: relax.op.matmul(x, weight(40, 30)),
        "fallback": lambda: relax.op.nn.softmax(x, axis=1),
    }
    builder = relax.BlockBuilder()
    with builder.function("k", [x], attrs={"global_symbol": "k"}):
        with builder.dataflow():
            y = builder.emit(make[name]())
            if name not in ("reduce", "fallback", "pool"):
                y = builder.emit(relax.op.add(y, relax.const(np.float32(0.25))))
            out = builder.emit_output(y)
        builder.emit_func_output(out)
    return builder.get()["k"], tuple(int(n) for n in x.ty.shape)


FAMILIES = (
    *("pointwise", "dense", "stem", "depthwise", "pool"),
    *("reduce", "elementwise", "matmul", "fallback"),
)


def _run(function: relax.Function, lane: str, types: LaneTypes, array: np.ndarray) -> np.ndarray:
    """The kernel on ``array`` (NCHW or a matrix), between conversions to and from its lane's form."""
    target = load_target("host")
    mod = tvm.IRModule({"k": function.with_attrs({LANE_ATTR: lane})})
    executable, built = build_kernels(mod, target, types)
    device = gpu_device() if lane == "gpu" else tvm.cpu(0)
    vm = relax.VirtualMachine(executable, [tvm.cpu(0), device])
    # Weights are the parameters behind the input; a plain module has them as constants.
    packed = PackLanes(PackedSchedules.of(target, types))(mod)
    lifter = ConstantLifter(packed)
    lifter.lift(packed["k"])
    weights = [c.value.numpy() for c in lifter.constants]
    v = PackedSchedules.of(target, types).vector
    if array.ndim == 4 and array.shape[1] >= 5:
        array = pack(array, v)
    values = [array.astype(types.of(lane)), *weights]
    assert len(values) == len(built["k"].params)
    return vm["k"](*(tvm.runtime.tensor(np.ascontiguousarray(a), device) for a in values)).numpy()


@pytest.mark.parametrize("lane", ["gpu", "cpu"])
@pytest.mark.parametrize("name", FAMILIES)
def test_kernels_in_half_precision(name, lane):
    """float16 against float32 on the same (half) inputs; the CPU's compiler emulates halves here."""
    function, shape = _kernel(name)
    array = np.random.default_rng(1).standard_normal(shape).astype("float16").astype("float32")
    types = LaneTypes(gpu="float16") if lane == "gpu" else LaneTypes(cpu="float16")
    half = _run(function, lane, types, array)
    assert half.dtype == np.float16
    full = _unpacked(_run(function, lane, FLOAT32, array), function)
    found = _unpacked(half.astype("float32"), function)
    assert np.abs(found - full).max() <= 2e-3 * np.abs(full).max()


def _unpacked(array: np.ndarray, function: relax.Function) -> np.ndarray:
    """The kernel's NCHW output, or its matrix."""
    shape = tuple(int(n) for n in function.ret_ty.shape)
    if array.shape == shape:
        return array
    return np.moveaxis(array, -1, 1).reshape(1, -1, *shape[2:])[:, : shape[1]]


@pytest.mark.parametrize("plan", ["alternating", "split"])
def test_both_lanes_with_halves_on_the_gpu(plan, tmp_path):
    model = tiny_model(tmp_path / "tiny.onnx")
    graph = RegionGraph(import_onnx(model).mod, load_target("host").channel_step)
    chosen = {"plan": _alternating(graph)} if plan == "alternating" else {"split_all": True}
    result = syncnas_tvm.compile_onnx(
        model, output=tmp_path / "out", gpu_dtype="float16", timed=False, **chosen
    )
    # Really in half precision, and yet close.
    assert 1e-6 < result.deviation.max_rel < 1e-2
    kernels = [k for c in result.choice.candidates for k in c.work.kernels("gpu")]
    assert kernels
    assert {k.dtype for k in kernels} == {"float16"}
    executable = syncnas_tvm.load(tmp_path / "out")
    assert dict(executable.manifest.types) == {"cpu": "float32", "gpu": "float16"}
    assert all(a.dtype == np.float32 for a in executable(executable.random_inputs()).values())


def test_the_planner_expects_gains_from_half_the_bytes():
    target = load_target("rk3399")
    graph = RegionGraph(import_onnx(zoo.export("mobilenet_v2", size=96)).mod, target.channel_step)
    costs = Roofline(target)
    total = {}
    for types in (FLOAT32, HALF_GPU):
        work = [here[1].work for here in decision_space(graph, types).candidates]
        kernels = [k for w in work for k in w.kernels("gpu")]
        assert kernels
        assert {k.dtype for k in kernels} == {types.gpu}
        total[types.gpu] = costs.predict(kernels)[0].sum()
    assert total["float16"] < total["float32"]


def test_wrong_types(tmp_path):
    model = tiny_model(tmp_path / "tiny.onnx")
    with pytest.raises(InputError, match="--gpu-dtype is 'bfloat16'; use one of float32, float16"):
        syncnas_tvm.compile_onnx(model, gpu_dtype="bfloat16")
    for target in ("host", "rk3399", "android-mali"):
        with pytest.raises(TargetError, match=r"--cpu-dtype float16: .*'\+fullfp16'"):
            syncnas_tvm.compile_onnx(model, target=target, cpu_dtype="float16")


def test_trained_classes_stay(tmp_path, monkeypatch):
    """The cat, the astronaut and the rocket; benchmarks/half.py has all pictures."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from half import as_input

    model = zoo.export("efficientnet_lite0")
    pictures = [as_input(p, 224) for p in (data.chelsea(), data.astronaut(), data.rocket())]
    result = syncnas_tvm.compile_onnx(
        model,
        output=tmp_path / "out",
        lanes="gpu",
        gpu_dtype="float16",
        timed=False,
        verify_inputs=[{"input": p} for p in pictures],
    )
    assert 1e-6 < result.deviation.max_rel < 2e-2
    session = import_onnx(model).original.session()
    executable = syncnas_tvm.load(tmp_path / "out")
    for picture in pictures:
        (expected,) = session.run(None, {"input": picture})
        assert executable(picture)["output"].argmax() == expected.argmax()


def test_arm_sums_in_halves():
    """Android's CPU lane: a hot loop of fused multiply-adds on eight halves, without spills."""
    target = load_target("android")
    assert (PackedSchedules.of(target, HALF).vector, PackedSchedules.of(target).vector) == (8, 4)
    for name in ("pointwise", "depthwise"):
        function, _ = _kernel(name)
        (group,) = groups_of(function, "cpu")
        text = assembly(group, target, HALF)
        assert re.search(r"\tfmla\tv\d+\.8h", text)
        assert not re.search(r"\tfmla\tv\d+\.4s", text)
        if name == "pointwise":
            assert "\tfcvtl\t" in text  # its parts are added up in float32
            loop = hottest_loop(text)
            assert loop.fused >= 8
            assert (loop.unfused, loop.spills) == (0, 0)


@pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None and shutil.which("aarch64-linux-gnu-g++") is None,
    reason="no linker for aarch64: pip install ziglang",
)
def test_a_network_of_halves_links_for_android(tmp_path):
    model = tiny_model(tmp_path / "tiny.onnx")
    out = tmp_path / "out"
    dtypes = {"gpu_dtype": "float16", "cpu_dtype": "float16"}
    result = syncnas_tvm.compile_onnx(model, "android", out, split_all=True, **dtypes)
    assert result.to_json()["types"] == {"cpu": "float16", "gpu": "float16"}
    assert (out / "model.so").read_bytes()[:4] == b"\x7fELF"
    assert read_manifest(out).types == {"cpu": "float16", "gpu": "float16"}
