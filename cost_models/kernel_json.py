"""Kernels as JSON and back, so that what was measured can be kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syncnas_tvm.work import DTYPE_BYTES, LANES, Epilogue, Kernel


def kernel_to_json(kernel: Kernel) -> dict[str, Any]:
    """Everything that tells ``kernel`` from another one; its ``name`` does not."""
    return {
        "op": kernel.op,
        "shapes": kernel.shapes,
        "dtype": kernel.dtype,
        "lane": kernel.lane,
        "layout": kernel.layout,
        "attrs": dict(kernel.attrs),
        "epilogue": [
            {"op": e.op, "operands": e.operands, "attrs": dict(e.attrs)} for e in kernel.epilogue
        ],
    }


def kernel_from_json(data: Mapping[str, Any]) -> Kernel:
    """The inverse of :func:`kernel_to_json`.

    Raises ValueError, TypeError or KeyError on anything else. JSON's lists become tuples, so
    attributes that were tuples come back as they were; lists would not.
    """
    if data["lane"] not in LANES or data["dtype"] not in DTYPE_BYTES:
        raise ValueError(f"lane {data['lane']!r}, type {data['dtype']!r}")
    return Kernel(
        op=str(data["op"]),
        shapes=_shapes(data["shapes"]),
        dtype=str(data["dtype"]),
        lane=data["lane"],
        attrs=_attrs(data["attrs"]),
        epilogue=tuple(
            Epilogue(str(e["op"]), _shapes(e["operands"]), _attrs(e["attrs"]))
            for e in data["epilogue"]
        ),
        layout=str(data["layout"]),
    )


def _shapes(data: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(dim) for dim in shape) for shape in data)


def _attrs(data: Mapping[str, Any]) -> tuple[tuple[str, object], ...]:
    return tuple((name, _frozen(value)) for name, value in data.items())


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
