"""LiftGpuWeights and LiftConstants: constants become parameters, uploaded once."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from syncnas_tvm.passes.lift_constants import LiftConstants
from syncnas_tvm.passes.lift_gpu_weights import LiftGpuWeights


@I.ir_module
class Before:
    @R.function(private=True)
    def r0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"syncnas.lane": "cpu"})
        with R.dataflow():
            y = R.add(x, R.const([1, 1, 1, 1], "float32"))
            R.output(y)
        return y

    @R.function(private=True)
    def r1_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"syncnas.lane": "gpu"})
        with R.dataflow():
            y = R.add(x, R.const([1, 1, 1, 1], "float32"))
            z = R.multiply(y, R.const([2, 2, 2, 2], "float32"))
            R.output(z)
        return z

    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        R.func_attr({"num_input": 1})
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
        with R.dataflow():
            y = R.add(x, R.const([1, 1, 1, 1], "float32"))
            R.output(y)
        return y

    @R.function(private=True)
    def r1_gpu(
        x: R.Tensor((4,), "float32"),
        w0: R.Tensor((4,), "float32"),
        w1: R.Tensor((4,), "float32"),
    ) -> R.Tensor((4,), "float32"):
        R.func_attr({"syncnas.lane": "gpu"})
        with R.dataflow():
            y = R.add(x, w0)
            z = R.multiply(y, w1)
            R.output(z)
        return z

    @R.function
    def main(
        x: R.Tensor((4,), "float32"),
        weight0: R.Tensor((4,), "float32"),
        weight1: R.Tensor((4,), "float32"),
    ) -> R.Tensor((4,), "float32"):
        R.func_attr({"num_input": 1})
        cls = Expected
        with R.dataflow():
            y = cls.r0_cpu(x)
            z = cls.r1_gpu(y, weight0, weight1)
            R.output(z)
        return z

    @R.function
    def gpu_weights() -> R.Tuple(R.Tensor((4,), "float32"), R.Tensor((4,), "float32")):
        with R.dataflow():
            a = R.call_pure_packed(
                "vm.builtin.to_device",
                R.const([1, 1, 1, 1], "float32"),
                4,
                0,
                ty_args=(R.Tensor((4,), "float32"),),
            )
            b = R.call_pure_packed(
                "vm.builtin.to_device",
                R.const([2, 2, 2, 2], "float32"),
                4,
                0,
                ty_args=(R.Tensor((4,), "float32"),),
            )
            c = (a, b)
            R.output(c)
        return c


def test_weights_of_the_gpu_lane() -> None:
    tvm.ir.assert_structural_equal(LiftGpuWeights()(Before), Expected)


def test_two_calls_of_one_function() -> None:
    """Each call passes its weights on; none is left inside."""

    @I.ir_module
    class Twice:
        @R.function(private=True)
        def r0_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.lane": "gpu"})
            with R.dataflow():
                y = R.add(x, R.const([1, 1, 1, 1], "float32"))
                R.output(y)
            return y

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Twice
            with R.dataflow():
                y = cls.r0_gpu(x)
                z = cls.r0_gpu(y)
                R.output(z)
            return z

    lifted = LiftGpuWeights()(Twice)
    weights = len(lifted["main"].params) - 1
    assert len(lifted["gpu_weights"].ret_ty.fields) == weights
    assert "const" not in lifted["r0_gpu"].script(show_meta=True).lower()
    assert weights > 0


def test_without_gpu_functions_only_an_empty_upload_is_added() -> None:
    @I.ir_module
    class Cpu:
        @R.function(private=True)
        def r0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.lane": "cpu"})
            with R.dataflow():
                y = R.add(x, R.const([1, 1, 1, 1], "float32"))
                R.output(y)
            return y

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Cpu
            with R.dataflow():
                y = cls.r0_cpu(x)
                R.output(y)
            return y

    lifted = LiftGpuWeights()(Cpu)
    assert len(lifted["gpu_weights"].ret_ty.fields) == 0
    del lifted["gpu_weights"]
    tvm.ir.assert_structural_equal(lifted, Cpu)


def test_lift_constants_of_functions_that_are_called_alone() -> None:
    @I.ir_module
    class Alone:
        @R.function
        def k0(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.lane": "gpu"})
            with R.dataflow():
                y = R.add(x, R.const([1, 1, 1, 1], "float32"))
                R.output(y)
            return y

    @I.ir_module
    class Lifted:
        @R.function
        def k0(x: R.Tensor((4,), "float32"), w: R.Tensor((4,), "float32")) -> R.Tensor(
            (4,), "float32"
        ):
            R.func_attr({"syncnas.lane": "gpu"})
            with R.dataflow():
                y = R.add(x, w)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(LiftConstants()(Alone), Lifted)


def test_what_a_kernel_reads_as_a_texture() -> None:
    """It is made one where it is uploaded; a function that is called alone says so."""

    @I.ir_module(check_well_formed=False)
    class Textured:
        @T.prim_func(private=True, s_tir=True)
        def kernel(
            x: T.Buffer((4,), "float32"),
            b: T.Buffer((4,), "float32"),
            w: T.Buffer((1, 4), "float32", scope="global.texture-weight"),
            y: T.Buffer((4,), "float32"),
        ):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = x[v] * w[0, v] + b[v]

        @R.function(private=True)
        def r0_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.lane": "gpu"})
            cls = Textured
            with R.dataflow():
                y = R.call_tir(
                    cls.kernel,
                    (x, R.const([1, 1, 1, 1], "float32"), R.const([[2, 2, 2, 2]], "float32")),
                    R.Tensor((4,), "float32"),
                )
                R.output(y)
            return y

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Textured
            with R.dataflow():
                y = cls.r0_gpu(x)
                R.output(y)
            return y

    uploads = LiftGpuWeights()(Textured)["gpu_weights"].body.blocks[0].bindings
    calls = [binding.value for binding in uploads if isinstance(binding.value, relax.Call)]
    functions = [(call.args[0].global_symbol, call.args[1].value.numpy().ndim) for call in calls]
    assert functions == [("vm.builtin.to_device", 1), ("syncnas.opencl.to_texture", 2)]
    alone = tvm.IRModule({gv: f for gv, f in Textured.functions_items() if gv.name_hint != "main"})
    assert list(LiftConstants()(alone)["r0_gpu"].attrs["syncnas.textures"]) == [2]
