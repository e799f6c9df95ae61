"""The main job: an ONNX model in, one CPU+GPU executable out, checked against the model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from syncnas_tvm import artifact
from syncnas_tvm.candidates import decision_space
from syncnas_tvm.compile_job import CompileJob, Lanes, Report
from syncnas_tvm.compile_result import CompileResult, Latency
from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.errors import InputError
from syncnas_tvm.fallback import fallbacks
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.half import check_types
from syncnas_tvm.lane_types import FloatType, LaneTypes
from syncnas_tvm.partition_passes import PartitionPass, PartitionPasses
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import (
    Budget,
    Choice,
    CostMode,
    ModeName,
    StateFile,
    choose,
    choose_fixed,
)
from syncnas_tvm.runtime.executable import Executable
from syncnas_tvm.runtime.lanes import gpu_device, reserve_cores
from syncnas_tvm.targets import Target, load_target
from syncnas_tvm.targets.model import WEIGHT_MEMORIES, WeightMemory
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.verify import compare_with_onnxruntime
from syncnas_tvm.work import LANES

STAGES = ("import", "regions", "measure", "plan", "build", "verify", "time")
TOLERANCE = 1e-4
"""Largest relative error (max |a - b| / max |b|, per output) that passes verification."""
HALF_TOLERANCE = 2e-2
"""The same where a lane keeps its values in half precision."""


def compile_onnx(
    model: str | Path,
    target: str | Path | Target = "host",
    output: str | Path | None = None,
    *,
    lanes: Lanes = "both",
    plan: Plan | None = None,
    split_all: bool = False,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    verify: bool | None = None,
    verify_inputs: Sequence[Mapping[str, np.ndarray]] = (),
    tolerance: float | None = None,
    gpu_dtype: FloatType = "float32",
    cpu_dtype: FloatType = "float32",
    gpu_weights: WeightMemory | None = None,
    strategy: str = "mcts",
    budget: Budget | None = None,
    seed: int = 0,
    cost_mode: ModeName = "timeline",
    sync_us: float | None = None,
    search_state: str | Path | None = None,
    cost_model: CostModel | None = None,
    timed: bool | None = None,
    tuning_records: str | Path | None = None,
    passes: Sequence[PartitionPass] = (),
    report: Report = lambda stage, detail: None,
) -> CompileResult:
    """Compile an ONNX model for both lanes of ``target`` and write it to the folder ``output``.

    The plan is searched with ``strategy``, unless one is given (``plan``) or every region that can
    be split is to be split (``split_all``); ``lanes`` restricts it to one lane. ``cost_mode`` and
    ``sync_us`` say how plans are scored (:class:`syncnas_tvm.planner.CostMode`), ``cost_model`` what
    kernels take instead of what is measured here or predicted by the target's learned models. The search in the file
    ``search_state`` is continued, where there is one, and saved there. ``verify`` runs the
    executable on random inputs and on ``verify_inputs`` and compares with onnxruntime; it is on by
    default for targets that run here, as is ``timed``, which measures the latency of the plan and
    of each lane alone. Kernels with a record in the folder ``tuning_records`` are scheduled as it
    says. ``passes`` are other people's: functions that change the plan, and Relax passes at places of
    the pipeline (:mod:`syncnas_tvm.partition_passes`). With no ``output`` the executable goes to a temporary folder that is gone at
    the end.

    ``gpu_dtype`` and ``cpu_dtype`` are the types in which the lanes keep tensors and weights; the
    model's inputs and outputs stay float32. ``tolerance`` is 1e-4, or 2e-2 where a lane has float16,
    unless it is given. ``gpu_weights`` says whether the GPU lane's pointwise and dense convolutions read
    their weights from buffers or from textures; default: what the target says.

    Raises ModelError, InputError, TargetError, PlanError, RuleError, PassError, BuildError, and
    VerificationError where a relative error is above ``tolerance``; nothing is written then.
    """
    folder = None if output is None else Path(output)
    device = target if isinstance(target, Target) else load_target(target)
    if gpu_weights is not None:
        device = with_weights(device, gpu_weights)
    types = LaneTypes(cpu=cpu_dtype, gpu=gpu_dtype)
    check_types(types, device)
    if tolerance is None:
        tolerance = HALF_TOLERANCE if types.half else TOLERANCE
    job = CompileJob(Path(model), device, types, PartitionPasses(passes), report)
    on_host = job.target.is_host
    if verify and not on_host:
        raise InputError(
            f"--verify runs the executable, and target '{job.target.name}' does not run on this "
            "machine; leave it out, or use --target host"
        )
    CostMode(cost_mode, sync_us)  # a wrong one is said now
    if folder is not None:
        artifact.check_output(folder)
    if tuning_records is not None:
        job.records = TuningRecords(Path(tuning_records), job.target)
    if on_host:
        reserve_cores(job.target)
        if lanes != "cpu":
            gpu_device()  # none there is said now, not after "measure"
    with job.stage("import"):
        imported = import_onnx(job.model, input_shapes)
        imported = replace(imported, mod=job.passes.run("import", imported.mod))
    with job.stage("regions"), job.passes.suspected("plan"):
        graph = RegionGraph(imported.mod, job.target.channel_step)
        space = decision_space(graph, types)
        if plan is not None:
            space.match(plan)  # a wrong plan fails here, not after "measure"
    with job.stage("measure"):
        table, costs = job.knowledge(graph, space, lanes, cost_model)
    state = StateFile(Path(search_state), job.target.name) if search_state else None

    def fixed(given: Plan | None) -> Choice:
        return choose_fixed(space, costs, table, given, cost_mode, sync_us)

    def searched() -> Choice:
        found = choose(
            *(space, costs, table, strategy, budget, seed, lanes, cost_mode, sync_us, state)
        )
        return job.changed(graph, space, found, fixed)

    choice = job.plan(
        searched
        if plan is None and not split_all
        else lambda: job.changed(graph, space, fixed(plan), fixed)
    )
    latency_us = {name: Latency(choice.latency_us.get(name)) for name in (*LANES, "both")}
    result = CompileResult(
        job.model,
        job.target,
        folder,
        graph,
        choice,
        latency_us,
        tuning=job.records,
        types=types,
        seconds=job.seconds,
    )
    with _folder_for(folder) as aside:
        with job.stage("build"):
            manifest = job.build(imported, graph, choice, aside)
            result.fallbacks = fallbacks(apply_plan(graph, choice.plan), job.target, table, types)
        timelines = {"predicted": choice.timeline}
        executable = None  # loaded once, by the first stage that runs it
        if on_host if verify is None else verify:
            with job.stage("verify"), job.passes.suspected():
                executable = Executable(aside, manifest)
                inputs = [executable.random_inputs(seed), *verify_inputs]
                result.deviation = compare_with_onnxruntime(executable, imported, inputs)
                job.check(result, tolerance)
        if on_host and timed is not False:
            with job.stage("time"):
                executable = executable or Executable(aside, manifest)
                timelines["measured"] = job.time(imported, result, space, lanes, executable)
        job.finish(aside, manifest, timelines)
    return result


def with_weights(target: Target, memory: WeightMemory) -> Target:
    """``target`` with the GPU lane's weights in that memory; raises InputError where there is none such."""
    if memory not in WEIGHT_MEMORIES:
        raise InputError(f"--gpu-weights is '{memory}'; use one of {', '.join(WEIGHT_MEMORIES)}")
    return replace(target, opencl=replace(target.opencl, weights=memory))


@contextmanager
def _folder_for(output: Path | None) -> Iterator[Path]:
    """The folder to write to: aside of ``output``, or one that is gone afterwards."""
    if output is not None:
        with artifact.written_aside(output) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="syncnas-") as name:
            yield Path(name)
