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


def _kernel_passes(cpu: tvm.target.Target, gpu: tvm.target.Target) -> list[tvm.transform.Pass]:
    """Operators to scheduled kernels of their lanes."""
    return [
        # No device is known to Relax here, so nothing can lose one.
        T.LegalizeOps(),
        T.AnnotateTIROpPattern(),
        T.FoldConstant(),
        T.FuseOps(),
        T.FuseTIR(),
        AssignKernels(cpu, gpu),
        ScheduleKernels(),
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


def lowering_passes(cpu: tvm.target.Target, gpu: tvm.target.Target) -> list[tvm.transform.Pass]:
    """All passes in order, from ``main`` calling lane functions and joins to VM-level Relax."""
    return [
        # 1. Data movement: which lane has which value.
        InsertTransfers(),
        # 2. Operators to kernels, scheduled for their lane.
        *_kernel_passes(cpu, gpu),
        # 3. Weights of the GPU lane become parameters.
        LiftGpuWeights(),
        # 4. Memory and VM builtins.
        *_vm_passes(),
    ]


def lower(mod: tvm.IRModule, cpu: tvm.target.Target, gpu: tvm.target.Target) -> tvm.IRModule:
    """Run :func:`lowering_passes` on the result of ``ApplyPlan``."""
    return _run(lowering_passes(cpu, gpu), mod)


def build(mod: tvm.IRModule, cpu: tvm.target.Target, gpu: tvm.target.Target) -> relax.VMExecutable:
    """Lower an applied plan and generate its code: CPU functions and OpenCL kernels."""
    return _generate(lower(mod, cpu, gpu), cpu)


def build_kernels(
    mod: tvm.IRModule, cpu: tvm.target.Target, gpu: tvm.target.Target
) -> relax.VMExecutable:
    """Build lane functions alone, each callable on tensors of its lane: to be measured."""
    return _generate(_run([*_kernel_passes(cpu, gpu), *_vm_passes()], mod), cpu)


def _run(passes: list[tvm.transform.Pass], mod: tvm.IRModule) -> tvm.IRModule:
    with tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(passes)(mod)


def _generate(mod: tvm.IRModule, cpu: tvm.target.Target) -> relax.VMExecutable:
    with tvm.transform.PassContext(opt_level=3):
        return relax.build(mod, target=cpu, relax_pipeline=None)
