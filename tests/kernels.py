"""Kernels of several kinds and sizes for the cost models' tests, and a strategy for any."""

from __future__ import annotations

from hypothesis import strategies as st

from syncnas_tvm.targets import load_target
from syncnas_tvm.work import Epilogue, Kernel, Lane

RELU6 = (("min", 0.0), ("max", 6.0))
RK3399 = load_target("rk3399")


def conv(into: int, out: int, lane: Lane = "cpu", side: int = 14, window: int = 1) -> Kernel:
    return Kernel(
        "nn.conv2d",
        ((1, into, side, side), (out, into, window, window), (1, out, side, side)),
        "float32",
        lane,
        attrs=(("padding", (window // 2,) * 4), ("groups", 1)),
        epilogue=(Epilogue("add", ((1, out, 1, 1),)), Epilogue("clip", (), RELU6)),
    )


def depthwise(width: int, lane: Lane = "cpu", side: int = 14) -> Kernel:
    shape = (1, width, side, side)
    shapes = (shape, (width, 1, 3, 3), shape)
    return Kernel(
        "nn.conv2d", shapes, "float32", lane, attrs=(("groups", width), ("strides", (1, 1)))
    )


def dense(into: int, out: int, lane: Lane = "cpu") -> Kernel:
    return Kernel("matmul", ((1, into), (into, out), (1, out)), "float32", lane)


def add(width: int, lane: Lane = "cpu") -> Kernel:
    return Kernel("add", ((1, width, 14, 14),) * 3, "float32", lane)


def mean(width: int, lane: Lane = "cpu") -> Kernel:
    return Kernel("mean", ((1, width, 7, 7), (1, width, 1, 1)), "float32", lane)


lanes = st.sampled_from(["cpu", "gpu"])
widths = st.integers(1, 2000)
kernels = st.one_of(
    st.builds(conv, widths, widths, lanes, st.integers(1, 112), st.sampled_from([1, 3, 5])),
    st.builds(depthwise, widths, lanes, st.integers(1, 112)),
    st.builds(dense, widths, widths, lanes),
    st.builds(add, widths, lanes),
    st.builds(mean, widths, lanes),
)
