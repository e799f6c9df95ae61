"""exp and sigmoid that vectorise: the C library's exp is called once per element."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

_LOG2_E = 1.4426950408889634
# ln 2 in two parts, so that x - n ln 2 is exact; Cephes' expf (S. Moshier), whose minimax polynomial
# for exp on [-ln 2 / 2, ln 2 / 2] follows.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)


def _const(value: float) -> Expr:
    return tirx.const(value, "float32")


def exp(x: Expr) -> Expr:
    """e to the power of a float32, relative error below 2e-7; saturates outside of +-87."""
    x = tirx.max(tirx.min(x, _const(87.0)), _const(-87.0))
    n = tirx.floor(x * _const(_LOG2_E) + _const(0.5))
    r = x - n * _const(_LN2_HIGH) - n * _const(_LN2_LOW)
    y = _const(_POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        y = y * r + _const(coefficient)
    y = y * r * r + r + _const(1.0)
    exponent = (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32")
    return y * tirx.reinterpret("float32", exponent)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)) of a float32."""
    return _const(1.0) / (_const(1.0) + exp(_const(0.0) - x))
