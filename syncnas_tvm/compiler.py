"""The main job: an ONNX model in, one CPU+GPU executable out, checked against the model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from syncnas_tvm import artifact
from syncnas_tvm.artifact import Manifest
from syncnas_tvm.candidates import decision_space
from syncnas_tvm.cost_models import CostModel, Roofline
from syncnas_tvm.errors import BuildError, InputError, SyncNASError, error_line
from syncnas_tvm.fallback import Fallback, fallbacks
from syncnas_tvm.frontend import ImportedModel, import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.half import check_types, transfer_costs
from syncnas_tvm.host_costs import measured_costs, measured_table
from syncnas_tvm.lane_types import FLOAT32, FloatType, LaneTypes
from syncnas_tvm.link import export_library
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import (
    Budget,
    Candidate,
    Choice,
    CostMode,
    ModeName,
    Space,
    StateFile,
    choose,
    choose_fixed,
    plan_of,
    single_lane,
)
from syncnas_tvm.runtime.executable import Executable
from syncnas_tvm.runtime.lanes import gpu_device, reserve_cores
from syncnas_tvm.syncs import count_syncs
from syncnas_tvm.targets import Target, TargetCosts, load_target
from syncnas_tvm.timeline import Timeline
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.verify import Deviation, compare_with_onnxruntime
from syncnas_tvm.work import LANES, Lane

Lanes = Literal["cpu", "gpu", "both"]
STAGES = ("import", "regions", "measure", "plan", "build", "verify", "time")
TOLERANCE = 1e-4
"""Largest relative error (max |a - b| / max |b|, per output) that passes verification."""
HALF_TOLERANCE = 2e-2
"""The same where a lane keeps its values in half precision."""
DEFAULT_BUDGET = Budget(evaluations=2000)
TIMED_ROUNDS, RUNS_A_ROUND = 5, 4

Report = Callable[[str, str], None]
"""Called with a stage's name when it begins, and with details while it goes on."""


@dataclass
class Latency:
    """Predicted and, where it was run, measured median latency in microseconds."""

    predicted: float | None = None
    measured: float | None = None


@dataclass
class CompileResult:
    """What a compile did. ``folder`` is None where nothing was written."""

    model: Path
    target: Target
    folder: Path | None
    graph: RegionGraph
    choice: Choice
    latency_us: dict[str, Latency]
    fallbacks: tuple[Fallback, ...] = ()
    tuning: TuningRecords | None = None
    types: LaneTypes = FLOAT32
    deviation: Deviation | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The plan that was compiled."""
        return self.choice.plan

    @property
    def syncs(self) -> int:
        """Points at which the lanes exchange data."""
        return count_syncs(self.choice.candidates)

    @property
    def split_syncs(self) -> int:
        """Syncs of the best plan on both lanes, whether or not it was chosen."""
        return count_syncs(self.choice.split)

    def to_json(self) -> dict[str, Any]:
        """What ``compile --json`` prints."""
        return {
            "model": str(self.model),
            "target": self.target.name,
            "output": None if self.folder is None else str(self.folder),
            "regions": [vars(region) for region in self.graph.regions],
            "plan": self.plan.to_json(),
            "reason": self.choice.reason,
            "syncs": self.syncs,
            "types": {lane: self.types.of(lane) for lane in LANES},
            "latency_us": {name: vars(latency) for name, latency in self.latency_us.items()},
            "fallbacks": [vars(fallback) for fallback in self.fallbacks],
            "tuning": None if self.tuning is None else self.tuning.to_json(),
            "max_abs_error": self.deviation.max_abs if self.deviation else None,
            "max_rel_error": self.deviation.max_rel if self.deviation else None,
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
        }


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
    strategy: str = "mcts",
    budget: Budget = DEFAULT_BUDGET,
    seed: int = 0,
    cost_mode: ModeName = "timeline",
    sync_us: float | None = None,
    search_state: str | Path | None = None,
    cost_model: CostModel | None = None,
    timed: bool | None = None,
    tuning_records: str | Path | None = None,
    report: Report = lambda stage, detail: None,
) -> CompileResult:
    """Compile an ONNX model for both lanes of ``target`` and write it to the folder ``output``.

    The plan is searched with ``strategy``, unless one is given (``plan``) or every region that can
    be split is to be split (``split_all``); ``lanes`` restricts it to one lane. ``cost_mode`` and
    ``sync_us`` say how plans are scored (:class:`syncnas_tvm.planner.CostMode`), ``cost_model`` what
    kernels take instead of what is measured here or the target's roofline. The search in the file
    ``search_state`` is continued, where there is one, and saved there. ``verify`` runs the
    executable on random inputs and on ``verify_inputs`` and compares with onnxruntime; it is on by
    default for targets that run here, as is ``timed``, which measures the latency of the plan and
    of each lane alone. Kernels with a record in the folder ``tuning_records`` are scheduled as it
    says. With no ``output`` the executable goes to a temporary folder that is gone at
    the end.

    ``gpu_dtype`` and ``cpu_dtype`` are the types in which the lanes keep tensors and weights; the
    model's inputs and outputs stay float32. ``tolerance`` is 1e-4, or 2e-2 where a lane has float16,
    unless it is given.

    Raises ModelError, InputError, TargetError, PlanError, RuleError, BuildError, and
    VerificationError where a relative error is above ``tolerance``; nothing is written then.
    """
    folder = None if output is None else Path(output)
    device = target if isinstance(target, Target) else load_target(target)
    types = LaneTypes(cpu=cpu_dtype, gpu=gpu_dtype)
    check_types(types, device)
    if tolerance is None:
        tolerance = HALF_TOLERANCE if types.half else TOLERANCE
    job = _Job(Path(model), device, types, report)
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
    with job.stage("regions"):
        graph = RegionGraph(imported.mod, job.target.channel_step)
        space = decision_space(graph, types)
        if plan is not None:
            space.match(plan)  # a wrong plan fails here, not after "measure"
    with job.stage("measure"):
        table, costs = job.knowledge(graph, space, lanes, cost_model)
    with job.stage("plan"):
        if plan is not None or split_all:
            choice = choose_fixed(space, costs, table, plan, cost_mode, sync_us)
        else:
            state = StateFile(Path(search_state), job.target.name) if search_state else None
            choice = choose(
                *(space, costs, table, strategy, budget, seed, lanes, cost_mode, sync_us, state)
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
            with job.stage("verify"):
                executable = Executable(aside, manifest)
                inputs = [executable.random_inputs(seed), *verify_inputs]
                result.deviation = compare_with_onnxruntime(executable, imported, inputs)
                result.deviation.check(tolerance)
        if on_host and timed is not False:
            with job.stage("time"):
                executable = executable or Executable(aside, manifest)
                timelines["measured"] = job.time(imported, result, space, lanes, executable)
        job.finish(aside, manifest, timelines)
    return result


class _Job:
    """One compile: what its stages share, and how long each took."""

    def __init__(self, model: Path, target: Target, types: LaneTypes, report: Report) -> None:
        self.model = model
        self.target = target
        self.types = types
        self.report = report
        self.seconds: dict[str, float] = {}
        self.records: TuningRecords | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report the stage and note how long it took."""
        self.report(name, "")
        start = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def knowledge(
        self, graph: RegionGraph, space: Space, lanes: Lanes, given: CostModel | None
    ) -> tuple[CostModel, TargetCosts]:
        """The cost model, where it is not ``given``, and the other costs: measured on ``host``, else
        from the target."""
        if given is not None:
            return given, self.target.costs
        if not self.target.is_host:
            return Roofline(self.target), transfer_costs(self.types, self.target)
        used: tuple[Lane, ...] = LANES if lanes == "both" else (lanes,)
        table = measured_table(
            graph,
            space,
            self.target,
            used,
            lambda text: self.report("measure", text),
            types=self.types,
            records=self.records,
        )
        costs = measured_costs(self.target) if "gpu" in used else self.target.costs
        return table, transfer_costs(self.types, self.target, costs)

    def build(
        self, imported: ImportedModel, graph: RegionGraph, choice: Choice, folder: Path
    ) -> Manifest:
        """Write model.so and plan.json into ``folder``; the manifest still lacks the digests."""
        try:
            executable = build(
                apply_plan(graph, choice.plan), self.target, self.types, self.records
            )
        except SyncNASError:
            raise
        except Exception as error:
            raise BuildError(
                f"TVM cannot build {self.model.name} for target '{self.target.name}': "
                f"{error_line(error)}; --debug shows where"
            ) from error
        export_library(executable, self.target, folder / artifact.MODEL)
        artifact.write_json(folder / artifact.PLAN, choice.plan.to_json())
        config = self.target.cpu_config()
        return Manifest(
            target=self.target.name,
            machine=str(config["mtriple"]),
            cpu=str(config.get("mcpu", "")),
            runs_on_host=self.target.is_host,
            lanes=lanes_of(choice.candidates),
            syncs=count_syncs(choice.candidates),
            inputs=imported.inputs,
            outputs=imported.outputs,
            versions=artifact.versions(),
            files={},
            types={lane: self.types.of(lane) for lane in LANES},
            cpus=self.target.cpus,
            cpu_threads=self.target.cpu_threads,
        )

    def time(
        self,
        imported: ImportedModel,
        result: CompileResult,
        space: Space,
        lanes: Lanes,
        chosen: Executable,
    ) -> Timeline:
        """Measure the plan, each lane alone and the best plan on both, runs interleaved.

        Returns the plan's measured timeline.
        """
        choice = result.choice
        name: str = choice.lane or "both"
        rivals: dict[str, tuple[Candidate, ...]] = {}
        if lanes == "both":
            rivals = {lane: single_lane(space, lane) for lane in LANES if lane in choice.latency_us}
            rivals["both"] = choice.split
        running = {name: chosen}
        with tempfile.TemporaryDirectory(prefix="syncnas-") as scratch:
            for key, candidates in rivals.items():
                if key == name or not candidates:
                    continue
                self.report(
                    "time", "the best plan on both lanes" if key == "both" else f"{key} lane alone"
                )
                rival = replace(choice, plan=plan_of(candidates), candidates=candidates)
                where = Path(scratch) / key
                where.mkdir()
                running[key] = Executable(where, self.build(imported, result.graph, rival, where))
            inputs = chosen.random_inputs()
            samples: dict[str, list[float]] = {key: [] for key in running}
            for _ in range(TIMED_ROUNDS):
                for key, executable in running.items():
                    samples[key] += executable.time(inputs, repeat=RUNS_A_ROUND, warmup=1)
        for key, latencies_us in samples.items():
            result.latency_us[key].measured = float(np.median(latencies_us))
        return chosen.profile(inputs)

    def finish(self, folder: Path, manifest: Manifest, timelines: dict[str, Timeline]) -> None:
        """Write timeline.json and manifest.json: the folder is complete."""
        data = {name: timeline.to_json() for name, timeline in timelines.items()}
        artifact.write_json(folder / artifact.TIMELINE, data)
        files = {name: artifact.digest(folder / name) for name in artifact.FILES}
        artifact.write_json(folder / artifact.MANIFEST, replace(manifest, files=files).to_json())


def lanes_of(candidates: Sequence[Candidate]) -> tuple[Lane, ...]:
    """The lanes that run any kernel of the plan."""
    return tuple(lane for lane in LANES if any(c.work.kernels(lane) for c in candidates))


@contextmanager
def _folder_for(output: Path | None) -> Iterator[Path]:
    """The folder to write to: aside of ``output``, or one that is gone afterwards."""
    if output is not None:
        with artifact.written_aside(output) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="syncnas-") as name:
            yield Path(name)
