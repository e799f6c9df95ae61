"""An exp that vectorises, and what is made of it: the C library's is called once per element."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

from syncnas_tvm.schedule.elementwise import const as _const
from syncnas_tvm.schedule.elementwise import curves

_LOG2_E = 1.4426950408889634
# ln 2 in two parts (S. Moshier, Cephes): n times the first is exact, so that x - n ln 2 is.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
# exp on [-ln 2 / 2, ln 2 / 2], highest power first: minimax in relative error (7.5e-8), by Remez
# exchange.
_POLYNOMIAL = (
    0.008297655088762597,
    0.041915381992783114,
    0.1666757472861883,
    0.4999889485120367,
    0.9999996919915557,
    1.0000000716546849,
)


def exp(x: Expr) -> Expr:
    """e to the power of a float32, relative error below 4e-7; saturates outside of +-87."""
    x = tirx.max(tirx.min(x, _const(87.0)), _const(-87.0))
    n = tirx.nearbyint(x * _const(_LOG2_E))
    r = x - n * _const(_LN2_HIGH) - n * _const(_LN2_LOW)
    y = _const(_POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        y = y * r + _const(coefficient)
    # Times 2^n: n goes into the exponent's bits of y.
    exponent = n.astype("int32") << tirx.const(23, "int32")
    return tirx.reinterpret("float32", tirx.reinterpret("int32", y) + exponent)


CURVES = curves(exp)
