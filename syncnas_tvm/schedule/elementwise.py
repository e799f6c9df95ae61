"""What each element-wise operator computes of its operands, in float32."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from tvm import tirx
from tvm.ir import Expr

Function = Callable[..., Expr]


def const(value: float) -> Expr:
    """A float32."""
    return tirx.const(value, "float32")


def curves(exp: Function) -> dict[str, Function]:
    """Activations made of ``exp``, which vectorise where it does."""

    def sigmoid(x: Expr) -> Expr:
        return const(1.0) / (const(1.0) + exp(const(0.0) - x))

    def silu(x: Expr) -> Expr:
        return x / (const(1.0) + exp(const(0.0) - x))

    def tanh(x: Expr) -> Expr:
        return const(2.0) * sigmoid(const(2.0) * x) - const(1.0)

    def erf(x: Expr) -> Expr:
        # Absolute error at most 1.5e-7 (Abramowitz and Stegun, formula 7.1.26).
        size = tirx.max(x, const(0.0) - x)
        t = const(1.0) / (const(1.0) + const(0.3275911) * size)
        y = const(0.0)
        for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
            y = (y + const(coefficient)) * t
        y = const(1.0) - y * exp(const(0.0) - size * size)
        return tirx.Select(x < const(0.0), const(0.0) - y, y)

    def gelu(x: Expr) -> Expr:
        return const(0.5) * x * (const(1.0) + erf(x * const(sqrt(0.5))))

    return {
        "exp": exp,
        "sigmoid": sigmoid,
        "nn.silu": silu,
        "tanh": tanh,
        "erf": erf,
        "nn.gelu": gelu,
    }


FUNCTIONS: dict[str, Function] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": tirx.max,
    "minimum": tirx.min,
    "nn.relu": lambda a: tirx.max(a, const(0.0)),
    "clip": tirx.max,
    "sqrt": tirx.sqrt,
    "negative": lambda a: const(0.0) - a,
    **curves(tirx.exp),
}
