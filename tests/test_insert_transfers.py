"""InsertTransfers: what moves, when, and that nothing moves twice or in vain."""

from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from syncnas_tvm.passes.insert_transfers import InsertTransfers

# Lane functions and joins that the modules below call. Types are written out in each, as TVMScript
# wants them.


def transferred(mod: tvm.IRModule) -> tvm.IRModule:
    return InsertTransfers()(mod)


def test_a_split_region() -> None:
    """One transfer a direction; the GPU lane's call comes before the CPU lane's."""

    @I.ir_module
    class Before:
        @R.function(private=True)
        def r0_p0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "cpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.nn.relu(x)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r0_p0_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.exp(x)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r0_join0(a: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32")) -> R.Tensor(
            (4,), "float32"
        ):
            R.func_attr({"syncnas.region": "r0", "syncnas.join": "sum", "syncnas.phase": 0})
            with R.dataflow():
                y = R.add(a, b)
                gv = y
                R.output(gv)
            return gv

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Before
            with R.dataflow():
                a = cls.r0_p0_cpu(x)
                b = cls.r0_p0_gpu(x)
                y = cls.r0_join0(a, b)
                gv = y
                R.output(gv)
            return gv

    @I.ir_module
    class Expected:
        @R.function(private=True)
        def r0_p0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "cpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.nn.relu(x)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r0_p0_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.exp(x)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r0_join0_cpu(a: R.Tensor((4,), "float32"), b: R.Tensor((4,), "float32")) -> R.Tensor(
            (4,), "float32"
        ):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "cpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.add(a, b)
                gv = y
                R.output(gv)
            return gv

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"num_input": 1})
            cls = Expected
            with R.dataflow():
                x_gpu = R.call_pure_packed(
                    "vm.builtin.to_device", x, 4, 0, ty_args=(R.Tensor((4,), "float32"),)
                )
                b = cls.r0_p0_gpu(x_gpu)
                a = cls.r0_p0_cpu(x)
                b_cpu = R.call_pure_packed(
                    "vm.builtin.to_device", b, 1, 0, ty_args=(R.Tensor((4,), "float32"),)
                )
                y = cls.r0_join0_cpu(a, b_cpu)
                gv = y
                R.output(gv)
            return gv

    tvm.ir.assert_structural_equal(transferred(Before), Expected)


def test_a_lane_that_goes_on_keeps_its_values() -> None:
    """Two regions on the GPU: one transfer there, one back, none in between."""

    @I.ir_module
    class Before:
        @R.function(private=True)
        def r0_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.exp(x)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r1_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r1", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.nn.relu(x)
                gv = y
                R.output(gv)
            return gv

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Before
            with R.dataflow():
                a = cls.r0_gpu(x)
                b = cls.r1_gpu(a)
                gv = b
                R.output(gv)
            return gv

    @I.ir_module
    class Expected:
        @R.function(private=True)
        def r0_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.exp(x)
                gv = y
                R.output(gv)
            return gv

        @R.function(private=True)
        def r1_gpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r1", "syncnas.lane": "gpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.nn.relu(x)
                gv = y
                R.output(gv)
            return gv

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"num_input": 1})
            cls = Expected
            with R.dataflow():
                x_gpu = R.call_pure_packed(
                    "vm.builtin.to_device", x, 4, 0, ty_args=(R.Tensor((4,), "float32"),)
                )
                a = cls.r0_gpu(x_gpu)
                b = cls.r1_gpu(a)
                b_cpu = R.call_pure_packed(
                    "vm.builtin.to_device", b, 1, 0, ty_args=(R.Tensor((4,), "float32"),)
                )
                gv = b_cpu
                R.output(gv)
            return gv

    tvm.ir.assert_structural_equal(transferred(Before), Expected)


def test_the_cpu_alone_moves_nothing() -> None:
    @I.ir_module
    class Before:
        @R.function(private=True)
        def r0_cpu(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"syncnas.region": "r0", "syncnas.lane": "cpu", "syncnas.phase": 0})
            with R.dataflow():
                y = R.exp(x)
                gv = y
                R.output(gv)
            return gv

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            R.func_attr({"num_input": 1})
            cls = Before
            with R.dataflow():
                y = cls.r0_cpu(x)
                gv = y
                R.output(gv)
            return gv

    tvm.ir.assert_structural_equal(transferred(Before), Before)


def calls(mod: tvm.IRModule) -> list[str]:
    """What ``main`` does, in order: names of callees, and directions of transfers."""
    found = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not hasattr(value, "op"):
                continue
            if isinstance(value.op, tvm.ir.GlobalVar):
                found.append(value.op.name_hint)
            else:
                device = int(value.args[2].value)
                found.append("to_gpu" if device == 4 else "to_cpu")
    return found


def order_of(network, *plans, **net) -> list[str]:
    from graph_nets import graph_of

    from syncnas_tvm.passes.apply_plan import ApplyPlan
    from syncnas_tvm.plan import Plan

    graph = graph_of(network, **net)
    return calls(transferred(ApplyPlan(graph, Plan(plans))(graph.mod)))


def decision(region: str, what: object):
    from syncnas_tvm.plan import Decision

    if isinstance(what, str):
        return Decision.of(region, "Place", lane=what)
    return Decision.of(region, "ChannelSplit", gpu_share=what)


def two_blocks(n, x):
    return n.mbconv(n.mbconv(x, 24, 8), 24, 8)


def test_neighbouring_splits_exchange_once_in_each_direction() -> None:
    """The sum is made on both lanes: on the CPU while the GPU lane already runs the next region."""
    order = order_of(two_blocks, decision("r0", 0.5), decision("r1", 0.5), channels=8)
    assert order == [
        *("to_gpu", "r0_p0_gpu", "r0_p0_cpu"),
        # All that is read from the GPU comes before new work is enqueued there.
        *("to_cpu", "to_gpu", "r0_join0_gpu", "r1_p0_gpu"),
        *("r0_join0_cpu", "r1_p0_cpu"),
        *("to_cpu", "r1_join0_cpu"),
    ]


def test_a_join_runs_only_where_its_value_is_read() -> None:
    order = order_of(two_blocks, decision("r0", 0.5), decision("r1", "gpu"), channels=8)
    assert order == [
        *("to_gpu", "r0_p0_gpu", "r0_p0_cpu"),
        *("to_gpu", "r0_join0_gpu", "r1_gpu", "to_cpu"),
    ]
    order = order_of(two_blocks, decision("r0", 0.5), decision("r1", "cpu"), channels=8)
    assert order == [
        *("to_gpu", "r0_p0_gpu", "r0_p0_cpu"),
        *("to_cpu", "r0_join0_cpu", "r1_cpu"),
    ]


def test_squeeze_and_excite() -> None:
    """In a second phase, too, the GPU lane runs first, and the block's input is not moved again."""
    order = order_of(lambda n, x: n.mbconv(x, 32, 8, se="after"), decision("r0", 0.5), channels=8)
    assert order == [
        *("to_gpu", "r0_p0_gpu", "r0_p0_cpu"),
        *("to_cpu", "to_gpu", "r0_join0_gpu", "r0_p1_gpu"),
        *("r0_join0_cpu", "r0_p1_cpu"),
        *("to_cpu", "r0_join1_cpu"),
    ]


def test_from_lane_to_lane() -> None:
    order = order_of(two_blocks, decision("r0", "gpu"), decision("r1", 0.5), channels=8)
    assert order == [
        *("to_gpu", "r0_gpu", "to_cpu"),
        *("r1_p0_gpu", "r1_p0_cpu", "to_cpu", "r1_join0_cpu"),
    ]
