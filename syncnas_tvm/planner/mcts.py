"""Monte Carlo tree search over plans: one decision per level, along the model's regions."""

from __future__ import annotations

import math
import random

from syncnas_tvm.planner import fixed
from syncnas_tvm.planner.base import Strategy, Trial, register_strategy
from syncnas_tvm.planner.greedy import improve, runs
from syncnas_tvm.planner.space import Candidate, Space

EXPLORATION = 0.7
"""UCT's constant; rewards are scaled to the range seen, so it does not depend on the model."""
FOLLOW_BEST, FOLLOW_LAST = 0.6, 0.25
"""Rollouts: how often a decision is the best plan's, or the same as the one before it."""


class _Node:
    """A prefix of a plan. ``done``: every plan that begins with it has been tried."""

    __slots__ = ("best", "children", "done", "position", "total", "untried", "visits")

    def __init__(self, position: int, choices: int) -> None:
        self.position = position
        self.untried = list(range(choices))
        self.children: dict[int, _Node] = {}
        self.visits, self.total, self.best = 0, 0.0, 0.0
        self.done = False


@register_strategy
class MCTS(Strategy):
    """UCT (Kocsis and Szepesvari, "Bandit based Monte-Carlo Planning", ECML 2006) for one player.

    The reward of a plan is the better single lane's latency over the plan's; a node is worth
    the mean of its rewards and their maximum, half each, for it is the best plan that counts.
    Rollouts follow the best plan so far, or the decision before, or chance. The best simple plan is
    improved by local search first: the tree search then looks for what that cannot reach.
    """

    name = "mcts"

    def search(self, space: Space, trial: Trial) -> None:
        """See :meth:`Strategy.search`."""
        rng = random.Random(self.seed)
        trial(fixed.split_all(space, trial))
        improve(space, trial, trial.best, list(runs(space)), rng)
        root = self._node(space, 0)
        self._low, self._high = 1.0, 1.0
        while not root.done:
            self._iterate(space, trial, root, rng)
        trial.complete = True

    @staticmethod
    def _node(space: Space, position: int) -> _Node:
        return _Node(position, len(space.candidates[position]) if position < len(space) else 0)

    def _iterate(self, space: Space, trial: Trial, root: _Node, rng: random.Random) -> None:
        """Select and expand one node, roll out a plan from it, and note its reward above."""
        node, path, plan = root, [root], list[Candidate]()
        while node.position < len(space):
            here = space.candidates[node.position]
            fresh = bool(node.untried)
            index = (
                node.untried.pop(rng.randrange(len(node.untried))) if fresh else self._select(node)
            )
            if fresh:
                node.children[index] = self._node(space, node.position + here[index].span)
            plan.append(here[index])
            node = node.children[index]
            path.append(node)
            if fresh:
                break
        node.done = node.position == len(space)
        self._roll_out(space, trial, plan, node.position, rng)
        reward = trial.single_us / max(trial(plan), 1e-9)
        self._low, self._high = min(self._low, reward), max(self._high, reward)
        for above in reversed(path):
            above.visits += 1
            above.total += reward
            above.best = max(above.best, reward)
            if above.children and not above.untried:
                above.done = all(child.done for child in above.children.values())

    def _select(self, node: _Node) -> int:
        """The child with the highest upper confidence bound among those not done."""
        scale = EXPLORATION * ((self._high - self._low) or 1.0)
        log_visits = math.log(node.visits)

        def bound(index: int) -> float:
            child = node.children[index]
            value = 0.5 * (child.total / child.visits + child.best)
            return value + scale * math.sqrt(log_visits / child.visits)

        return max((i for i, child in node.children.items() if not child.done), key=bound)

    @staticmethod
    def _roll_out(
        space: Space, trial: Trial, plan: list[Candidate], position: int, rng: random.Random
    ) -> None:
        """Complete ``plan`` from ``position`` on."""
        best: dict[int, Candidate] = {}
        start = 0
        for candidate in trial.best:
            best[start] = candidate
            start += candidate.span
        while position < len(space):
            here, choice = space.candidates[position], rng.random()
            wanted = best.get(position) if choice < FOLLOW_BEST else None
            if wanted is None and plan and choice < FOLLOW_BEST + FOLLOW_LAST:
                label = plan[-1].label
                wanted = next((c for c in here if c.label == label), None)
            plan.append(wanted or rng.choice(here))
            position += plan[-1].span
