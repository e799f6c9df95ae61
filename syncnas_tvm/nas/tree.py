"""Monte Carlo tree search over sync strategies: asked for one, told rewards, in any order."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf, log, sqrt

from syncnas_tvm.nas.branched import Sync
from syncnas_tvm.nas.strategy import KINDS, SyncStrategy

EXPLORATION = 0.7
"""UCT's constant, on the scale of the rewards seen. Chosen with ``benchmarks/strategy_search.py`` and
a second, irregular landscape; from 0.6 to 0.9 the search is as fast on both."""
RAVE = 12.0
"""After so many visits a node's own mean counts as much as what its decision was worth elsewhere."""


@dataclass
class _Node:
    """The strategies that begin with the same decisions.

    ``open`` counts those that were neither evaluated nor are being evaluated; where none is left, the
    node is exhausted and is not entered again.
    """

    open: int
    visits: int = 0
    total: float = 0.0
    best: float = -inf
    running: int = 0
    children: dict[Sync, _Node] = field(default_factory=dict)


class StrategyTree:
    """UCT (Kocsis and Szepesvari, ECML 2006) with a level per stage, over all strategies.

    The planner's tree (``syncnas_tvm.planner.mcts``) adds up costs decision by decision; a strategy has
    one reward, known when it has been trained. So what is shared is the search's form: exploration on
    the scale of the rewards seen, the best and the mean in halves, exhausted subtrees closed. Two
    things are added. A running evaluation counts as a visit with the worst reward seen at each node
    above it ("virtual loss": Chaslot, Winands and van den Herik, "Parallel Monte-Carlo Tree Search", CG
    2008), so that many workers may ask at once. And a decision that was little tried here is judged by
    what it was worth in all strategies (Gelly and Silver, "Monte-Carlo tree search and rapid action
    value estimation in computer Go", Artificial Intelligence 175, 2011).
    """

    def __init__(self, stages: int, seed: int = 0, exploration: float = EXPLORATION) -> None:
        self.stages, self.exploration = stages, exploration
        self._rng = random.Random(seed)
        self._root = _Node(self._leaves(0))
        self._known: dict[SyncStrategy, float | None] = {}
        self._low, self._high = inf, -inf
        self._elsewhere: dict[tuple[int, Sync], list[float]] = defaultdict(lambda: [0.0, 0.0])

    @property
    def exhausted(self) -> bool:
        """Whether every strategy was evaluated or is being evaluated."""
        return self._root.open == 0

    def __len__(self) -> int:
        return sum(reward is not None for reward in self._known.values())

    def start(self, strategy: SyncStrategy) -> None:
        """An evaluation of ``strategy`` has begun; until it ends it is not suggested again."""
        if strategy in self._known:
            return
        self._known[strategy] = None
        for node in self._path(strategy):
            node.open -= 1
            node.running += 1

    def tell(self, strategy: SyncStrategy, reward: float) -> None:
        """Back up a finished evaluation; a second reward of the same strategy is ignored."""
        if self._known.get(strategy) is not None:
            return
        self.start(strategy)
        self._known[strategy] = reward
        self._low, self._high = min(self._low, reward), max(self._high, reward)
        for node in self._path(strategy):
            node.running -= 1
            node.visits += 1
            node.total += reward
            node.best = max(node.best, reward)
        for stage, kind in enumerate(strategy.kinds):
            sums = self._elsewhere[stage, kind]
            sums[0] += reward
            sums[1] += 1

    def ask(self) -> SyncStrategy | None:
        """The strategy to evaluate next, which is not marked as running yet; None where none is left."""
        if self.exhausted:
            return None
        node, kinds = self._root, list[Sync]()
        while len(kinds) < self.stages:
            choices = [k for k in self._kinds(len(kinds)) if self._child(node, len(kinds), k).open]
            self._rng.shuffle(choices)
            kind = max(choices, key=lambda k: self._bound(node, len(kinds), k))
            kinds.append(kind)
            node = node.children[kind]
        return SyncStrategy(tuple(kinds))

    def _bound(self, node: _Node, stage: int, kind: Sync) -> float:
        """The upper confidence bound of a decision at ``node``."""
        child = node.children[kind]
        scale = self._high - self._low if self._high > self._low else 1.0
        low = self._low if self._low < inf else 0.0
        visits = child.visits + child.running
        total, count = self._elsewhere[stage, kind]
        elsewhere = total / count if count else self._high if self._high > -inf else 0.0
        if not visits:
            value = elsewhere
        else:
            mean = (child.total + child.running * low) / visits
            own = 0.5 * (max(child.best, low) + mean)
            share = visits / (visits + RAVE)
            value = share * own + (1 - share) * elsewhere
        tried = log(node.visits + node.running + 1)
        return (value - low) / scale + self.exploration * sqrt(tried / (visits + 1))

    def _child(self, node: _Node, stage: int, kind: Sync) -> _Node:
        if kind not in node.children:
            node.children[kind] = _Node(self._leaves(stage + 1))
        return node.children[kind]

    def _path(self, strategy: SyncStrategy) -> Iterator[_Node]:
        node = self._root
        yield node
        for stage, kind in enumerate(strategy.kinds):
            node = self._child(node, stage, kind)
            yield node

    def _kinds(self, stage: int) -> tuple[Sync, ...]:
        return KINDS if stage == self.stages - 1 else ("n", *KINDS)

    def _leaves(self, stage: int) -> int:
        """How many strategies share the decisions before ``stage``."""
        return 1 if stage >= self.stages else 2 * 3 ** (self.stages - 1 - stage)


def rebuilt(
    stages: int,
    seed: int,
    finished: Iterable[tuple[SyncStrategy, float]],
    running: Iterable[SyncStrategy] = (),
) -> StrategyTree:
    """The tree that knows these rewards and running evaluations."""
    tree = StrategyTree(stages, seed)
    for strategy, reward in finished:
        tree.tell(strategy, reward)
    for strategy in running:
        tree.start(strategy)
    return tree
