"""Which dimensions of which values are worth cutting: channel classes and their selection.

A *channel class* is a set of (value, dimension) pairs that the operators link, so that cutting one
cuts them all: the expanded channels of an MBConv block from its expand convolution through
depthwise, activation and gate, for instance. Convolutions and dense layers that *produce* or
*contract* the dimension bound it. Everything is found by propagation through
:mod:`syncnas_tvm.graph.cuts`; no block pattern is matched.

Neighbouring classes share a convolution (one contracts over its input class and produces its
output class), and only one of the two can be cut without a sync in between. The classes are
therefore taken greedily by multiply-adds per exchanged byte, which picks the expanded channels of
an MBConv block over its narrow trunk and the narrow channels of a bottleneck over its wide ones.
Where nothing else is cut, as in a lone convolution, the result's own channels may be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tvm import relax

from syncnas_tvm.graph.cuts import Cuts, cuts_of
from syncnas_tvm.graph.dataflow import Dataflow, Node, is_constant, shape_of
from syncnas_tvm.work import tensor_bytes

# A value's dimension. Values in ``detached`` count apart at each use, since a whole value can be
# sliced by each reader as it likes: then the owner is (reader's index, operand's position).
Owner = relax.Var | tuple[int, int]
Element = tuple[Owner, int]


@dataclass(eq=False)
class ChannelClass:
    """Linked dimensions, and the nodes that bound or carry them."""

    elements: set[Element] = field(default_factory=set)
    producers: set[Node] = field(default_factory=set)
    consumers: set[Node] = field(default_factory=set)
    carriers: set[Node] = field(default_factory=set)
    blocked: bool = False
    is_open: bool = False
    """The function's result is cut: the lanes' parts are concatenated, where others are summed."""

    @property
    def macs(self) -> int:
        """Multiply-adds that a cut of the class divides between the lanes."""
        return sum(node.macs for node in self.producers | self.consumers | self.carriers)

    @property
    def has_inside(self) -> bool:
        """Whether there is work to divide before the class ends in a contraction, or the result.

        Without it a class would only slice one convolution's input.
        """
        if self.is_open:  # what dense layers pass on are no channels
            return bool(self.producers) or any(n.op == "nn.conv2d" for n in self.carriers)
        before = self.producers or any(node.macs for node in self.carriers)
        return bool(self.consumers and before)

    @property
    def exchanged_bytes(self) -> int:
        """Bytes of the partial sums that a cut leaves on each lane."""
        return sum(tensor_bytes(node.shape, node.dtype) for node in self.consumers)


def cut_points(size: int, step: int) -> list[int]:
    """Where a dimension of ``size`` may be cut: multiples of ``step``, or of less if it is short."""
    while step > 1 and step >= size:
        step //= 2
    return list(range(step, size, step))


class ChannelClasses:
    """The classes of a function that are cut when it is split by channels.

    ``cut(var)`` gives the dimension along which ``var`` is cut and the sizes of its atoms: the
    pieces that concatenations and splits force to be cut one by one.
    """

    def __init__(
        self, flow: Dataflow, detached: Collection[relax.Var] = (), open_result: bool = False
    ) -> None:
        self.flow = flow
        self._open = set(flow.outputs) if open_result and len(flow.outputs) == 1 else set()
        self._detached = {*flow.params, *detached}
        self._cuts: dict[Node, Cuts] = {node: cuts_of(node) for node in flow.nodes}
        self._breaks = self._breakpoints()
        self.all = self._classes()
        self.selected = self._select()
        self._cut_dim = {el[0]: el[1] for cls in self.selected for el in cls.elements}

    def cuts(self, node: Node) -> Cuts:
        """The node's entry in the table of cuts."""
        return self._cuts[node]

    def cut(self, owner: Owner) -> tuple[int, tuple[int, ...]] | None:
        """Dimension and atom sizes along which a value is cut, or None where it stays whole."""
        dim = self._cut_dim.get(owner)
        if dim is None:
            return None
        breaks = sorted(self._breaks[(owner, dim)])
        return dim, tuple(b - a for a, b in pairwise(breaks))

    def use(self, node: Node, position: int) -> Owner:
        """The owner of the dimensions that ``node`` reads as its operand ``position``."""
        operand = node.operands[position]
        return (node.index, position) if operand in self._detached else operand

    def _linked(self) -> Iterator[tuple[Element, Element, int, int, int]]:
        for node, cuts in self._cuts.items():
            for link in cuts.links:
                if not is_constant(node.operands[link.operand]):
                    owner = self.use(node, link.operand)
                    ends = (owner, link.in_dim), (node.var, link.out_dim)
                    yield *ends, link.in_start, link.out_start, link.size

    def _extent(self, element: Element) -> int:
        owner, dim = element
        if isinstance(owner, tuple):
            return shape_of(self.flow.nodes[owner[0]].operands[owner[1]])[dim]
        definer = self.flow.definer.get(owner)
        return definer.shape[dim] if definer else shape_of(owner)[dim]

    def _breakpoints(self) -> dict[Element, set[int]]:
        """Positions at which a dimension has to be divided before it can be cut, to a fixpoint."""
        links = list(self._linked())
        breaks: dict[Element, set[int]] = {}
        for source, target, *_ in links:
            for element in (source, target):
                breaks.setdefault(element, {0, self._extent(element)})
        changed = True
        while changed:
            changed = False
            for source, target, in_start, out_start, size in links:
                for a, b, a0, b0 in (
                    (source, target, in_start, out_start),
                    (target, source, out_start, in_start),
                ):
                    inside = {p - a0 + b0 for p in breaks[a] if a0 <= p <= a0 + size}
                    new = (inside | {b0, b0 + size}) - breaks[b]
                    if new:
                        breaks[b] |= new
                        changed = True
        return breaks

    def _classes(self) -> list[ChannelClass]:
        parent: dict[Element, Element] = {}

        def find(element: Element) -> Element:
            parent.setdefault(element, element)
            while parent[element] != element:
                parent[element] = parent[parent[element]]
                element = parent[element]
            return element

        for source, target, *_ in self._linked():
            parent[find(source)] = find(target)
        classes: dict[Element, ChannelClass] = defaultdict(ChannelClass)
        for node, cuts in self._cuts.items():
            if cuts.produce:
                element = (node.var, cuts.produce.dim)
                classes[find(element)].producers.add(node)
            if cuts.contract:
                element = (self.use(node, 0), cuts.contract.dim)
                classes[find(element)].consumers.add(node)
            for link in cuts.links:
                classes[find((node.var, link.out_dim))].carriers.add(node)
        for element in parent:
            self._breaks.setdefault(element, {0, self._extent(element)})
            classes[find(element)].elements.add(element)
        for cls in classes.values():
            cls.is_open = any(owner in self._open for owner, _ in cls.elements)
            cls.blocked = any(self._needs_whole(element) for element in cls.elements)
        return list(classes.values())

    def _needs_whole(self, element: Element) -> bool:
        """Whether some reader of the dimension can use it neither by a link nor by contraction."""
        owner, dim = element
        breaks = sorted(self._breaks[element])
        if any(b - a < 2 for a, b in pairwise(breaks)):
            return True
        if isinstance(owner, tuple):
            return False
        if owner in self.flow.outputs and owner not in self._open:
            return True
        if owner in self._detached:
            return True
        for reader, position in self.flow.readers.get(owner, ()):
            cuts = self._cuts[reader]
            linked = any(k.operand == position and k.in_dim == dim for k in cuts.links)
            contracted = position == 0 and cuts.contract and cuts.contract.dim == dim
            if not linked and not contracted:
                return True
        return False

    def _select(self) -> list[ChannelClass]:
        candidates = [
            cls
            for cls in self.all
            if not cls.blocked and cls.has_inside and not cls.consumers & cls.producers
        ]
        # Open classes last: they only divide what comes after the last contraction.
        candidates.sort(key=lambda c: (c.is_open, -c.macs / max(1, c.exchanged_bytes)))
        chosen: list[ChannelClass] = []
        owners: set[Owner] = set()
        for cls in candidates:
            apart = all(
                not (cls.consumers & c.producers or cls.producers & c.consumers) for c in chosen
            )
            if apart and not owners & {owner for owner, _ in cls.elements}:
                chosen.append(cls)
                owners |= {owner for owner, _ in cls.elements}
        return chosen
