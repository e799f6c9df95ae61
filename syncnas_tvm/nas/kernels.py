"""The kernels that a network's parts become after fusion, as the cost models take them.

What the compiler's frontend and fusion make of the exported ONNX model, written down directly: so a
model can be timed before it is built. ``tests/test_nas_allocate.py`` compares them.
"""

from __future__ import annotations

from syncnas_tvm.errors import ConfigError
from syncnas_tvm.nas.description import BlockShape, Network, strided
from syncnas_tvm.work import Epilogue, Kernel, Lane

ACTIVATIONS: dict[str, tuple[Epilogue, ...]] = {
    "": (),
    "relu": (Epilogue("nn.relu"),),
    "relu6": (Epilogue("clip", attrs=(("min", 0.0), ("max", 6.0))),),
    "silu": (Epilogue("nn.silu"),),
    "sigmoid": (Epilogue("sigmoid"),),
}
DENSE_ATTRS = (("attrs", "relax.attrs.MatmulAttrs(out_dtype=None)"),)


def convolution(
    size: int,
    inputs: int,
    out: int,
    kernel: int,
    stride: int,
    act: str,
    lane: Lane,
    *,
    depthwise: bool = False,
    residual: bool = False,
) -> Kernel:
    """A convolution with bias, activation and residual, on ``size`` x ``size`` pixels."""
    if act not in ACTIVATIONS:
        raise ConfigError(f"activation {act} has no kernel description; take relu, relu6 or silu")
    after = strided(size, stride)
    result = (1, out, after, after)
    added = (Epilogue("add", (result,)),) if residual else ()
    return Kernel(
        "nn.conv2d",
        ((1, inputs, size, size), (out, 1 if depthwise else inputs, kernel, kernel), result),
        "float32",
        lane,
        (
            ("strides", (stride, stride)),
            ("padding", (kernel // 2,) * 4),
            ("dilation", (1, 1)),
            ("groups", inputs if depthwise else 1),
        ),
        (Epilogue("add", ((1, out, 1, 1),)), *ACTIVATIONS[act], *added),
    )


def block_kernels(shape: BlockShape, lane: Lane) -> tuple[Kernel, ...]:
    """Expand, depthwise and project; without squeeze-and-excite."""
    block, size = shape.block, shape.size
    found = []
    if shape.expands:
        found.append(convolution(size, shape.inputs, block.expand, 1, 1, block.act, lane))
    kernel = block.kernels[0]
    found.append(
        convolution(
            size, block.expand, block.expand, kernel, block.stride, block.act, lane, depthwise=True
        )
    )
    found.append(
        convolution(
            shape.out_size, block.expand, block.out, 1, 1, "", lane, residual=shape.residual
        )
    )
    return tuple(found)


def stem_kernels(base: Network, size: int, lane: Lane) -> tuple[Kernel, ...]:
    """The first convolution."""
    return (convolution(size, 3, base.stem, 3, 2, base.stem_act or base.act, lane),)


def head_kernels(base: Network, size: int, classes: int, lane: Lane) -> tuple[Kernel, ...]:
    """The last convolution on ``size`` x ``size`` pixels, the mean, and the classifier."""
    last = base.stages[-1][-1].out
    pixels = (1, base.head, size, size)
    mean_attrs = (("axis", (2, 3)), ("keepdims", True))
    return (
        convolution(size, last, base.head, 1, 1, base.act, lane),
        Kernel("mean", (pixels, (1, base.head, 1, 1)), "float32", lane, mean_attrs),
        Kernel(
            "matmul",
            ((1, base.head), (base.head, classes), (1, classes)),
            "float32",
            lane,
            DENSE_ATTRS,
            (Epilogue("add", ((classes,),)),),
        ),
    )


def join_kernels(shape: tuple[int, int, int, int], kind: str, lane: Lane) -> tuple[Kernel, ...]:
    """What joins the branches' results into a value of ``shape``: an addition or a concatenation."""
    n, channels, height, width = shape
    part = shape if kind == "a" else (n, channels // 2, height, width)
    name = "add" if kind == "a" else "concat"
    return (Kernel(name, (part, part, shape), "float32", lane),)
