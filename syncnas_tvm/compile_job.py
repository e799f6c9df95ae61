"""The stages of one compile, from what is known about the target to the finished folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from syncnas_tvm import artifact
from syncnas_tvm.artifact import Manifest
from syncnas_tvm.compile_result import CompileResult
from syncnas_tvm.cost_models import CostModel, cost_model_of
from syncnas_tvm.cost_models.tuned import tuned_model, tuned_samples
from syncnas_tvm.errors import BuildError, SyncNASError, error_line
from syncnas_tvm.frontend import ImportedModel
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.half import transfer_costs
from syncnas_tvm.host_costs import HostKernels, measured_costs
from syncnas_tvm.inexact import inexact_decision
from syncnas_tvm.lane_types import LaneTypes
from syncnas_tvm.link import export_library
from syncnas_tvm.lowering import build
from syncnas_tvm.partition_passes import PartitionPasses
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.planner import (
    Candidate,
    Choice,
    Space,
    plan_of,
    single_lane,
)
from syncnas_tvm.planner.cost_mode import kernels_of
from syncnas_tvm.runtime.executable import Executable
from syncnas_tvm.syncs import count_syncs
from syncnas_tvm.targets import Target, TargetCosts
from syncnas_tvm.timeline import Timeline
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.tuning.costs_file import read_costs
from syncnas_tvm.work import LANES, Lane

Lanes = Literal["cpu", "gpu", "both"]
REFINEMENTS = 3
"""How often the best plan's kernels are measured and the plan is made again, at most."""
TIMED_ROUNDS, RUNS_A_ROUND = 5, 4

Report = Callable[[str, str], None]
"""Called with a stage's name when it begins, and with details while it goes on."""


class CompileJob:
    """One compile: what its stages share, and how long each took."""

    def __init__(
        self,
        model: Path,
        target: Target,
        types: LaneTypes,
        passes: PartitionPasses,
        report: Report,
    ) -> None:
        self.model = model
        self.target = target
        self.types = types
        self.passes = passes
        self.report = report
        self.seconds: dict[str, float] = {}
        self.records: TuningRecords | None = None
        self.kernels: HostKernels | None = None

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
        if given is not None or not self.target.is_host:
            model, costs = self._known(given)
            if origin := model.describe(kernels_of(space.all())):
                self.report("measure", origin)
            return model, transfer_costs(self.types, self.target, costs)
        used: tuple[Lane, ...] = LANES if lanes == "both" else (lanes,)
        self.kernels = HostKernels(
            graph,
            self.target,
            used,
            lambda text: self.report("measure", text),
            types=self.types,
            records=self.records,
        )
        self.kernels.measure_space(space)
        costs = measured_costs(self.target) if "gpu" in used else self.target.costs
        return self.kernels.table, transfer_costs(self.types, self.target, costs)

    def _known(self, model: CostModel | None) -> tuple[CostModel, TargetCosts]:
        """The given model, else what follows from what tuning measured, else from the target's files;
        other costs are those that tuning measured, else the target's."""
        costs = None
        if self.records is not None:
            costs = read_costs(self.records.folder, self.target)
            samples = tuned_samples(self.records.folder, self.target)
            if model is None and len(samples):
                model = tuned_model(self.target, samples, self.records.folder)
        if model is None:
            model = cost_model_of(self.target)
        return model, costs or self.target.costs

    def plan(self, decide: Callable[[], Choice]) -> Choice:
        """What ``decide`` gives when the kernels of its best plan are measured, not interpolated.

        Where a measurement changes the best plan, the kernels of the new one are measured too.
        """
        with self.stage("plan"):
            choice = decide()
        for _ in range(REFINEMENTS):
            if self.kernels is None:
                break
            with self.stage("measure"):
                found = self.kernels.measure_plan(choice.split or choice.candidates)
            if not found:
                break
            with self.stage("plan"):
                choice = decide()
        return choice

    def changed(
        self, graph: RegionGraph, space: Space, choice: Choice, score: Callable[[Plan], Choice]
    ) -> Choice:
        """``choice`` after the plan passes, scored again where they changed the plan."""
        plan = self.passes.on_plan(graph, space, choice.plan)
        if plan == choice.plan:
            return choice
        reason = f"{choice.reason}; then changed by partition passes"
        return replace(score(plan), reason=reason, search=choice.search)

    def check(self, result: CompileResult, tolerance: float) -> None:
        """Raise VerificationError where outputs deviate, with the decision at fault, if it is one."""

        def cause() -> str:
            found = inexact_decision(result.graph, result.plan, self.target, tolerance)
            return "" if found is None else _blame(*found)

        if result.deviation is not None:
            result.deviation.check(tolerance, cause)

    def build(
        self, imported: ImportedModel, graph: RegionGraph, choice: Choice, folder: Path
    ) -> Manifest:
        """Write model.so and plan.json into ``folder``; the manifest still lacks the digests."""
        try:
            executable = build(
                apply_plan(graph, choice.plan), self.target, self.types, self.records, self.passes
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
            gpu_weights=self.target.opencl.weights,
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


def _blame(decision: Decision, error: float) -> str:
    regions = ", ".join(decision.regions)
    return (
        f"split rule {decision.rule} on region {regions} is not exact: alone it deviates by "
        f"{error:.2g} relative. Plan it otherwise, or mend the rule"
    )


def lanes_of(candidates: Sequence[Candidate]) -> tuple[Lane, ...]:
    """The lanes that run any kernel of the plan."""
    return tuple(lane for lane in LANES if any(c.work.kernels(lane) for c in candidates))
