"""Monte Carlo tree search over plans: one decision per level, along the model's regions."""

from __future__ import annotations

from collections.abc import Hashable
from math import inf, log, sqrt
from typing import Any

from syncnas_tvm.planner.base import Strategy, register_strategy
from syncnas_tvm.planner.prior import ranking
from syncnas_tvm.planner.runs import Runs
from syncnas_tvm.planner.space import Candidate
from syncnas_tvm.scorer import State

EXPLORATION = 0.4
"""UCT's constant; what is left to pay is scaled to the range seen at each node."""
WIDTH, GROWTH = 2.0, 0.6
"""A node visited n times has at most WIDTH * n ** GROWTH children: the likely ones come first."""
LIKELIEST = 0.5
"""Rollouts: the chance to take the likeliest decision, then the next one, and so on."""
NEAR = 0.5
"""The share of walks that change the best plan in one place, instead of following UCT."""
NEAR_LIKELIEST, NEAR_LONGER = 0.3, 0.8
"""Such a change: its decision as in rollouts, and the chance that the next region is decided alike."""


class _Node:
    """Beginnings of plans with the same future: the region they end at, and the scorer's key.

    ``best`` and ``mean`` are microseconds still to pay from here on, the least known and that of
    all visits. ``order`` are the region's candidates, likely ones first, of which the first
    ``opened`` have been tried from here; ``live`` those with something left to try.
    """

    __slots__ = (
        *("best", "children", "done", "index", "live", "number", "opened", "order", "parent"),
        *("position", "state", "total", "visits", "worst"),
    )

    def __init__(self, position: int, state: State, order: tuple[int, ...]) -> None:
        self.position, self.state, self.order = position, state, order
        self.children: dict[int, _Edge] = {}
        self.live: list[int] = []
        self.opened = self.visits = 0
        self.total = self.worst = 0.0
        self.best = inf
        self.done = False
        self.number = self.parent = self.index = -1


class _Edge:
    """A decision at a node, what it adds to the clock in microseconds, and where it leads."""

    __slots__ = ("child", "us", "visits")

    def __init__(self, us: float, child: _Node, visits: int = 0) -> None:
        self.us, self.child, self.visits = us, child, visits


@register_strategy
class MCTS(Strategy):
    """UCT (Kocsis and Szepesvari, "Bandit based Monte-Carlo Planning", ECML 2006) for one player.

    Beginnings of plans with the same future share a node (Childs, Brodeur and Kocsis,
    "Transpositions and move groups in Monte Carlo tree search", CIG 2008), so a node counts what is
    still to pay and not what was. A decision is worth its own cost and what its child has still to
    pay, half the least and half the mean, on the scale of what was seen at the node. Nodes open
    their decisions one by one in the order of :func:`ranking`, and those at once that lead to where
    all has been tried: they are not visited, and count as single decisions. Rollouts mostly follow the
    order, too. Half of the walks are a local search: the best plan, with one run of regions decided
    otherwise; the nodes learn from these as from rollouts. When the nodes know of a plan that is
    better than the best evaluated, it is evaluated next.
    """

    name = "mcts"

    def begin(self) -> None:
        """See :meth:`Strategy.begin`."""
        self._nodes: list[_Node] = []
        self._table: dict[tuple[int, Hashable], _Node] = {}
        self._order: tuple[tuple[int, ...], ...] = ()
        self._runs = Runs(self.space)
        self._choice = [{c: i for i, c in enumerate(here)} for here in self.space.candidates]

    def step(self) -> bool:
        """One descent and rollout, or one plan put together from what is known."""
        if not self._order:
            self.trial.decided(2 * sum(map(len, self.space.candidates)))
            self._order = ranking(self.space, self.trial.scorer)
            self._root = self._node(0, self.trial.scorer.start)
            self._walk(list(self.trial.best))
        elif self._root.best < self.trial.best_us * (1 - 1e-9) and not self._seen_best:
            self.trial(self._known_best())
            self._seen_best = True
        elif self._root.done:
            self.trial.complete = True
        else:
            self.trial.check()
            self._walk(self._near_best() if self.rng.random() < NEAR else [])
            settled, self._settled = self._settled, 0
            self.trial.decided(settled)
        return not self.trial.complete

    def _walk(self, given: list[Candidate]) -> None:
        """Evaluate a plan from the root to the end: the ``given`` one, or as UCT and rollout say."""
        node, rolling = self._root, False
        path: list[tuple[_Node, int]] = []
        known_us = node.best
        while node.position < len(self.space):
            if given:
                choice = self._choice[node.position][given.pop(0)]
            elif rolling or not node.visits:
                rolling, choice = True, self._draw(node.order, LIKELIEST)
            else:
                choice = self._select(node)
                if choice < 0:
                    break
            path.append((node, choice))
            node = (node.children.get(choice) or self._open(node, choice)).child
        us = node.best
        for above, choice in reversed(path):
            edge = above.children[choice]
            us += edge.us
            edge.visits += 1
            above.visits += 1
            above.total += us
            above.worst = max(above.worst, us)
            above.best = min(above.best, edge.us + edge.child.best)
            self._check_done(above)
        self._seen_best = self._seen_best and self._root.best >= known_us
        if node.position == len(self.space):
            self.trial.evaluations += 1
            if us < max(self.trial.best_us, self.trial.split_us):
                plan = [self.space.candidates[n.position][choice] for n, choice in path]
                self.trial.offer(plan)

    def _select(self, node: _Node) -> int:
        """The decision with the lowest bound, or a new one; -1 where all have been tried out."""
        wanted = WIDTH * (node.visits + 1) ** GROWTH
        if len(node.live) < wanted and (choice := self._next(node)) >= 0:
            return choice
        scale = EXPLORATION * (node.worst - node.best)
        log_visits = log(node.visits + 1)
        found, lowest, settled = -1, inf, False
        for choice in node.live:
            edge = node.children[choice]
            child = edge.child
            least = edge.us + child.best
            if least < node.best:
                node.best = least
            if child.done:
                settled = True
                continue
            mean = child.total / child.visits if child.visits else child.best
            bound = edge.us + 0.5 * (child.best + mean)
            bound -= scale * sqrt(log_visits / (edge.visits + 1))
            if bound < lowest:
                found, lowest = choice, bound
        if settled:
            node.live = [c for c in node.live if not node.children[c].child.done]
        if found < 0:
            found = self._next(node)
        if found < 0:
            node.done = True
        return found

    def _next(self, node: _Node) -> int:
        """The next decision to open, -1 where there is none.

        What leads to where all has been tried, by another way, is settled here and passed over.
        """
        while node.opened < len(node.order):
            choice = node.order[node.opened]
            if choice not in node.children:
                edge = self._open(node, choice)
                if not edge.child.done or edge.child.position == len(self.space):
                    return choice
                self._settled += 1
                node.best = min(node.best, edge.us + edge.child.best)
            node.opened += 1
        return -1

    def _draw(self, order: tuple[int, ...], likeliest: float) -> int:
        """A decision of ``order`` by chance, the first ones more often."""
        for choice in order:
            if self.rng.random() < likeliest:
                return choice
        return order[0]

    def _near_best(self) -> list[Candidate]:
        """The best plan with one run of regions changed, by chance."""
        start = self.rng.randrange(len(self.space))
        choice = self._draw(self._order[start], NEAR_LIKELIEST)
        growing = self._runs.growing(start, self.space.candidates[start][choice])
        run = next(growing)
        while self.rng.random() < NEAR_LONGER and (longer := next(growing, None)):
            run = longer
        return list(self._runs.splice(self.trial.best, run))

    def _open(self, node: _Node, choice: int) -> _Edge:
        candidate = self.space.candidates[node.position][choice]
        state = self.trial.scorer.step(node.state, candidate)
        child = self._node(node.position + candidate.span, state, node.number, choice)
        edge = node.children[choice] = _Edge(state[0] - node.state[0], child)
        node.live.append(choice)
        return edge

    def _node(self, position: int, state: State, parent: int = -1, index: int = -1) -> _Node:
        """The node of ``state``; ``parent`` and ``index`` say how it was reached first."""
        key = position, self.trial.scorer.key(state)
        node = self._table.get(key)
        if node is None:
            node = self._table[key] = _Node(
                position, state, self._order[position] if position < len(self.space) else ()
            )
            node.number, node.parent, node.index = len(self._nodes), parent, index
            self._nodes.append(node)
            if position == len(self.space):
                node.best, node.done = self.trial.scorer.end(state) - state[0], True
        return node

    def _check_done(self, node: _Node) -> None:
        """Mark a node whose every decision has been tried to the end."""
        if len(node.children) == len(node.order):
            node.done = all(node.children[choice].child.done for choice in node.live)
            if node.done:
                node.best = min(edge.us + edge.child.best for edge in node.children.values())

    def _known_best(self) -> list[Candidate]:
        """The best plan that the nodes know of."""
        node, plan = self._root, list[Candidate]()
        while node.position < len(self.space):
            edges = node.children
            choice = min(edges, key=lambda i: edges[i].us + edges[i].child.best)
            plan.append(self.space.candidates[node.position][choice])
            node = edges[choice].child
        return plan

    _seen_best = False
    """Whether what the root knows as its best was evaluated already."""
    _settled = 0
    """Decisions that the current walk has settled without a visit."""

    def save(self) -> Any:
        """The nodes in the order in which they were made; a child's clock is its parent's and the
        decision's, so that states need not be saved."""
        nodes = [
            [n.parent, n.index, n.opened, n.visits, n.total, n.worst, n.best, n.done]
            for n in self._nodes
        ]
        edges = [
            [[choice, e.us, e.child.number, e.visits] for choice, e in n.children.items()]
            for n in self._nodes
        ]
        return {"order": self._order, "nodes": nodes, "edges": edges, "seen": self._seen_best}

    def load(self, memory: Any) -> None:
        """See :meth:`Strategy.load`."""
        if not memory["order"]:
            return
        self._order = tuple(map(tuple, memory["order"]))
        self._seen_best = memory["seen"]
        self._root = self._node(0, self.trial.scorer.start)
        step = self.trial.scorer.step
        for parent, index, *_ in memory["nodes"][1:]:
            above = self._nodes[parent]
            candidate = self.space.candidates[above.position][index]
            state = step(above.state, candidate)
            self._node(above.position + candidate.span, state, parent, index)
        for node, values, edges in zip(self._nodes, memory["nodes"], memory["edges"], strict=True):
            _, _, node.opened, node.visits, node.total, node.worst, node.best, node.done = values
            for choice, us, child, visits in edges:
                node.children[choice] = _Edge(us, self._nodes[child], visits)
                node.live.append(choice)
