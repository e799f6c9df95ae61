"""The OpenCL device for TVM: memory, copies, kernels, streams, errors, times.

Kernels are written by hand in OpenCL C and wrapped in TVM's module format, so that a failure here
is the device's and not a code generator's.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tvm
from opencl_tools import pool_stats

pytestmark = pytest.mark.alone

DEVICE = tvm.opencl(0)
CPU = tvm.cpu(0)

POINTER = (3, 64)  # DLPack's type code and bits
INT32 = (0, 32)

SOURCE = """
// Function: add_one
__kernel void add_one(__global float* x) { x[get_global_id(0)] += 1.0f; }
// Function: fill
__kernel void fill(__global float* x, int value) { x[get_global_id(0)] = value; }
// Function: where_am_i
__kernel void where_am_i(__global int* out) {
  const int index = (get_global_id(2) * get_global_size(1) + get_global_id(1)) * get_global_size(0)
                    + get_global_id(0);
  out[index] = get_local_size(0) + 100 * get_local_size(1) + 10000 * get_local_size(2);
}
// Function: slow
__kernel void slow(__global float* x, int rounds) {
  float a = x[0];
  for (int i = 0; i < rounds; ++i) a = a * 0.999f + 0.001f;
  x[0] = a;
}
"""
ONE_AXIS = ["blockIdx.x", "threadIdx.x"]
SIX_AXES = [f"{kind}.{axis}" for kind in ("blockIdx", "threadIdx") for axis in "xyz"]
SIGNATURES = {
    "add_one": ([POINTER], ONE_AXIS),
    "fill": ([POINTER, INT32], ONE_AXIS),
    "where_am_i": ([POINTER], SIX_AXES),
    "slow": ([POINTER, INT32], ONE_AXIS),
}
# Enough for some 100 ms on any machine: orders of magnitude above an enqueue or a small copy.
SLOW_ROUNDS = 100_000_000


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def module_bytes(source: str, signatures: dict[str, tuple[list[tuple[int, int]], list[str]]]):
    """The serialized form of an OpenCL module (runtime/module_format.h)."""
    out = text("cl") + struct.pack("<Q", len(signatures))
    for name, (types, tags) in signatures.items():
        out += text(name) + text(name) + struct.pack("<Q", len(types))
        out += b"".join(struct.pack("<BBH", code, bits, 1) for code, bits in types)
        out += struct.pack("<Q", len(tags)) + b"".join(text(tag) for tag in tags)
        out += struct.pack("<Q", 0)
    return out + text(source)


def load_kernels(source: str, signatures: dict[str, Any]) -> Any:
    load = tvm.get_global_func("ffi.Module.load_from_bytes.opencl")
    return load(module_bytes(source, signatures))


def on_device(values: np.ndarray) -> Any:
    return tvm.runtime.tensor(values, DEVICE)


def empty(count: int, dtype: str = "float32") -> Any:
    return tvm.runtime.empty((count,), dtype, DEVICE)


def call(name: str, *arguments: Any) -> Any:
    return tvm.get_global_func(name)(*arguments)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own: the device list is made once in a process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


class profiled:
    """Records the commands of a block; `records` afterwards."""

    def __enter__(self) -> profiled:
        call("syncnas.opencl.profile_start")
        self.started_ns = time.perf_counter_ns()
        return self

    def __exit__(self, *_: object) -> None:
        DEVICE.sync()
        self.ended_ns = time.perf_counter_ns()
        self.records = json.loads(call("syncnas.opencl.profile_stop"))

    def only(self, name: str) -> dict[str, Any]:
        (record,) = [entry for entry in self.records if entry["name"] == name]
        return record


@pytest.fixture(scope="module")
def kernels() -> Any:
    module = load_kernels(SOURCE, SIGNATURES)
    # The first launch compiles; no test should time that.
    scratch = on_device(np.zeros(64, "float32"))
    for name in ("add_one", "fill", "slow"):
        arguments = [scratch] if name == "add_one" else [scratch, 1]
        for local in (1, 64):
            module[name](*arguments, 1, local)
    DEVICE.sync()
    return module


# Presence and selection


def test_device_exists_after_import() -> None:
    assert DEVICE.exist
    assert not tvm.opencl(99).exist


def test_attributes() -> None:
    (listed, *_) = json.loads(call("syncnas.opencl.devices"))
    assert DEVICE.device_name == listed["name"]
    assert DEVICE.max_threads_per_block == listed["max_work_group_size"] > 0
    assert DEVICE.multi_processor_count == listed["compute_units"] > 0
    assert DEVICE.max_shared_memory_per_block == listed["local_memory_bytes"] > 0
    assert DEVICE.total_global_memory == listed["global_memory_bytes"]
    assert DEVICE.compute_version == listed["opencl_version"]
    assert DEVICE.warp_size == 1
    assert listed["type"] in {"cpu", "gpu", "accelerator", "other"}


def test_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="there is no device 99"):
        tvm.runtime.empty((1,), "float32", tvm.opencl(99))


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"OCL_ICD_VENDORS": "{folder}"}, "no platform"),
        ({"SYNCNAS_OPENCL_LIBRARY": "libNoSuchOpenCL.so"}, "no OpenCL library was found"),
    ],
)
def test_no_platform(tmp_path: Path, environment: dict[str, str], problem: str) -> None:
    done = run_python(
        """
        import tvm
        print(tvm.opencl(0).exist, tvm.get_global_func("syncnas.opencl.devices")())
        try:
            tvm.runtime.empty((1,), "float32", tvm.opencl(0))
        except RuntimeError as error:
            print(error)
        """,
        **{name: value.format(folder=tmp_path) for name, value in environment.items()},
    )
    first, *rest = done.stdout.splitlines()
    assert first == "False []", done.stderr
    assert problem in rest[0]
    assert "syncnas_tvm.opencl_setup" in rest[0]


# PoCL can show its CPU device twice, under different names.
TWO_DEVICES = {"POCL_DEVICES": "pthread basic"}


def device_names(**environment: str) -> list[str]:
    code = "import tvm; print(*[tvm.opencl(i).device_name for i in (0, 1)], sep='\\n')"
    done = run_python(code, **TWO_DEVICES, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_device_selection() -> None:
    default = device_names()
    assert sorted(name.split("-")[0] for name in default) == ["basic", "pthread"]
    assert device_names(SYNCNAS_OPENCL_DEVICE="0") == default
    assert device_names(SYNCNAS_OPENCL_DEVICE="1") == default[::-1]
    for wish, start in (("BASIC", "basic"), ("thread", "pthread")):
        names = device_names(SYNCNAS_OPENCL_DEVICE=wish)
        assert names[0].startswith(start)
        assert sorted(names) == sorted(default)


@pytest.mark.parametrize("wish", ["7", "no such gpu"])
def test_device_selection_without_match(wish: str) -> None:
    done = run_python(
        "import tvm; print(tvm.opencl(0).exist); tvm.opencl(0).sync()",
        **TWO_DEVICES,
        SYNCNAS_OPENCL_DEVICE=wish,
    )
    assert done.stdout == "False\n"
    message = done.stderr.splitlines()[-1]
    assert f"SYNCNAS_OPENCL_DEVICE='{wish}' matches no device" in message
    assert "pthread-" in message
    assert "basic-" in message


def test_copy_between_devices() -> None:
    done = run_python(
        """
        import numpy as np, tvm
        values = np.arange(5000, dtype="float32")
        first = tvm.runtime.tensor(values, tvm.opencl(0))
        second = tvm.runtime.empty((5000,), "float32", tvm.opencl(1))
        first.copyto(second)
        assert (second.numpy() == values).all()
        """,
        **TWO_DEVICES,
    )
    assert done.returncode == 0, done.stderr


# Copies


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64", "bool"])
@pytest.mark.parametrize("count", [1, 3, 1000, 100_000, 6_000_000])
def test_round_trip(dtype: str, count: int) -> None:
    values = np.random.default_rng(count).integers(0, 100, count).astype(dtype)
    np.testing.assert_array_equal(on_device(values).numpy(), values)


def test_round_trip_of_nothing() -> None:
    assert on_device(np.zeros((0, 4), "float32")).numpy().shape == (0, 4)


def test_device_to_device() -> None:
    values = np.random.default_rng(0).random(4099).astype("float32")
    target = empty(4099)
    on_device(values).copyto(target)
    np.testing.assert_array_equal(target.numpy(), values)


@pytest.mark.parametrize("direction", ["in", "out", "across"])
def test_offsets(direction: str) -> None:
    """A view into the middle: only its bytes move, its neighbours stay."""
    values = np.arange(100, dtype="float32")
    whole = on_device(values)
    view = whole._create_view((10,), "float32", relative_byte_offset=40 * 4)
    expected = values.copy()
    if direction == "in":
        tvm.runtime.tensor(np.full(10, -1, "float32")).copyto(view)
        expected[40:50] = -1
    elif direction == "out":
        host = tvm.runtime.empty((10,), "float32")
        view.copyto(host)
        np.testing.assert_array_equal(host.numpy(), values[40:50])
    else:
        whole._create_view((10,), "float32", relative_byte_offset=0).copyto(view)
        expected[40:50] = values[:10]
    np.testing.assert_array_equal(whole.numpy(), expected)


# Kernels


def test_launch_shape(kernels: Any) -> None:
    out = empty(6 * 4 * 2, "int32")
    kernels["where_am_i"](out, 3, 2, 1, 2, 2, 2)  # groups, then work-items in a group
    np.testing.assert_array_equal(out.numpy(), np.full(48, 2 + 200 + 20000))


def test_empty_launch_does_nothing(kernels: Any) -> None:
    x = on_device(np.zeros(4, "float32"))
    kernels["add_one"](x, 0, 4)
    np.testing.assert_array_equal(x.numpy(), np.zeros(4))


def test_launches_are_recorded_and_enqueued_again(kernels: Any) -> None:
    x = on_device(np.zeros(4, "float32"))
    enqueue_us = call("syncnas.opencl.enqueue_us", lambda: kernels["add_one"](x, 1, 4), 3)
    assert 0 < enqueue_us < 1e5
    np.testing.assert_array_equal(x.numpy(), np.full(4, 3))  # three rounds, and not when recorded
    with pytest.raises(ValueError, match="nothing was launched"):
        call("syncnas.opencl.enqueue_us", lambda: None, 3)


INTEGERS = [
    ("char", "int8", (0, 8)),
    ("short", "int16", (0, 16)),
    ("int", "int32", (0, 32)),
    ("long", "int64", (0, 64)),
    ("uchar", "uint8", (1, 8)),
    ("ushort", "uint16", (1, 16)),
    ("uint", "uint32", (1, 32)),
    ("ulong", "uint64", (1, 64)),
]


def pass_scalars(c_type: str, dtype: str, kind: tuple[int, int], values: list[Any]) -> np.ndarray:
    """What a kernel receives; a guard behind the scalar catches one that is passed too wide."""
    source = f"""// Function: store
    __kernel void store(__global {c_type}* out, int index, {c_type} value, int guard) {{
      out[index] = guard == 1234567 ? value : 0;
    }}"""
    types = [POINTER, INT32, kind, INT32]
    store = load_kernels(source, {"store": (types, ONE_AXIS)})["store"]
    out = on_device(np.zeros(len(values), dtype))
    for index, value in enumerate(values):
        store(out, index, value, 1234567, 1, 1)
    return out.numpy()


@pytest.mark.parametrize(("c_type", "dtype", "kind"), INTEGERS)
def test_integer_arguments(c_type: str, dtype: str, kind: tuple[int, int]) -> None:
    limits = np.iinfo(dtype)
    values = [limits.min, limits.max, 0, 1, 77, limits.max // 3]
    if dtype == "uint64":  # values travel through TVM as int64
        values = [value % 2**63 for value in values] + [-1]
    got = pass_scalars(c_type, dtype, kind, values)
    np.testing.assert_array_equal(
        got, np.array([value % 2**64 for value in values], "uint64").astype(dtype)
    )


@pytest.mark.parametrize(("c_type", "bits"), [("float", 32), ("double", 64)])
def test_float_arguments(c_type: str, bits: int) -> None:
    values = [0.0, -0.0, 1 / 3, -1e30, 1e-40, float("inf"), float("nan"), 3]
    got = pass_scalars(c_type, f"float{bits}", (2, bits), values)
    np.testing.assert_array_equal(got, np.array(values, f"float{bits}"))


def float_corner_cases() -> list[float]:
    """Every half and the middle between neighbours, where rounding goes to the even one."""
    halves = np.arange(0, 0x7C01, 37, dtype="uint16").view("float16").astype("float32")
    middles = (
        halves[:-1]
        + np.nextafter(halves[:-1].astype("float16"), np.float16(np.inf)).astype("float32")
    ) / 2
    random = np.random.default_rng(1).standard_normal(500) * 10.0 ** np.arange(-10, 10).repeat(25)
    extremes = [65504, 65519, 65520, 65536, 1e30, 2**-24, 2**-25, 2**-26, 1e-30, 0.0, np.inf]
    positive = np.concatenate([halves, middles, np.abs(random), extremes]).astype("float32")
    return [float(value) for value in np.concatenate([positive, -positive])]


def test_half_arguments() -> None:
    values = float_corner_cases()
    # PoCL has no half: the bits are looked at as an unsigned short.
    got = pass_scalars("ushort", "uint16", (2, 16), values)
    with np.errstate(over="ignore"):
        expected = np.array(values, "float32").astype("float16").view("uint16")
    np.testing.assert_array_equal(got, expected)
    (nan,) = pass_scalars("ushort", "uint16", (2, 16), [float("nan")]).view("float16")
    assert np.isnan(nan)


def test_bfloat16_arguments() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = float_corner_cases()
    got = pass_scalars("ushort", "uint16", (4, 16), values)
    expected = np.array(values, "float32").astype(ml_dtypes.bfloat16).view("uint16")
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", [(6, 8), (1, 1)], ids=["bool", "uint1"])
def test_bool_arguments(kind: tuple[int, int]) -> None:
    np.testing.assert_array_equal(pass_scalars("uchar", "uint8", kind, [True, False]), [1, 0])


def test_threads_launch_one_kernel_at_the_same_time() -> None:
    """Arguments that are set for one thread's launch never show up in another's."""
    source = """// Function: put
    __kernel void put(__global int* out, int index, int value) { out[index] = value; }"""
    put = load_kernels(source, {"put": ([POINTER, INT32, INT32], ONE_AXIS)})["put"]
    rounds = 5000
    outs = [on_device(np.full(rounds, -1, "int32")) for _ in range(4)]
    put(outs[0], 0, -1, 1, 1)

    def work(value: int) -> None:
        for index in range(rounds):
            put(outs[value], index, value, 1, 1)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value, out in enumerate(outs):
        np.testing.assert_array_equal(out.numpy(), np.full(rounds, value))


# Errors


def test_compile_error_names_the_kernel() -> None:
    source = """
    // Function: good
    __kernel void good(__global float* x) { x[0] = 1; }
    // Function: faulty
    __kernel void faulty(__global float* x) { x[0] = no_such_name; }
    """
    signature = ([POINTER], ONE_AXIS)
    module = load_kernels(textwrap.dedent(source), {"good": signature, "faulty": signature})
    with pytest.raises(RuntimeError) as caught:
        module["faulty"](empty(1), 1, 1)
    message = str(caught.value)
    assert "clBuildProgram failed with CL_BUILD_PROGRAM_FAILURE (-11)" in message
    assert "kernel 'faulty'" in message
    assert f"device '{DEVICE.device_name}'" in message
    assert "no_such_name" in message
    module["good"](empty(1), 1, 1)  # a program of its own


def test_launch_error_names_kernel_and_sizes(kernels: Any) -> None:
    too_many = DEVICE.max_threads_per_block * 2
    with pytest.raises(RuntimeError) as caught:
        kernels["add_one"](empty(too_many), 1, too_many)
    message = str(caught.value)
    assert "clEnqueueNDRangeKernel failed with CL_INVALID_WORK_" in message
    assert "kernel 'add_one'" in message
    assert f"work-group size {too_many}x1x1" in message


def test_kernel_that_is_not_in_the_source() -> None:
    module = load_kernels(SOURCE, {"missing": ([POINTER], ONE_AXIS)})
    with pytest.raises(RuntimeError, match=r"CL_INVALID_KERNEL_NAME.*'missing'"):
        module["missing"](empty(1), 1, 1)


def test_copy_error_names_the_call() -> None:
    x = empty(10)
    with pytest.raises(RuntimeError, match=r"clEnqueueCopyBuffer failed with CL_MEM_COPY_OVERLAP"):
        x._create_view((5,), "float32").copyto(x._create_view((5,), "float32", 8))


def test_wrong_arguments(kernels: Any) -> None:
    x = empty(1)
    with pytest.raises(TypeError, match=r"takes 2 arguments and 2 launch extents"):
        kernels["fill"](x, 1, 1)
    with pytest.raises(TypeError, match=r"argument 0 of kernel 'fill' must be memory"):
        kernels["fill"](tvm.runtime.empty((1,), "float32"), 1, 1, 1)
    with pytest.raises(TypeError, match=r"argument 1 of kernel 'fill' is a int32"):
        kernels["fill"](x, 1.5, 1, 1)


def test_launch_parameters_that_opencl_lacks() -> None:
    module = load_kernels(SOURCE, {"add_one": ([POINTER], ["tirx.use_dyn_shared_memory"])})
    with pytest.raises(ValueError, match="use_dyn_shared_memory"):
        module["add_one"]


# Memory


def test_pool_does_not_grow(kernels: Any) -> None:
    sizes = [4, 1000, 5000, 70_000]
    for size in sizes:
        empty(size)
    before = pool_stats()
    for _ in range(1000):
        for size in sizes:
            kernels["add_one"](empty(size), 1, 1)
    after = pool_stats()
    assert after["buffers_created"] == before["buffers_created"]
    assert after["live_bytes"] == before["live_bytes"]


def test_trim_gives_memory_back() -> None:
    freed = empty(1_000_000)
    del freed
    assert pool_stats()["cached_bytes"] >= 4_000_000
    call("syncnas.opencl.trim_pool", 0)
    assert pool_stats()["cached_bytes"] == 0


def test_out_of_memory() -> None:
    with pytest.raises(MemoryError) as caught:
        tvm.runtime.empty((2**40,), "int8", DEVICE)
    message = str(caught.value)
    assert f"cannot allocate {2**40} bytes" in message
    assert f"{DEVICE.total_global_memory} bytes in all" in message
    # The device goes on working.
    np.testing.assert_array_equal(on_device(np.ones(3, "float32")).numpy(), np.ones(3))


def test_cached_memory_is_given_up_before_an_allocation_fails() -> None:
    done = run_python(
        """
        import resource, psutil, tvm
        device, mega = tvm.opencl(0), 2**20
        allocate = lambda size: tvm.runtime.empty((size * mega,), "int8", device)
        allocate(1)  # the driver is loaded by now
        limit = psutil.Process().memory_info().vms + 900 * mega
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        first = [allocate(200) for _ in range(4)]
        del first  # 800 of 900 MB are in the pool, none of them of the next size
        held = [allocate(250) for _ in range(3)]
        print(len(held))
        try:
            held.append(allocate(250))
        except MemoryError as error:
            print(error)
        """
    )
    first, second = done.stdout.splitlines() or ("", done.stderr)
    assert first == "3"
    assert "cannot allocate 262144000 bytes: clCreateBuffer failed with CL_" in second


def test_nothing_piles_up(kernels: Any) -> None:
    """Events, staging blocks and kernel objects are released: memory use stays flat."""
    host = tvm.runtime.tensor(np.zeros(25_000, "float32"))
    device = empty(25_000)

    def many(times: int) -> None:
        for _ in range(times):
            host.copyto(device)
            kernels["add_one"](device, 1, 64)
            device.copyto(host)

    many(500)
    before = psutil.Process().memory_info().rss
    many(5000)
    growth = psutil.Process().memory_info().rss - before
    assert growth < 5000 * 200  # less than one small object per round


# Streams


@pytest.fixture
def stream() -> Any:
    handle = call("runtime.Device_StreamCreate", DEVICE)
    yield handle
    call("runtime.Device_StreamFree", DEVICE, handle)


class using:
    """Makes a stream the thread's current one for a block."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __enter__(self) -> None:
        call("runtime.Device_SetStream", DEVICE, self.handle)

    def __exit__(self, *_: object) -> None:
        call("runtime.Device_SetStream", DEVICE, 0)


def test_two_streams(kernels: Any, stream: int) -> None:
    a, b = on_device(np.zeros(64, "float32")), on_device(np.zeros(64, "float32"))
    with profiled() as profile:
        kernels["add_one"](a, 1, 64)
        with using(stream):
            kernels["fill"](b, 5, 1, 64)
            call("runtime.Device_StreamSync", DEVICE, stream)
    assert profile.only("add_one")["stream"] != profile.only("fill")["stream"]
    assert (a.numpy() == 1).all()
    assert (b.numpy() == 5).all()


def test_stream_waits_for_another(kernels: Any, stream: int) -> None:
    x = on_device(np.zeros(64, "float32"))
    with profiled() as profile:
        kernels["slow"](x, SLOW_ROUNDS // 10, 1, 1)
        call("runtime.Device_StreamSyncFromTo", DEVICE, 0, stream)
        with using(stream):
            kernels["fill"](x, 5, 1, 64)
    assert profile.only("fill")["start_ns"] >= profile.only("slow")["end_ns"]
    assert (x.numpy() == 5).all()


def test_recycled_buffer_in_another_stream() -> None:
    """Two workers, so that streams really overlap: without a barrier the slow kernel wins."""
    done = run_python(
        """
        import numpy as np, tvm
        from test_opencl_device import DEVICE, SLOW_ROUNDS, SOURCE, SIGNATURES
        from test_opencl_device import call, load_kernels, on_device, using, empty
        kernels = load_kernels(SOURCE, SIGNATURES)
        kernels["slow"](empty(64), 1, 1, 1)
        DEVICE.sync()
        stream = call("runtime.Device_StreamCreate", DEVICE)
        old = on_device(np.full(64, 7, "float32"))
        kernels["slow"](old, SLOW_ROUNDS, 1, 1)  # ends with old[0] near 1
        del old
        with using(stream):
            new = empty(64)
            tvm.runtime.tensor(np.full(64, 3, "float32")).copyto(new)
        DEVICE.sync()
        print(new.numpy()[0])
        """,
        POCL_MAX_PTHREAD_COUNT="2",
    )
    assert done.stdout == "3.0\n", done.stderr


# Asynchrony and times


def test_enqueue_and_write_do_not_wait_for_a_running_kernel(kernels: Any) -> None:
    busy, target = on_device(np.zeros(1, "float32")), empty(64)
    host = tvm.runtime.tensor(np.full(64, 2, "float32"))
    with profiled() as profile:
        kernels["slow"](busy, SLOW_ROUNDS, 1, 1)
        enqueued_ns = time.perf_counter_ns()
        host.copyto(target)
        kernels["add_one"](target, 1, 64)
        written_ns = time.perf_counter_ns()
        # The source may change as soon as the copy has returned.
        tvm.runtime.tensor(np.zeros(64, "float32")).copyto(host)
    slow, write = profile.only("slow"), profile.only("write")
    assert enqueued_ns < slow["end_ns"]
    assert written_ns < slow["end_ns"]
    assert write["queued_ns"] < slow["end_ns"] <= write["start_ns"]
    assert (target.numpy() == 3).all()


def test_large_write_behind_a_running_kernel_does_not_wait(kernels: Any) -> None:
    busy = on_device(np.zeros(1, "float32"))
    values = np.random.default_rng(3).random(1_000_000).astype("float32")
    host, target = tvm.runtime.tensor(values), empty(values.size)
    with profiled() as profile:
        kernels["slow"](busy, SLOW_ROUNDS, 1, 1)
        host.copyto(target)
        written_ns = time.perf_counter_ns()
    assert written_ns < profile.only("slow")["end_ns"]
    np.testing.assert_array_equal(target.numpy(), values)


def test_many_writes_in_flight(kernels: Any) -> None:
    """More than the staging memory holds: the writes slow down but stay correct."""
    busy = on_device(np.zeros(1, "float32"))
    targets = [empty(1_000_000) for _ in range(24)]  # 96 MB
    kernels["slow"](busy, SLOW_ROUNDS // 10, 1, 1)
    for index, target in enumerate(targets):
        tvm.runtime.tensor(np.full(1_000_000, index, "float32")).copyto(target)
    for index, target in enumerate(targets):
        assert (target.numpy() == index).all()


def test_read_waits_for_the_kernel(kernels: Any) -> None:
    x = on_device(np.full(1, 1000, "float32"))
    kernels["slow"](x, SLOW_ROUNDS, 1, 1)
    assert abs(x.numpy()[0] - 1) < 0.01


def test_profile_is_on_the_hosts_clock(kernels: Any) -> None:
    x = empty(1024)
    host = tvm.runtime.tensor(np.zeros(1024, "float32"))
    with profiled() as profile:
        host.copyto(x)
        kernels["slow"](x, SLOW_ROUNDS // 10, 1, 1)
        x.copyto(empty(1024))
        x.copyto(host)
        time.sleep(0.05)
        kernels["add_one"](x, 16, 64)
    names = [record["name"] for record in profile.records]
    assert names == ["write", "slow", "copy", "read", "add_one"]
    assert [record["bytes"] for record in profile.records] == [4096, 0, 4096, 4096, 0]
    previous_end = 0
    for record in profile.records:
        slack = record["clock_error_ns"] + 1000
        assert profile.started_ns - slack <= record["queued_ns"]
        assert record["queued_ns"] <= record["submit_ns"] <= record["start_ns"] <= record["end_ns"]
        assert record["end_ns"] <= profile.ended_ns + slack
        assert previous_end <= record["start_ns"]  # in order
        previous_end = record["end_ns"]
    # The sleep shows up as a gap of its length: the scale is right, not only the offset.
    gap_ns = profile.only("add_one")["queued_ns"] - profile.only("read")["end_ns"]
    assert gap_ns >= 50e6 - 1e6


def test_profile_misuse() -> None:
    with pytest.raises(RuntimeError, match="not on"):
        call("syncnas.opencl.profile_stop")
    with profiled(), pytest.raises(RuntimeError, match="already on"):
        call("syncnas.opencl.profile_start")


def test_nothing_is_recorded_outside_a_profile(kernels: Any) -> None:
    x = empty(64)
    with profiled() as profile:
        pass
    kernels["add_one"](x, 1, 64)
    with profiled() as second:
        pass
    assert profile.records == second.records == []


# Modules


def compile_add(out: Path) -> None:
    """Compiles one elementwise function for OpenCL and exports it."""
    from tvm import s_tir, te

    x = te.placeholder((256,), name="x")
    y = te.compute((256,), lambda i: x[i] * te.const(2.0, "float32") + te.const(1.0, "float32"))
    target = tvm.target.Target({"kind": "opencl", "host": {"kind": "llvm"}})
    function = te.create_prim_func([x, y]).with_attr({"global_symbol": "main", "target": target})
    schedule = s_tir.Schedule(function)
    (block,) = schedule.get_child_blocks(schedule.get_sblock("root"))
    outer, inner = schedule.split(schedule.get_loops(block)[0], [None, 64])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
    tvm.compile(schedule.mod, target=target).export_library(str(out))


def check_add(library: Path) -> Any:
    module = tvm.runtime.load_module(str(library))
    values = np.arange(256, dtype="float32")
    result = empty(256)
    module["main"](on_device(values), result)
    np.testing.assert_array_equal(result.numpy(), values * 2 + 1)
    return module


def test_export_and_load(tmp_path: Path) -> None:
    compile_add(tmp_path / "add.so")
    module = check_add(tmp_path / "add.so")
    (kernels,) = module.imports
    assert kernels.kind == "opencl"
    assert "__kernel void" in kernels.inspect_source()


def test_library_compiled_without_this_device(tmp_path: Path) -> None:
    """What TVM's own code generator saves is loaded and run here."""
    done = run_python(
        f"""
        import pathlib, tvm
        from test_opencl_device import compile_add
        compile_add(pathlib.Path({str(tmp_path / "add.so")!r}))
        assert tvm.get_global_func("device_api.opencl", allow_missing=True) is None
        """,
        TVM_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert done.returncode == 0, done.stderr
    check_add(tmp_path / "add.so")


def test_bytes_round_trip() -> None:
    data = module_bytes(SOURCE, SIGNATURES)
    module = call("ffi.Module.load_from_bytes.opencl", data)
    assert module.inspect_source() == SOURCE
    save = tvm.get_global_func("ffi.ModuleSaveToBytes", allow_missing=True)
    if save is not None:
        assert bytes(save(module)) == data


def test_damaged_bytes() -> None:
    data = module_bytes(SOURCE, SIGNATURES)
    for length in (0, 7, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="cut off or damaged"):
            call("ffi.Module.load_from_bytes.opencl", data[:length])


def test_timer_measures_the_whole_run(tmp_path: Path) -> None:
    compile_add(tmp_path / "add.so")
    module = tvm.runtime.load_module(str(tmp_path / "add.so"))
    x, y = on_device(np.zeros(256, "float32")), empty(256)
    started = time.perf_counter()
    result = module.time_evaluator("main", DEVICE, number=20, repeat=3)(x, y)
    elapsed = time.perf_counter() - started
    assert len(result.results) == 3
    assert all(value > 0 for value in result.results)
    assert sum(result.results) * 20 <= elapsed


def test_exit_while_a_kernel_runs() -> None:
    done = run_python(
        """
        from test_opencl_device import SLOW_ROUNDS, SOURCE, SIGNATURES, load_kernels, empty
        load_kernels(SOURCE, SIGNATURES)["slow"](empty(64), SLOW_ROUNDS, 1, 1)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


# Memory.


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_other_memory_does_the_same(memory: str) -> None:
    """PoCL shares memory with the host; without that, copies and streams behave alike."""
    chosen = "copy or stream or recycled or arguments"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", f"({chosen}) and not other_memory"],
        env={**os.environ, "SYNCNAS_OPENCL_MEMORY": memory},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 5


def test_a_read_waits_for_what_is_queued(kernels: Any) -> None:
    """Shared memory is read when the kernels before have ended, without a command that waits."""
    device = tvm.opencl(0)
    count = 1 << 16
    for value in range(1, 20):
        array = np.full(count, float(value), "float32")
        tensor = tvm.runtime.tensor(array, device)
        other = tvm.runtime.empty((count,), "float32", device)
        tensor.copyto(other)  # a command in the queue
        np.testing.assert_array_equal(other.numpy(), array)
        tensor.copyfrom(array + 1)  # written by the host, for the queue is empty
        tensor.copyto(other)
        np.testing.assert_array_equal(other.numpy(), array + 1)
