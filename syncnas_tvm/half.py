"""Where half precision can be used, and what converting costs."""

from __future__ import annotations

from dataclasses import replace

from syncnas_tvm.errors import InputError, TargetError
from syncnas_tvm.lane_types import FLOAT_TYPES, HALF, LaneTypes
from syncnas_tvm.targets import Target, TargetCosts, Transfer
from syncnas_tvm.work import DTYPE_BYTES, LANES

FULL_FP16 = "+fullfp16"
"""LLVM's name of ARMv8.2's half-precision arithmetic, as a target's ``cpu.mattr`` has it."""


def check_types(types: LaneTypes, target: Target) -> None:
    """Raise InputError for a type that no lane can have, TargetError where the target's cannot."""
    for lane in LANES:
        if types.of(lane) not in FLOAT_TYPES:
            raise InputError(
                f"--{lane}-dtype is '{types.of(lane)}'; use one of {', '.join(FLOAT_TYPES)}"
            )
    if types.cpu == HALF and FULL_FP16 not in target.cpu.get("mattr", ()):
        raise TargetError(
            f"--cpu-dtype {HALF}: the CPU of target '{target.name}' is not said to compute in half "
            f"precision; leave the flag out, or, for an ARMv8.2 CPU that does, add '{FULL_FP16}' to "
            "cpu.mattr in the target's file"
        )


def transfer_costs(
    types: LaneTypes, target: Target, costs: TargetCosts | None = None
) -> TargetCosts:
    """``costs`` (default: the target's) with the CPU lane's conversion added to each transfer.

    The conversion is one kernel that reads one type and writes the other at the CPU's bandwidth.
    """
    costs = target.costs if costs is None else costs
    if not types.converting:
        return costs
    # Bytes that the kernel moves for each byte of the copy, which is of the GPU lane's type.
    moved = 1 + DTYPE_BYTES[types.cpu] / DTYPE_BYTES[types.gpu]
    peak = target.cpu_peak

    def both(copy: Transfer) -> Transfer:
        ns_per_byte = 1 / copy.gbytes_per_s + moved / peak.gbytes_per_s
        return Transfer(copy.latency_us + peak.launch_us, 1 / ns_per_byte)

    return replace(costs, to_gpu=both(costs.to_gpu), to_cpu=both(costs.to_cpu))
