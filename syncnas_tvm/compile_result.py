"""What a compile did: plan, predicted and measured latencies, deviation from the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncnas_tvm.fallback import Fallback
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.memory import LaneMemory, lane_memory
from syncnas_tvm.plan import Plan
from syncnas_tvm.planner import Choice
from syncnas_tvm.syncs import count_syncs
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning import TuningRecords
from syncnas_tvm.verify import Deviation
from syncnas_tvm.work import LANES, Lane


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

    def memory(self, lane: Lane) -> LaneMemory:
        """What the plan makes ``lane`` hold, an estimate."""
        works = (candidate.work for candidate in self.choice.candidates)
        return lane_memory(works, lane)

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
            "memory_bytes": {lane: vars(self.memory(lane)) for lane in LANES},
            "latency_us": {name: vars(latency) for name, latency in self.latency_us.items()},
            "fallbacks": [vars(fallback) for fallback in self.fallbacks],
            "tuning": None if self.tuning is None else self.tuning.to_json(),
            "max_abs_error": self.deviation.max_abs if self.deviation else None,
            "max_rel_error": self.deviation.max_rel if self.deviation else None,
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
        }
