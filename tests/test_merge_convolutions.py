"""``MergeConvolutions`` and ``WidenResiduals`` by structure: what goes in, what has to come out."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from test_normalize import check, const, module, weights
from tvm import relax
from tvm.relax import op

from syncnas_tvm.passes.merge_convolutions import MergeConvolutions
from syncnas_tvm.passes.widen_residuals import WidenResiduals

SHAPE = (1, 6, 5, 5)


def piece(x: relax.Expr, first: int, last: int) -> relax.Expr:
    return op.strided_slice(x, [1], [first], [last], [1])


def conv(x: relax.Expr, weight: np.ndarray, pad: int = 0, groups: int = 1) -> relax.Expr:
    return op.nn.conv2d(x, const(weight, *weight.shape), padding=pad, groups=groups)


def test_mixed_depthwise_kernels_are_padded_to_the_largest() -> None:
    small, large = weights(2, 1, 3, 3), weights(4, 1, 5, 5)
    bias = np.array([1.0, 2.0]).reshape(1, 2, 1, 1)

    def before(x: relax.Expr) -> relax.Expr:
        first = op.add(conv(piece(x, 0, 2), small, 1, 2), const(bias, 1, 2, 1, 1))
        return op.concat([first, conv(piece(x, 2, 6), large, 2, 4)], 1)

    def expected(x: relax.Expr) -> relax.Expr:
        both = np.concatenate([np.pad(small, ((0, 0), (0, 0), (1, 1), (1, 1))), large])
        merged = op.nn.conv2d(x, const(both, *both.shape), padding=2, groups=6)
        return op.add(merged, const([1, 2, 0, 0, 0, 0], 1, 6, 1, 1))

    check(MergeConvolutions(), before, expected, SHAPE)


def test_grouped_dense_kernels_become_blocks_of_one_weight() -> None:
    a, b = weights(3, 2, 1, 1), weights(2, 4, 1, 1)

    def before(x: relax.Expr) -> relax.Expr:
        return op.concat([conv(piece(x, 0, 2), a), conv(piece(x, 2, 6), b)], 1)

    def expected(x: relax.Expr) -> relax.Expr:
        merged = np.zeros((5, 6, 1, 1), "float32")
        merged[:3, :2], merged[3:, 2:] = a, b
        return conv(x, merged)

    check(MergeConvolutions(), before, expected, SHAPE)


@pytest.mark.parametrize(
    "build",
    [
        # Branches of the whole value may run on different lanes.
        lambda x: op.concat([conv(x, weights(2, 6, 1, 1)), conv(x, weights(3, 6, 1, 1))], 1),
        # A gap, an overlap, and channels in another order.
        lambda x: op.concat(
            [conv(piece(x, 0, 2), weights(2, 2, 1, 1)), conv(piece(x, 3, 6), weights(2, 3, 1, 1))], 1
        ),
        lambda x: op.concat(
            [conv(piece(x, 0, 4), weights(2, 4, 1, 1)), conv(piece(x, 2, 6), weights(2, 4, 1, 1))], 1
        ),
        lambda x: op.concat(
            [conv(piece(x, 2, 6), weights(2, 4, 1, 1)), conv(piece(x, 0, 2), weights(2, 2, 1, 1))], 1
        ),
        # Windows that are not around the same point.
        lambda x: op.concat(
            [
                op.nn.conv2d(piece(x, 0, 3), const(weights(3, 1, 3, 3), 3, 1, 3, 3), padding=[1, 1, 1, 1], groups=3),
                op.nn.conv2d(piece(x, 3, 6), const(weights(3, 1, 2, 2), 3, 1, 2, 2), strides=1, padding=[0, 0, 1, 1], groups=3),
                conv(x, weights(1, 6, 1, 1)),
            ],
            1,
        ),
        # Another axis.
        lambda x: op.concat(
            [conv(piece(x, 0, 2), weights(2, 2, 1, 1)), conv(piece(x, 2, 6), weights(2, 4, 1, 1))], 2
        ),
    ],
)  # fmt: skip
def test_others_stay(build: object) -> None:
    before = module(build, SHAPE)
    tvm.ir.assert_structural_equal(MergeConvolutions()(before), before)


def test_even_kernels_merge_where_their_padding_says() -> None:
    """A 2 x 2 window padded behind reads what the middle and the end of a 3 x 3 window read."""
    small, large = weights(3, 1, 2, 2), weights(3, 1, 3, 3)

    def before(x: relax.Expr) -> relax.Expr:
        even = op.nn.conv2d(
            piece(x, 0, 3), const(small, 3, 1, 2, 2), padding=[0, 0, 1, 1], groups=3
        )
        return op.concat([even, conv(piece(x, 3, 6), large, 1, 3)], 1)

    def expected(x: relax.Expr) -> relax.Expr:
        both = np.concatenate([np.pad(small, ((0, 0), (0, 0), (1, 0), (1, 0))), large])
        return conv(x, both, 1, 6)

    check(MergeConvolutions(), before, expected, SHAPE)


@pytest.mark.parametrize("swapped", [False, True])
def test_partial_residual(swapped: bool) -> None:
    def before(x: relax.Expr, y: relax.Expr) -> relax.Expr:
        pair = (x, piece(y, 0, 6)) if swapped else (piece(y, 0, 6), x)
        return op.concat([op.add(*pair), piece(y, 6, 9)], 1)

    def expected(x: relax.Expr, y: relax.Expr) -> relax.Expr:
        return op.add(y, op.nn.pad(x, [0, 0, 0, 3, 0, 0, 0, 0]))

    check(WidenResiduals(), before, expected, SHAPE, (1, 9, 5, 5))


@pytest.mark.parametrize(
    "build",
    [
        lambda x, y: op.concat([op.add(piece(y, 0, 6), x), piece(y, 7, 9)], 1),
        lambda x, y: op.concat([op.add(piece(y, 1, 7), x), piece(y, 6, 9)], 1),
        lambda x, y: op.concat([op.add(piece(y, 0, 6), x), piece(x, 3, 6)], 1),
        lambda x, y: op.concat([op.add(piece(y, 0, 6), x), piece(y, 6, 8)], 1),
        lambda x, y: op.concat([op.multiply(piece(y, 0, 6), x), piece(y, 6, 9)], 1),
    ],
)
def test_other_residuals_stay(build: object) -> None:
    before = module(build, SHAPE, (1, 9, 5, 5))
    tvm.ir.assert_structural_equal(WidenResiduals()(before), before)
