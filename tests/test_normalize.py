"""Each normalising pass by structure: what goes in, what has to come out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from syncnas_tvm.errors import ModelError
from syncnas_tvm.frontend import normalize
from syncnas_tvm.passes._dataflow import main_block
from syncnas_tvm.passes.canonicalize_activations import CanonicalizeActivations
from syncnas_tvm.passes.canonicalize_arithmetic import CanonicalizeArithmetic
from syncnas_tvm.passes.canonicalize_pooling import CanonicalizePooling
from syncnas_tvm.passes.canonicalize_shapes import CanonicalizeShapes
from syncnas_tvm.passes.fold_batch_norm import FoldBatchNorm
from syncnas_tvm.passes.fold_constants import FoldConstants
from syncnas_tvm.passes.fold_padding import FoldPadding

Build = Callable[..., relax.Expr]
FEATURES = (1, 4, 8, 8)
SIXTH = 1 / 6


def const(value: float | np.ndarray | list[float], *shape: int) -> relax.Expr:
    array = np.ascontiguousarray(value, "float32").reshape(shape)
    return relax.const(array, "float32")


def channels(*values: float) -> relax.Expr:
    return const(list(values), 1, len(values), 1, 1)


def weights(*shape: int) -> np.ndarray:
    """Small whole numbers: scaling them by powers of two is exact."""
    return (np.arange(np.prod(shape), dtype="float32") % 7 - 3).reshape(shape)


def module(build: Build, *shapes: tuple[int, ...]) -> tvm.IRModule:
    """``main`` that returns what ``build`` makes of its parameters."""
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{index}", relax.TensorType(shape, "float32"))
        for index, shape in enumerate(shapes or (FEATURES,))
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(build(*params))
        builder.emit_func_output(result)
    return builder.get()


def check(rewrite: Callable, before: Build, expected: Build, *shapes: tuple[int, ...]) -> None:
    got = rewrite(module(before, *shapes))
    relax.analysis.well_formed(got)
    tvm.ir.assert_structural_equal(got, module(expected, *shapes))


def unchanged(rewrite: Callable, build: Build, *shapes: tuple[int, ...]) -> None:
    check(rewrite, build, build, *shapes)


ALL = [
    CanonicalizeActivations,
    CanonicalizeArithmetic,
    CanonicalizePooling,
    CanonicalizeShapes,
    FoldBatchNorm,
    FoldConstants,
    FoldPadding,
]


@pytest.mark.parametrize("rewrite", ALL)
def test_nothing_to_do(rewrite: type) -> None:
    unchanged(rewrite(), lambda x: op.tanh(op.exp(x)))


def test_control_flow_is_refused() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(FEATURES, "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(op.exp(x)))
    with pytest.raises(ModelError, match="single dataflow block"):
        normalize(builder.get())


def test_names_survive() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(FEATURES, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            a = builder.emit(op.minimum(x, const(6.0)), name_hint="first")
            b = builder.emit(op.exp(a), name_hint="second")
            result = builder.emit_output(b)
        builder.emit_func_output(result)
    mod = CanonicalizeActivations()(builder.get())
    assert [binding.var.name for binding in main_block(mod).bindings] == ["first", "second"]


# --- FoldConstants


def test_constants_fold_to_one() -> None:
    w = weights(3, 4)
    check(
        FoldConstants(),
        lambda x: op.matmul(x, op.permute_dims(op.multiply(const(w, 3, 4), const(2.0)), [1, 0])),
        lambda x: op.matmul(x, const(2 * w.T, 4, 3)),
        (1, 4),
    )


def test_shapes_of_constants_fold() -> None:
    check(
        FoldConstants(),
        lambda x: op.add(x, op.expand_dims(op.reshape(const([1, 2, 3, 4], 4), (4, 1, 1)), 0)),
        lambda x: op.add(x, channels(1, 2, 3, 4)),
    )
    check(
        FoldConstants(),
        lambda x: op.add(x, op.concat([channels(1, 2), channels(3, 4)], axis=1)),
        lambda x: op.add(x, channels(1, 2, 3, 4)),
    )


# --- CanonicalizeArithmetic


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (lambda x: op.add(const(2.0), x), lambda x: op.add(x, const(2.0))),
        (lambda x: op.subtract(x, const(2.0)), lambda x: op.add(x, const(-2.0))),
        (lambda x: op.divide(x, const(4.0)), lambda x: op.multiply(x, const(0.25))),
        (lambda x: op.multiply(x, const(2.0, 1, 1, 1)), lambda x: op.multiply(x, const(2.0))),
        (
            lambda x: op.subtract(const(1.0), x),
            lambda x: op.add(op.multiply(x, const(-1.0)), const(1.0)),
        ),
        (
            lambda x: op.add(x, const([1, 2, 3, 4], 4, 1, 1)),
            lambda x: op.add(x, channels(1, 2, 3, 4)),
        ),
        (
            lambda x: op.add(op.add(x, channels(1, 2, 3, 4)), channels(1, 1, 1, 1)),
            lambda x: op.add(x, channels(2, 3, 4, 5)),
        ),
        (
            lambda x: op.exp(op.multiply(op.add(x, const(0.0)), const(1.0))),
            lambda x: op.exp(x),
        ),
        (
            lambda x: op.multiply(op.multiply(x, const(0.5)), const(4.0)),
            lambda x: op.multiply(x, const(2.0)),
        ),
    ],
)
def test_arithmetic(before: Build, expected: Build) -> None:
    check(CanonicalizeArithmetic(), before, expected)


def test_arithmetic_keeps_what_has_its_form() -> None:
    # The bias of a layer and the shift of a hard-sigmoid are different things.
    unchanged(
        CanonicalizeArithmetic(), lambda x: op.add(op.add(x, channels(1, 2, 3, 4)), const(3.0))
    )
    # A constant that makes the result larger.
    unchanged(CanonicalizeArithmetic(), lambda x: op.add(x, const(0.0, 1, 1, 1)), (4,))
    # The bias of a convolution to one channel.
    w = weights(1, 4, 1, 1)
    unchanged(
        CanonicalizeArithmetic(), lambda x: op.add(op.nn.conv2d(x, const(w, *w.shape)), channels(2))
    )


def test_bias_of_a_dense_layer_has_one_dimension() -> None:
    check(
        CanonicalizeArithmetic(),
        lambda x: op.add(x, const([1, 2, 3], 1, 3)),
        lambda x: op.add(x, const([1, 2, 3], 3)),
        (1, 3),
    )


# --- CanonicalizeShapes


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (lambda x: op.squeeze(x, [2, 3]), lambda x: op.reshape(x, (1, 12))),
        (lambda x: op.permute_dims(x, [0, 2, 3, 1]), lambda x: op.reshape(x, (1, 1, 1, 12))),
        (lambda x: op.reshape(op.squeeze(x, [2, 3]), (3, 4)), lambda x: op.reshape(x, (3, 4))),
        (
            lambda x: op.exp(op.expand_dims(op.squeeze(x, [0]), 0)),
            lambda x: op.exp(x),
        ),
        (lambda x: op.exp(op.astype(x, "float32")), lambda x: op.exp(x)),
        (lambda x: op.exp(op.concat([x], axis=1)), lambda x: op.exp(x)),
        (lambda x: op.concat([x, x], axis=-3), lambda x: op.concat([x, x], axis=1)),
        (
            lambda x: op.strided_slice(x, [-3], [2], [10_000], [1]),
            lambda x: op.strided_slice(x, [1], [2], [12], [1]),
        ),
        (lambda x: op.exp(op.strided_slice(x, [1], [0], [12])), lambda x: op.exp(x)),
        (
            lambda x: op.strided_slice(x, [1, 2], [-4, 0], [-1, 1], [1, 1]),
            lambda x: op.strided_slice(x, [1], [8], [11], [1]),
        ),
    ],
)
def test_shapes(before: Build, expected: Build) -> None:
    check(CanonicalizeShapes(), before, expected, (1, 12, 1, 1))


@pytest.mark.parametrize("sections", [2, [6]])
def test_split_becomes_slices(sections: int | list[int]) -> None:
    def before(x: relax.Expr) -> relax.Expr:
        parts = op.split(x, sections, axis=1)
        return op.add(relax.TupleGetItem(parts, 0), relax.TupleGetItem(parts, 1))

    def expected(x: relax.Expr) -> relax.Expr:
        low = op.strided_slice(x, [1], [0], [6], [1])
        return op.add(low, op.strided_slice(x, [1], [6], [12], [1]))

    check(CanonicalizeShapes(), before, expected, (1, 12, 2, 2))


def test_two_transposes_are_one_or_none() -> None:
    check(
        CanonicalizeShapes(),
        lambda x: op.permute_dims(op.permute_dims(x, [0, 2, 3, 1]), [0, 2, 1, 3]),
        lambda x: op.permute_dims(x, [0, 3, 2, 1]),
    )
    check(
        CanonicalizeShapes(),
        lambda x: op.exp(op.permute_dims(op.permute_dims(x, [0, 2, 3, 1]), [0, 3, 1, 2])),
        lambda x: op.exp(x),
    )


def test_transpose_that_moves_data_stays() -> None:
    unchanged(CanonicalizeShapes(), lambda x: op.permute_dims(x, [0, 2, 3, 1]))


# --- CanonicalizePooling


def pooled(x: relax.Expr) -> relax.Expr:
    return op.mean(x, [2, 3], keepdims=True)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (lambda x: op.mean(x, [-1, -2], keepdims=True), pooled),
        (lambda x: op.mean(x, [3, 2], keepdims=True), pooled),
        (lambda x: op.mean(x, [2, 3], keepdims=False), lambda x: op.reshape(pooled(x), (1, 4))),
        (lambda x: op.nn.avg_pool2d(x, (8, 8)), pooled),
        (lambda x: op.nn.avg_pool2d(x, (8, 8), strides=(8, 8)), pooled),
        (
            lambda x: op.mean(op.reshape(x, (1, 4, 64)), [2]),
            lambda x: op.reshape(pooled(x), (1, 4)),
        ),
        (
            lambda x: op.mean(op.mean(x, [3]), [2]),
            lambda x: op.reshape(pooled(x), (1, 4)),
        ),
        (lambda x: op.mean(op.mean(x, [2], keepdims=True), [3], keepdims=True), pooled),
        (lambda x: op.multiply(op.sum(x, [2, 3], keepdims=True), const(1 / 64)), pooled),
    ],
)
def test_global_pooling(before: Build, expected: Build) -> None:
    check(CanonicalizePooling(), before, expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: op.nn.avg_pool2d(x, (4, 4)),
        lambda x: op.nn.avg_pool2d(x, (8, 8), padding=(1, 1), count_include_pad=True),
        lambda x: op.mean(x, [1], keepdims=True),
        lambda x: op.mean(x, [1, 2, 3], keepdims=True),
        lambda x: op.multiply(op.sum(x, [2, 3], keepdims=True), const(0.5)),
    ],
)
def test_other_pooling_stays(build: Build) -> None:
    unchanged(CanonicalizePooling(), build)


# --- CanonicalizeActivations


def hard_sigmoid(x: relax.Expr, alpha: float = SIXTH, beta: float = 0.5) -> relax.Expr:
    return op.clip(op.add(op.multiply(x, const(alpha)), const(beta)), 0.0, 1.0)


def relu6(x: relax.Expr) -> relax.Expr:
    return op.clip(x, 0.0, 6.0)


def exp_minus(x: relax.Expr) -> relax.Expr:
    return op.add(op.exp(op.negative(x)), const(1.0))


INF = float("inf")
ACTIVATIONS = {
    "relu from maximum": (lambda x: op.maximum(x, const(0.0)), lambda x: op.nn.relu(x)),
    "relu from clip": (lambda x: op.clip(x, 0, INF), lambda x: op.nn.relu(x)),
    "relu6 from minimum of relu": (lambda x: op.minimum(op.nn.relu(x), const(6.0)), relu6),
    "relu6 from maximum and minimum": (
        lambda x: op.maximum(op.minimum(x, const(6.0)), const(0.0)),
        relu6,
    ),
    "relu6 with whole bounds": (lambda x: op.clip(x, 0, 6), relu6),
    "relu of relu6": (lambda x: op.nn.relu(relu6(x)), relu6),
    "only an upper bound": (lambda x: op.minimum(x, const(6.0)), lambda x: op.clip(x, -INF, 6.0)),
    "no bounds": (lambda x: op.exp(op.clip(x, -INF, INF)), lambda x: op.exp(x)),
    "hard-sigmoid, divided": (
        lambda x: op.multiply(relu6(op.add(x, const(3.0))), const(SIXTH)),
        hard_sigmoid,
    ),
    "hard-sigmoid, scaled inside": (
        lambda x: op.clip(op.multiply(op.add(x, const(3.0)), const(SIXTH)), 0.0, 1.0),
        hard_sigmoid,
    ),
    "hard-sigmoid as it is": (hard_sigmoid, hard_sigmoid),
    "hard-sigmoid of ONNX's defaults": (
        lambda x: hard_sigmoid(x, 0.2, 0.5),
        lambda x: hard_sigmoid(x, 0.2, 0.5),
    ),
    "hard-swish, gate divided": (
        lambda x: op.multiply(op.multiply(relu6(op.add(x, const(3.0))), const(SIXTH)), x),
        lambda x: op.multiply(x, hard_sigmoid(x)),
    ),
    "hard-swish, product divided": (
        lambda x: op.multiply(op.multiply(x, relu6(op.add(x, const(3.0)))), const(SIXTH)),
        lambda x: op.multiply(x, hard_sigmoid(x)),
    ),
    "hard-swish, input divided": (
        lambda x: op.multiply(op.multiply(x, const(SIXTH)), relu6(op.add(x, const(3.0)))),
        lambda x: op.multiply(x, hard_sigmoid(x)),
    ),
    "hard-swish, spelt with minimum": (
        lambda x: op.multiply(
            op.multiply(x, op.minimum(op.nn.relu(op.add(x, const(3.0))), const(6.0))), const(SIXTH)
        ),
        lambda x: op.multiply(x, hard_sigmoid(x)),
    ),
    "swish": (lambda x: op.multiply(x, op.sigmoid(x)), lambda x: op.nn.silu(x)),
    "swish, gate first": (lambda x: op.multiply(op.sigmoid(x), x), lambda x: op.nn.silu(x)),
    "swish, divided": (lambda x: op.divide(x, exp_minus(x)), lambda x: op.nn.silu(x)),
    "sigmoid, divided": (lambda x: op.divide(const(1.0), exp_minus(x)), lambda x: op.sigmoid(x)),
    "swish from exp": (
        lambda x: op.multiply(x, op.divide(const(1.0), exp_minus(x))),
        lambda x: op.nn.silu(x),
    ),
    "sigmoid from tanh": (
        lambda x: op.add(op.multiply(op.tanh(op.multiply(x, const(0.5))), const(0.5)), const(0.5)),
        lambda x: op.sigmoid(x),
    ),
}


@pytest.mark.parametrize("form", ACTIVATIONS)
def test_activations(form: str) -> None:
    check(CanonicalizeActivations(), *ACTIVATIONS[form])


@pytest.mark.parametrize(
    "build",
    [
        lambda x: op.nn.leakyrelu(x, 0.1),
        lambda x: op.nn.gelu(x),
        lambda x: op.multiply(x, op.tanh(x)),
        lambda x: op.multiply(relu6(x), const(SIXTH)),
        lambda x: op.multiply(relu6(op.add(x, const(3.0))), const(0.5)),
        lambda x: op.multiply(x, op.sigmoid(op.exp(x))),
        lambda x: op.clip(op.nn.relu(x), -2.0, -1.0),
    ],
)
def test_other_activations_stay(build: Build) -> None:
    unchanged(CanonicalizeActivations(), build)


def test_gate_is_the_second_operand() -> None:
    check(
        CanonicalizeActivations(),
        lambda x, gate: op.multiply(op.sigmoid(gate), x),
        lambda x, gate: op.multiply(x, op.sigmoid(gate)),
        FEATURES,
        (1, 4, 1, 1),
    )


# --- FoldPadding


def conv(x: relax.Expr, w: np.ndarray, **attrs: object) -> relax.Expr:
    return op.nn.conv2d(x, const(w, *w.shape), **attrs)


def test_padding_goes_into_the_convolution() -> None:
    w = weights(4, 4, 3, 3)
    check(
        FoldPadding(),
        lambda x: conv(op.nn.pad(x, [0, 0, 0, 0, 0, 1, 2, 3]), w, padding=[1, 1, 1, 1], strides=2),
        lambda x: conv(x, w, padding=[1, 3, 2, 4], strides=2),
    )


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1], pad_value=1.0),
        lambda x: op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1], pad_mode="reflect"),
    ],
)
def test_other_padding_stays(pad: Build) -> None:
    w = weights(4, 4, 3, 3)
    unchanged(FoldPadding(), lambda x: conv(pad(x), w))


def test_padding_of_channels_stays() -> None:
    w = weights(4, 6, 1, 1)
    unchanged(FoldPadding(), lambda x: conv(op.nn.pad(x, [0, 0, 1, 1, 0, 0, 0, 0]), w))


# --- FoldBatchNorm

GAMMA, BETA = [2.0, 4.0, 8.0, 1.0], [1.0, 2.0, 3.0, 4.0]
MEAN, VARIANCE = [1.0, 0.0, -1.0, 2.0], [4.0, 1.0, 16.0, 0.25]
SCALE = np.array([1.0, 4.0, 2.0, 2.0], "float32")
SHIFT = np.array([0.0, 2.0, 5.0, 0.0], "float32")


def batch_norm(x: relax.Expr) -> relax.Expr:
    parameters = [const(values, 4) for values in (GAMMA, BETA, MEAN, VARIANCE)]
    normalised = op.nn.batch_norm(x, *parameters, axis=1, epsilon=0.0, training=False)
    return relax.TupleGetItem(normalised, 0)


@pytest.mark.parametrize("groups", [1, 4])
def test_batch_norm_folds_into_a_convolution(groups: int) -> None:
    w = weights(4, 4 // groups, 3, 3)
    check(
        FoldBatchNorm(),
        lambda x: op.nn.relu(batch_norm(conv(x, w, groups=groups))),
        lambda x: op.nn.relu(
            op.add(conv(x, w * SCALE.reshape(4, 1, 1, 1), groups=groups), channels(*SHIFT))
        ),
    )


def test_batch_norm_folds_into_a_bias() -> None:
    w = weights(4, 4, 1, 1)
    check(
        FoldBatchNorm(),
        lambda x: batch_norm(op.add(conv(x, w), channels(1, 2, 3, 4))),
        lambda x: op.add(
            conv(x, w * SCALE.reshape(4, 1, 1, 1)), channels(*(SCALE * [1, 2, 3, 4] + SHIFT))
        ),
    )


def test_batch_norm_folds_into_a_dense_layer() -> None:
    w = weights(5, 4)
    check(
        FoldBatchNorm(),
        lambda x: batch_norm(op.matmul(x, const(w, 5, 4))),
        lambda x: op.add(op.matmul(x, const(w * SCALE, 5, 4)), const(SHIFT, 4)),
        (1, 5),
    )


def test_batch_norm_folds_through_a_concat() -> None:
    first, second = weights(1, 4, 3, 3), weights(3, 4, 5, 5)

    def before(x: relax.Expr) -> relax.Expr:
        parts = [conv(x, first, padding=1), conv(x, second, padding=2)]
        return op.nn.relu(batch_norm(op.concat(parts, axis=1)))

    def expected(x: relax.Expr) -> relax.Expr:
        low = conv(x, first * SCALE[:1].reshape(1, 1, 1, 1), padding=1)
        high = conv(x, second * SCALE[1:].reshape(3, 1, 1, 1), padding=2)
        parts = [op.add(low, channels(*SHIFT[:1])), op.add(high, channels(*SHIFT[1:]))]
        return op.nn.relu(op.concat(parts, axis=1))

    got, wanted = FoldBatchNorm()(module(before)), module(expected)
    order = lambda mod: sorted(str(b.value.op) for b in main_block(mod).bindings)  # noqa: E731
    assert order(got) == order(wanted)
    assert_same_values(got, wanted)


def test_layers_keep_their_names_when_batch_norm_folds() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(FEATURES, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            layer = builder.emit(conv(x, weights(4, 4, 1, 1)), "layer")
            biased = builder.emit(op.add(layer, channels(1, 2, 3, 4)), "layer_bias")
            result = builder.emit_output(builder.emit(batch_norm(biased), "norm"))
        builder.emit_func_output(result)
    mod = FoldBatchNorm()(builder.get())
    assert [binding.var.name for binding in main_block(mod).bindings] == ["layer", "norm"]


def assert_same_values(got: tvm.IRModule, wanted: tvm.IRModule) -> None:
    x = np.random.default_rng(0).standard_normal(FEATURES, "float32")
    results = []
    for mod in (got, wanted):
        machine = relax.VirtualMachine(tvm.compile(mod, target="llvm"), tvm.cpu())
        results.append(machine["main"](tvm.runtime.tensor(x)).numpy())
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        lambda x: x,
        lambda x: op.nn.relu(x),
        lambda x: op.nn.max_pool2d(x, (2, 2)),
        lambda x: op.concat([conv(x, weights(2, 4, 1, 1)), op.strided_slice(x, [1], [0], [2])], 1),
    ],
)
def test_batch_norm_without_a_layer_is_a_scale_and_a_shift(data: Build) -> None:
    check(
        FoldBatchNorm(),
        lambda x: batch_norm(data(x)),
        lambda x: op.add(op.multiply(data(x), channels(*SCALE)), channels(*SHIFT)),
    )


def test_batch_norm_leaves_a_convolution_that_others_read() -> None:
    w = weights(4, 4, 1, 1)

    def block(normalise: Build) -> Build:
        def build(x: relax.Expr) -> relax.Expr:
            builder = relax.BlockBuilder.current()
            shared = builder.emit(conv(x, w))
            return op.add(normalise(shared), shared)

        return build

    check(
        FoldBatchNorm(),
        block(batch_norm),
        block(lambda y: op.add(op.multiply(y, channels(*SCALE)), channels(*SHIFT))),
    )


def test_scale_and_shift_that_an_exporter_left_fold_too() -> None:
    w = weights(4, 4, 1, 1)
    check(
        FoldBatchNorm(),
        lambda x: op.add(op.multiply(conv(x, w), channels(*SCALE)), channels(*SHIFT)),
        lambda x: op.add(conv(x, w * SCALE.reshape(4, 1, 1, 1)), channels(*SHIFT)),
    )


def test_scalars_stay_with_their_activation() -> None:
    w = weights(4, 4, 1, 1)
    unchanged(FoldBatchNorm(), lambda x: hard_sigmoid(op.add(conv(x, w), channels(1, 2, 3, 4))))


# --- the whole pipeline


def test_decomposed_gate_behind_a_bias() -> None:
    """The passes do not get in each other's way: bias, hard-sigmoid and gate keep apart."""
    w = weights(4, 4, 1, 1)
    check(
        normalize,
        lambda x: op.multiply(
            op.divide(
                op.minimum(
                    op.maximum(
                        op.add(
                            batch_norm(conv(op.mean(x, [-1, -2], keepdims=True), w)), const(3.0)
                        ),
                        const(0.0),
                    ),
                    const(6.0),
                ),
                const(6.0),
            ),
            x,
        ),
        lambda x: op.multiply(
            x,
            hard_sigmoid(op.add(conv(pooled(x), w * SCALE.reshape(4, 1, 1, 1)), channels(*SHIFT))),
        ),
    )
