"""Which tilings are measured next: the rule's own first, then those that the cost model likes best."""

from __future__ import annotations

import random
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate, PySearchStrategy

from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import TuningSpace

# Every eighth candidate is a random one, lest the cost model never sees what it does not like.
EXPLORED = 8


@derived_object
class RankedTilings(PySearchStrategy):
    """A MetaSchedule search strategy for spaces of a few dozen candidates.

    MetaSchedule's evolutionary search measures again what the database has from an earlier run, takes
    no candidate that is to be measured first, and gives traces other decisions, which would break
    the register limit that joins the numbers of a tiling. All candidates are known here: its cost
    model (XGBoost) ranks those that are left.
    """

    def __init__(self, space: TuningSpace, left: list[Tiling], seed: int) -> None:
        super().__init__()
        self._space = space
        self._rng = random.Random(seed)
        own = [tiling for tiling in left if tiling == space.tilings[0]]
        others = [tiling for tiling in left if tiling != space.tilings[0]]
        self._rng.shuffle(others)
        self._left = [*own, *others]
        self._known = not own
        self._trials = self._batch = 0
        self._context: Any = None
        self._model: Any = None

    def _initialize_with_tune_context(self, context: Any) -> None:
        self._context = context

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: list[Any],
        database: Any = None,
        cost_model: Any = None,
    ) -> None:
        """Remember the limits and the cost model."""
        self._trials, self._batch, self._model = max_trials, num_trials_per_iter, cost_model

    def post_tuning(self) -> None:
        """Nothing is kept."""

    def generate_measure_candidates(self) -> list[MeasureCandidate] | None:
        """The next batch; None at the end."""
        count = min(self._batch, self._trials, len(self._left))
        if count == 0:
            return None
        if self._known:
            self._rank()
        chosen, self._left = self._left[:count], self._left[count:]
        self._trials -= count
        self._known = True
        return [self._candidate(tiling) for tiling in chosen]

    def notify_runner_results(self, measure_candidates: list[Any], results: list[Any]) -> None:
        """The cost model is told by a callback of MetaSchedule's own."""

    def clone(self) -> RankedTilings:
        """A strategy for the same candidates."""
        return RankedTilings(self._space, list(self._left), self._rng.randrange(1 << 30))

    def _rank(self) -> None:
        scores = self._model.predict(self._context, [self._candidate(t) for t in self._left])
        order = sorted(range(len(self._left)), key=lambda i: -float(scores[i]))
        ranked = [self._left[i] for i in order]
        for at in range(EXPLORED - 1, len(ranked), EXPLORED):
            ranked.insert(at, ranked.pop(self._rng.randrange(at, len(ranked))))
        self._left = ranked

    def _candidate(self, tiling: Tiling) -> MeasureCandidate:
        function = self._space.workload["main"]
        return MeasureCandidate(self._space.traced(tiling), ArgInfo.from_prim_func(function))
