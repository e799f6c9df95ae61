"""The pipeline from an applied plan to a module that the Relax VM can run."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.partition_passes import PartitionPasses, PlaceName
from syncnas_tvm.passes.assign_kernels import AssignKernels
from syncnas_tvm.passes.insert_transfers import InsertTransfers
from syncnas_tvm.passes.lift_constants import LiftConstants
from syncnas_tvm.passes.lift_gpu_weights import LiftGpuWeights
from syncnas_tvm.passes.pack_lanes import PackLanes
from syncnas_tvm.passes.place_allocations import PlaceAllocations
from syncnas_tvm.schedule import ScheduleKernels
from syncnas_tvm.schedule.narrow_vectors import NarrowVectors
from syncnas_tvm.schedule.opencl_half import install
from syncnas_tvm.schedule.packed_kernels import PackedSchedules, Records
from syncnas_tvm.schedule.prefetch import InsertPrefetches
from syncnas_tvm.schedule.stack_sums import pipeline
from syncnas_tvm.targets import Target

T = relax.transform


NO_PASSES = PartitionPasses()


def _kernel_passes(
    target: Target, types: LaneTypes, records: Records | None
) -> list[tvm.transform.Pass]:
    """Operators to scheduled kernels of their lanes."""
    return [
        # Packed kernels for what has a packed definition...
        PackLanes(PackedSchedules.of(target, types, records)),
        # ... and TVM's own for the rest. No device is known to Relax here, so nothing can lose one.
        T.LegalizeOps(),
        T.AnnotateTIROpPattern(),
        T.FoldConstant(),
        T.FuseOps(),
        T.FuseTIR(),
        AssignKernels(target.cpu_target(), target.gpu_target()),
        ScheduleKernels(),
        NarrowVectors(target.opencl.max_vector_lanes),
        InsertPrefetches(),
    ]


def _vm_passes() -> list[tvm.transform.Pass]:
    """Explicit memory, planned per lane function, and VM builtins."""
    return [
        T.RewriteDataflowReshape(),
        T.ToNonDataflow(),
        T.RemovePurityChecking(),
        T.CallTIRRewrite(),
        PlaceAllocations(),
        T.StaticPlanBlockMemory(),
        T.LowerAllocTensor(),
        T.KillAfterLastUse(),
        T.LowerRuntimeBuiltin(),
        T.ComputePrimValue(),
        T.VMShapeLower(),
        T.AttachGlobalSymbol(),
    ]


def lowering_passes(
    target: Target, types: LaneTypes = FLOAT32, records: Records | None = None
) -> dict[PlaceName | None, list[tvm.transform.Pass]]:
    """All passes in order, from ``main`` calling lane functions and joins to VM-level Relax.

    By the name of the place behind them, where other people's passes may run.
    """
    return {
        # 1. Data movement: which lane has which value.
        "transfers": [InsertTransfers(types.converting)],
        # 2. Operators to kernels, scheduled for their lane.
        "kernels": _kernel_passes(target, types, records),
        # 3. Weights of the GPU lane become parameters; then memory and VM builtins.
        None: [LiftGpuWeights(), *_vm_passes()],
    }


def lower(
    mod: tvm.IRModule,
    target: Target,
    types: LaneTypes = FLOAT32,
    records: Records | None = None,
    passes: PartitionPasses = NO_PASSES,
) -> tvm.IRModule:
    """Run :func:`lowering_passes` on the result of ``ApplyPlan``, and ``passes`` at their places."""
    mod = passes.run("plan", mod)
    for place, steps in lowering_passes(target, types, records).items():
        with passes.suspected(place):
            mod = _run(steps, mod)
        if place is not None:
            mod = passes.run(place, mod)
    return mod


def build(
    mod: tvm.IRModule,
    target: Target,
    types: LaneTypes = FLOAT32,
    records: Records | None = None,
    passes: PartitionPasses = NO_PASSES,
) -> relax.VMExecutable:
    """Lower an applied plan and generate its code: CPU functions and OpenCL kernels.

    The lanes keep their values in ``types``; kernels that have a tuning record in ``records`` are
    scheduled with its tiling. ``passes`` run at their places.
    """
    lowered = lower(mod, target, types, records, passes)
    with passes.suspected():
        return _generate(lowered, target)


def build_kernels(
    mod: tvm.IRModule, target: Target, types: LaneTypes = FLOAT32, records: Records | None = None
) -> tuple[relax.VMExecutable, tvm.IRModule]:
    """Build lane functions alone, to be measured on tensors of their lane.

    Their weights become parameters behind their own; the module with the final signatures is
    returned too.
    """
    kernels = _run([*_kernel_passes(target, types, records), LiftConstants()], mod)
    return _generate(_run(_vm_passes(), kernels), target), kernels


def _run(passes: list[tvm.transform.Pass], mod: tvm.IRModule) -> tvm.IRModule:
    with tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(passes)(mod)


def _generate(mod: tvm.IRModule, target: Target) -> relax.VMExecutable:
    install()
    with tvm.transform.PassContext(opt_level=3):
        return relax.build(
            mod, target=target.cpu_target(), relax_pipeline=None, tir_pipeline=pipeline()
        )
