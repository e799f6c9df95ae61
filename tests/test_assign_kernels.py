"""AssignKernels: a copy of each kernel for each lane that calls it, with that lane's target."""

from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from syncnas_tvm.passes.assign_kernels import AssignKernels
from syncnas_tvm.targets import load_target

TARGET = load_target("rk3399")


@I.ir_module
class Before:
    @T.prim_func(private=True, s_tir=True)
    def double(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("b"):
                v = T.axis.spatial(4, i)
                b[v] = a[v] * T.float32(2)

    @T.prim_func(private=True, s_tir=True)
    def unused(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("b"):
                v = T.axis.spatial(4, i)
                b[v] = a[v]

    @R.function(private=True)
    def r0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"syncnas.lane": "cpu"})
        cls = Before
        with R.dataflow():
            y = R.call_tir(cls.double, (x,), out_ty=R.Tensor((4,), "float32"))
            R.output(y)
        return y

    @R.function(private=True)
    def r1_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"syncnas.lane": "gpu"})
        cls = Before
        with R.dataflow():
            y = R.call_tir(cls.double, (x,), out_ty=R.Tensor((4,), "float32"))
            z = R.call_tir(cls.double, (y,), out_ty=R.Tensor((4,), "float32"))
            R.output(z)
        return z

    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        cls = Before
        with R.dataflow():
            y = cls.r0_cpu(x)
            z = cls.r1_gpu(y)
            R.output(z)
        return z


@I.ir_module
class Expected:
    @R.function(private=True)
    def r0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"syncnas.lane": "cpu"})
        cls = Expected
        with R.dataflow():
            y = R.call_tir(cls.cpu_double, (x,), out_ty=R.Tensor((4,), "float32"))
            R.output(y)
        return y

    @R.function(private=True)
    def r1_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"syncnas.lane": "gpu"})
        cls = Expected
        with R.dataflow():
            y = R.call_tir(cls.gpu_double, (x,), out_ty=R.Tensor((4,), "float32"))
            z = R.call_tir(cls.gpu_double, (y,), out_ty=R.Tensor((4,), "float32"))
            R.output(z)
        return z

    @T.prim_func(s_tir=True)
    def cpu_double(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("b"):
                v = T.axis.spatial(4, i)
                b[v] = a[v] * T.float32(2)

    @T.prim_func(s_tir=True)
    def gpu_double(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("b"):
                v = T.axis.spatial(4, i)
                b[v] = a[v] * T.float32(2)

    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        cls = Expected
        with R.dataflow():
            y = cls.r0_cpu(x)
            z = cls.r1_gpu(y)
            R.output(z)
        return z


def test_each_lane_has_its_own_copy() -> None:
    expected = Expected.clone()
    for name, target in (("cpu_double", TARGET.cpu_target()), ("gpu_double", TARGET.gpu_target())):
        expected[name] = expected[name].with_attr("target", target)
    assigned = AssignKernels(TARGET.cpu_target(), TARGET.gpu_target())(Before)
    tvm.ir.assert_structural_equal(assigned, expected)


def test_the_copies_share_no_loops() -> None:
    """A schedule of one must not change the other."""
    assigned = AssignKernels(TARGET.cpu_target(), TARGET.gpu_target())(Before)
    cpu, gpu = assigned["cpu_double"], assigned["gpu_double"]
    assert not cpu.body.same_as(gpu.body)
    assert not cpu.params[0].same_as(gpu.params[0])
