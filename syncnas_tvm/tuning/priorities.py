"""Which kernel is worth measuring next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist, pstdev

import numpy as np

from syncnas_tvm.additive import Additive
from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.planner import Budget, Candidate, Space, single_lane, strategy
from syncnas_tvm.targets import TargetCosts
from syncnas_tvm.work import LANES, Kernel, Lane

DRAWS = 8
"""Plans that are made with latencies drawn at random from what is known of them."""
OUTSIDE = 1e-3
"""Weight of a kernel that is in none of these plans."""
PRIOR_SPREAD = 0.15
"""Standard deviation of the log latencies of a kernel's tilings, before any was measured."""
PLAN_BUDGET = Budget(seconds=2.0)


@dataclass(frozen=True)
class Progress:
    """What was measured of a kernel: so many of its ``candidates`` (0: not known yet), and the spread
    of their log latencies."""

    measured: int = 0
    candidates: int = 0
    spread: float = PRIOR_SPREAD

    @staticmethod
    def of(seconds: Sequence[float], tried: int, candidates: int) -> Progress:
        """From the latencies of the tilings that could be run, of ``tried`` ones."""
        spread = pstdev([log(s) for s in seconds]) if len(seconds) > 2 else PRIOR_SPREAD
        return Progress(tried, candidates, spread)

    def gain(self, more: int) -> float:
        """By which share the fastest of ``more`` further tilings may be expected to be faster.

        As if log latencies were normal: the expected least of n values is about the 1 / (n + 1) quantile.
        """
        left = self.candidates - self.measured if self.candidates else more
        if left <= 0:
            return 0.0
        n = self.measured + min(more, left)
        before, after = (NormalDist().inv_cdf(1 / (k + 1)) for k in (max(self.measured, 1), n))
        return 1 - exp(self.spread * (after - before))


def expected_shares(
    space: Space,
    costs: TargetCosts,
    model: CostModel,
    kernels: Sequence[Kernel],
    lanes: Sequence[Lane],
    seed: int,
) -> tuple[dict[Kernel, float], float]:
    """Each kernel's expected share of the predicted latency, and that latency in microseconds.

    ``kernels`` are all of the space's; on one lane alone there is nothing to plan.
    The best plan is made several times, with latencies drawn from the model's predictions and their
    standard deviations (Thompson sampling: W. R. Thompson, Biometrika 25, 1933), once with the predicted
    ones: a kernel counts as often as plans have it, for what it takes of them.
    """
    latency_us, std_us = model.predict(kernels)
    relative = std_us / np.maximum(latency_us, 1e-9)
    rng = np.random.default_rng(seed)
    shares: Counter[Kernel] = Counter()
    best_us = 0.0
    for draw in range(DRAWS):
        drawn = latency_us * np.exp(relative * rng.standard_normal(len(kernels)) * (draw > 0))
        table = dict(zip(kernels, drawn.tolist(), strict=True))
        plan, plan_us = _best_plan(space, costs, table, lanes)
        best_us = best_us or plan_us
        for kernel, count in _counts(plan).items():
            shares[kernel] += count * table[kernel] / plan_us / DRAWS
    return dict(shares), best_us


def priorities(
    shares: Mapping[Kernel, float],
    model: CostModel,
    progress: Mapping[Kernel, Progress],
    kernels: Sequence[Kernel],
    batch: int,
) -> dict[Kernel, float]:
    """Expected share of the predicted latency times uncertainty: what a prediction may be wrong by,
    and what other tilings may gain, both relative."""
    latency_us, std_us = model.predict(kernels)
    total_us = max(float(latency_us.sum()), 1e-9)
    found = {}
    for kernel, us, std in zip(kernels, latency_us.tolist(), std_us.tolist(), strict=True):
        here = progress.get(kernel, Progress())
        gain = here.gain(batch)
        unsure = std / max(us, 1e-9) if here.measured == 0 else 0.0
        share = shares.get(kernel, 0.0) + OUTSIDE * us / total_us
        found[kernel] = share * sqrt(unsure**2 + gain**2)
    return found


def _best_plan(
    space: Space, costs: TargetCosts, table: dict[Kernel, float], lanes: Sequence[Lane]
) -> tuple[tuple[Candidate, ...], float]:
    scorer = Additive(costs, table)
    if len(lanes) == 1:
        plan = single_lane(space, lanes[0])
        return plan, scorer.score(plan)
    found = strategy("dp", 0).run(space, scorer, PLAN_BUDGET)
    return found.candidates, found.score_us


def _counts(plan: Iterable[Candidate]) -> Counter[Kernel]:
    return Counter(
        kernel
        for candidate in plan
        for phase in candidate.work.phases
        for lane in LANES
        for kernel in phase.kernels(lane)
    )
