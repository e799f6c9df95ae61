"""What each element-wise operator computes of its operands, in float32."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr


def sigmoid(x: Expr) -> Expr:
    """With the target's own ``exp``."""
    one = tirx.const(1.0, "float32")
    return one / (one + tirx.exp(tirx.const(0.0, "float32") - x))


FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": tirx.max,
    "minimum": tirx.min,
    "nn.relu": lambda a: tirx.max(a, tirx.const(0.0, "float32")),
    "clip": tirx.max,
    "sigmoid": sigmoid,
    "nn.silu": sigmoid,
}
