"""The pipeline from an applied plan to a module that the Relax VM can run."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.passes.assign_kernels import AssignKernels
from syncnas_tvm.passes.insert_transfers import InsertTransfers
from syncnas_tvm.passes.lift_gpu_weights import LiftGpuWeights
from syncnas_tvm.passes.place_allocations import PlaceAllocations
from syncnas_tvm.schedule import ScheduleKernels

T = relax.transform


def lowering_passes(cpu: tvm.target.Target, gpu: tvm.target.Target) -> list[tvm.transform.Pass]:
    """All passes in order, from ``main`` calling lane functions and joins to VM-level Relax."""
    return [
        # 1. Data movement: which lane has which value.
        InsertTransfers(),
        # 2. Operators to kernels. No device is known to Relax here, so nothing can lose one.
        T.LegalizeOps(),
        T.AnnotateTIROpPattern(),
        T.FoldConstant(),
        T.FuseOps(),
        T.FuseTIR(),
        # 3. Kernels to lanes, and schedules per lane.
        AssignKernels(cpu, gpu),
        ScheduleKernels(),
        LiftGpuWeights(),
        # 4. Explicit memory, planned per lane function.
        T.RewriteDataflowReshape(),
        T.ToNonDataflow(),
        T.RemovePurityChecking(),
        T.CallTIRRewrite(),
        PlaceAllocations(),
        T.StaticPlanBlockMemory(),
        # 5. VM builtins.
        T.LowerAllocTensor(),
        T.KillAfterLastUse(),
        T.LowerRuntimeBuiltin(),
        T.ComputePrimValue(),
        T.VMShapeLower(),
        T.AttachGlobalSymbol(),
    ]


def lower(mod: tvm.IRModule, cpu: tvm.target.Target, gpu: tvm.target.Target) -> tvm.IRModule:
    """Run :func:`lowering_passes` on the result of ``ApplyPlan``."""
    with tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(lowering_passes(cpu, gpu))(mod)


def build(mod: tvm.IRModule, cpu: tvm.target.Target, gpu: tvm.target.Target) -> relax.VMExecutable:
    """Lower an applied plan and generate its code: CPU functions and OpenCL kernels."""
    lowered = lower(mod, cpu, gpu)
    with tvm.transform.PassContext(opt_level=3):
        return relax.build(lowered, target=cpu, relax_pipeline=None)
