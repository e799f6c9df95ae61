"""How wide both branches of a strategy are, so that they meet at every sync and fit the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.errors import InputError
from syncnas_tvm.nas.branched import BranchedConfig, branched
from syncnas_tvm.nas.description import Network
from syncnas_tvm.nas.kernels import block_kernels, join_kernels
from syncnas_tvm.nas.ladders import Ladders, Whole
from syncnas_tvm.nas.lanes import base_work, branched_work
from syncnas_tvm.nas.segments import Ends, Segment
from syncnas_tvm.nas.strategy import SyncStrategy
from syncnas_tvm.planner import Candidate
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.targets import Target
from syncnas_tvm.timeline import Timeline
from syncnas_tvm.work import LANES, Kernel, Lane

CAP = 1.25
"""No block of a branch is wider than this many times the base's."""
BISECTIONS = 24
TRIES, USED, MARGIN = 10, 0.995, 0.0005
"""How often the budget of the segments is corrected, what share of the whole budget is enough, and the
share that is left free at first where a correction was too small."""
Rungs = list[tuple[Whole, Whole]]


@dataclass(frozen=True)
class Allocation:
    """What was found for a strategy. ``config`` is None where the budget cannot be met.

    ``latency_us`` is predicted with all syncs; where the budget cannot be met it is the least that
    there is. ``meetings`` say when both lanes are done, per segment, counted from its start.
    """

    strategy: SyncStrategy
    budget_us: float
    latency_us: float
    config: BranchedConfig | None = None
    meetings: tuple[Ends, ...] = ()
    timeline: Timeline | None = None

    @property
    def feasible(self) -> bool:
        """Whether the strategy fits the budget."""
        return self.config is not None

    @property
    def idle_share(self) -> float:
        """The share of both lanes' time between fork and last sync that one waits for the other."""
        total = sum(2 * m.us for m in self.meetings)
        return sum(abs(m.cpu_us - m.gpu_us) for m in self.meetings) / total if total else 0.0


class Allocator:
    """Determines widths for one base network and target; times of all widths are predicted once.

    Between two syncs, a branch's blocks keep the base's proportions, and segments keep the base's
    shares of time: one number, a time per microsecond of the base, decides everything, and the
    largest that fits the budget is found by bisection. The rest of the budget is spent block by
    block, the narrowest first, wherever a lane would wait.

    ``step``: widths are its multiples; ``cap``: see :data:`CAP`; ``whole``: the network whose latency
    budgets are shares of, where the base is a narrower one of it. Raises ConfigError where the base
    cannot be branched.
    """

    def __init__(
        self,
        base: Network,
        target: Target,
        model: CostModel,
        *,
        size: int = 224,
        classes: int = 1000,
        step: int = 4,
        cap: float = CAP,
        whole: Network | None = None,
    ) -> None:
        if step < 1 or cap <= 0:
            raise InputError(f"step {step} and cap {cap:g} have to be above zero")
        self.base, self.target, self.model = base, target, model
        self.whole = whole or base
        self.size, self.classes = size, classes
        self.ladders = Ladders(base, model, size=size, step=step, cap=cap)
        self._known: dict[Kernel, float] = dict(self.ladders.known)
        self._segments: dict[tuple[tuple[tuple[int, int], ...], str], Segment] = {}
        self._ends: dict[str, tuple[Lane, Lane]] = {}

    @cached_property
    def base_us(self) -> float:
        """The whole base's best predicted latency on one lane, in microseconds."""
        return min(self.lane_us.values())

    @cached_property
    def lane_us(self) -> dict[Lane, float]:
        """The whole base's predicted latency on each lane alone."""
        return self._lane_us(self.whole)

    def time_base(self, network: Network) -> float:
        """The best predicted latency, in microseconds, on one lane, of any network without branches."""
        return min(self._lane_us(network).values())

    def _lane_us(self, network: Network) -> dict[Lane, float]:
        return {
            lane: self._score(base_work(network, lane, self.size, self.classes)) for lane in LANES
        }

    def allocate(self, strategy: SyncStrategy, budget: float = 1.0) -> Allocation:
        """Widths for ``strategy`` with ``budget`` times the base's latency; takes milliseconds.

        Raises InputError where the strategy has another number of stages than the base.
        """
        if len(strategy.kinds) != len(self.base.stages):
            raise InputError(
                f"strategy '{strategy}' is for {len(strategy.kinds)} stages,"
                f" '{self.base.name}' has {len(self.base.stages)}"
            )
        budget_us = budget * self.base_us
        segments = self._cut(strategy)
        least: Rungs = [(s.rungs[0], s.rungs[0]) for s in segments]
        least_us, _ = self._build(strategy, segments, least)
        if least_us > budget_us:
            return Allocation(strategy, budget_us, least_us)
        rungs, found_us, work = self._widest(strategy, segments, least, least_us, budget_us)
        return Allocation(
            strategy,
            budget_us,
            found_us,
            self._config(strategy, segments, rungs),
            tuple(s.ends(*r) for s, r in zip(segments, rungs, strict=True)),
            self._simulator(work).timeline([work]),
        )

    def _widest(
        self,
        strategy: SyncStrategy,
        segments: Sequence[Segment],
        least: Rungs,
        least_us: float,
        budget_us: float,
    ) -> tuple[Rungs, float, Candidate]:
        """The widest rungs found that fit the budget, what they take, and their work.

        The whole takes longer than its segments, and not always by as much: what is over the budget is
        taken off from what the segments may take, or what is left added, within the bounds that
        earlier tries have shown.
        """
        low_us = sum(s.ends(*r).us for s, r in zip(segments, least, strict=True))
        allowed_us, high_us = budget_us - (least_us - low_us), 2 * budget_us
        found = (least, *self._build(strategy, segments, least))
        margin_us = MARGIN * budget_us
        for _ in range(TRIES):
            rungs = self._fill(segments, allowed_us)
            us, work = self._build(strategy, segments, rungs)
            if us <= budget_us:
                low_us = allowed_us
                if us > found[1]:
                    found = (rungs, us, work)
                if us >= USED * budget_us:
                    break
                allowed_us += budget_us - us
            else:
                high_us = allowed_us
                allowed_us -= us - budget_us + margin_us
                margin_us *= 2  # widths are steps: a little less may change nothing
            if not low_us < allowed_us < high_us:
                allowed_us = (low_us + high_us) / 2
        return found

    def time(self, config: BranchedConfig) -> Timeline:
        """The predicted timeline of any branched configuration of the base."""
        stem, head = self._lanes(config)
        work = branched_work(config, self.base, stem, head, self.classes)
        return self._simulator(work).timeline([work])

    def _cut(self, strategy: SyncStrategy) -> list[Segment]:
        """The strategy's segments; each depends on its own stages and the sync before it."""
        segments: list[Segment] = []
        stages: list[tuple[int, int]] = []
        before = ""
        for stage, kind in enumerate(strategy.kinds):
            half = 1 if kind == "c" else 0
            if half and len(self.ladders.stages[stage]) < 2:
                raise InputError(
                    f"stage {stage} of '{self.base.name}' has no halves to concatenate"
                )
            stages.append((stage, half))
            if kind == "n":
                continue
            key = tuple(stages), before
            if key not in self._segments:
                join_us = self._join_us(stages[0][0], before)
                self._segments[key] = Segment(self.ladders, key[0], self.target.costs, join_us)
            segments.append(self._segments[key])
            stages, before = [], kind
        return segments

    def _join_us(self, stage: int, kind: str) -> tuple[float, float]:
        if not kind:
            return 0.0, 0.0
        shape = self.base.shapes(self.size)[stage][0]
        value = (1, shape.inputs, shape.size, shape.size)
        us = [self._us(join_kernels(value, kind, lane)) for lane in LANES]
        return us[0], us[1]

    def _fill(self, segments: Sequence[Segment], allowed_us: float) -> Rungs:
        """The widest rungs with which the segments take at most ``allowed_us``."""
        shares = [self._base_us(s) for s in segments]
        low, high = 0.0, 2.0 * allowed_us / sum(shares) + 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            rungs = [s.within(middle * us) for s, us in zip(segments, shares, strict=True)]
            total = sum(s.ends(*r).us for s, r in zip(segments, rungs, strict=True))
            low, high = (middle, high) if total <= allowed_us else (low, middle)
        rungs = [s.within(low * us) for s, us in zip(segments, shares, strict=True)]
        total = sum(s.ends(*r).us for s, r in zip(segments, rungs, strict=True))
        left_us = allowed_us - total
        for i, (segment, us) in enumerate(zip(segments, shares, strict=True)):
            limit = segment.ends(*rungs[i]).us + max(0.0, left_us) * us / sum(shares)
            rungs[i] = _spend(segment, *rungs[i], limit)
        return rungs

    def _base_us(self, segment: Segment) -> float:
        """What the base takes for the segment's stages on its best lane."""
        if segment not in self._shares:
            lane = min(self.lane_us, key=self.lane_us.__getitem__)
            shapes = self.base.shapes(self.size)
            self._shares[segment] = sum(
                self._us(block_kernels(shape, lane))
                for s, _ in segment.stages
                for shape in shapes[s]
            )
        return self._shares[segment]

    @cached_property
    def _shares(self) -> dict[Segment, float]:
        return {}

    def _build(
        self, strategy: SyncStrategy, segments: Sequence[Segment], rungs: Rungs
    ) -> tuple[float, Candidate]:
        config = self._config(strategy, segments, rungs)
        stem, head = self._lanes(config)
        work = branched_work(config, self.base, stem, head, self.classes)
        return self._score(work), work

    def _config(
        self, strategy: SyncStrategy, segments: Sequence[Segment], rungs: Rungs
    ) -> BranchedConfig:
        flat: list[list[int]] = [[], []]
        for segment, both in zip(segments, rungs, strict=True):
            for branch in (0, 1):
                flat[branch] += segment.widths(both[branch])
        widths, at = [], 0
        for stage in self.base.stages:
            end = at + len(stage)
            widths.append((tuple(flat[0][at:end]), tuple(flat[1][at:end])))
            at = end
        return branched(self.base, strategy.kinds, tuple(widths), str(strategy), self.size)

    def _lanes(self, config: BranchedConfig) -> tuple[Lane, Lane]:
        """The lanes of stem and head with which the model is fastest."""
        last = config.sync[-1]
        if last not in self._ends:
            choices: list[tuple[Lane, Lane]] = [(stem, head) for stem in LANES for head in LANES]
            self._ends[last] = min(
                choices,
                key=lambda ends: self._score(
                    branched_work(config, self.base, ends[0], ends[1], self.classes)
                ),
            )
        return self._ends[last]

    def _score(self, work: Candidate) -> float:
        return self._simulator(work).score([work])

    def _simulator(self, work: Candidate) -> Simulator:
        """Times whole networks. Kernels are predicted without those of any other: a cost model keeps
        all that it is asked for at once in order, and a base must not depend on what it is cut to."""
        joins = [k for phase in work.work.phases for k in phase.output.join]
        both = [join_kernels(j.out_shape, "c" if j.op == "concat" else "a", lane)  # type: ignore[arg-type]
                for j in joins for lane in LANES]  # fmt: skip
        kernels = [k for lane in LANES for k in work.work.kernels(lane)]
        known = self.model.table([*kernels, *(k for join in both for k in join)])
        return Simulator(self.target.costs, known)

    def _us(self, kernels: Sequence[Kernel]) -> float:
        new = [k for k in kernels if k not in self._known]
        if new:
            self._known.update(self.model.table(new))
        return sum(self._known[k] for k in kernels)


def _spend(segment: Segment, cpu: Whole, gpu: Whole, limit_us: float) -> tuple[Whole, Whole]:
    """Widen blocks one step at a time, the narrowest first, while both lanes stay in the limit."""
    rungs = [cpu.copy(), gpu.copy()]
    for branch in (1, 0):
        open_ = np.array(
            [r < len(b.widths) - 1 for b, r in zip(segment.blocks, rungs[branch], strict=True)]
        )
        while open_.any():
            ratio = [
                (b.widths[r] / b.base if free else np.inf)
                for b, r, free in zip(segment.blocks, rungs[branch], open_, strict=True)
            ]
            block = int(np.argmin(ratio))
            rungs[branch][block] += 1
            if segment.ends(rungs[0], rungs[1]).us > limit_us:
                rungs[branch][block] -= 1
                open_[block] = False
            elif rungs[branch][block] == len(segment.blocks[block].widths) - 1:
                open_[block] = False
    return rungs[0], rungs[1]
