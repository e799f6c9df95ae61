"""PlaceAllocations: each lane function allocates on its own device."""

from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from syncnas_tvm.passes.place_allocations import PlaceAllocations


def module(cpu_index: int, gpu_index: int) -> tvm.IRModule:
    @I.ir_module
    class Module:
        @R.function(pure=False, private=True)
        def r0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.lane": "cpu"})
            y = R.builtin.alloc_tensor(R.shape([4]), R.dtype("float32"), cpu_index, "global")
            R.call_packed("cpu_double", x, y, ty_args=(R.Tuple,))
            return y

        @R.function(pure=False, private=True)
        def r1_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.lane": "gpu"})
            y = R.builtin.alloc_tensor(R.shape([4]), R.dtype("float32"), gpu_index, "global")
            z = R.builtin.alloc_tensor(R.shape([4]), R.dtype("float32"), gpu_index, "global")
            R.call_packed("gpu_double", x, y, z, ty_args=(R.Tuple,))
            return z

        @R.function(pure=False)
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            y = R.builtin.alloc_tensor(R.shape([4]), R.dtype("float32"), 0, "global")
            R.call_packed("copy", x, y, ty_args=(R.Tuple,))
            return y

    return Module


def test_the_gpu_lane_allocates_on_the_second_device() -> None:
    tvm.ir.assert_structural_equal(PlaceAllocations()(module(0, 0)), module(0, 1))


def test_the_cpu_lane_allocates_on_the_first() -> None:
    tvm.ir.assert_structural_equal(PlaceAllocations()(module(1, 1)), module(0, 1))
