"""Convolutions and dense layers on packed tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import prod

import numpy as np
from tvm import te

from syncnas_tvm.graph.dataflow import Node, is_constant, shape_of
from syncnas_tvm.lane_types import HALF
from syncnas_tvm.schedule import convolutions, winograd
from syncnas_tvm.schedule.blocks import largest_divisor
from syncnas_tvm.schedule.convolutions import wide
from syncnas_tvm.schedule.half_sums import dense_in_parts
from syncnas_tvm.schedule.layout import (
    blocks,
    input_step,
    is_packable,
    pack_dense_weight,
    pack_depthwise_weight,
    pack_matrix,
    pack_stem_weight,
    packed_shape,
)
from syncnas_tvm.schedule.packed_definition import (
    SMALL_WINDOW,
    Family,
    Operands,
    Pair,
    Part,
    Unsupported,
    Value,
    array_of,
)
from syncnas_tvm.schedule.packed_tile import channel_cut
from syncnas_tvm.schedule.zeros import Run, runs, share


@dataclass(frozen=True)
class Window:
    """Attributes of a convolution; ``pads`` are top, left, bottom, right."""

    strides: Pair
    dilation: Pair
    pads: tuple[int, int, int, int]

    @staticmethod
    def of(node: Node) -> Window:
        fields = (node.attrs.strides, node.attrs.dilation, node.attrs.padding)  # type: ignore[attr-defined]
        return Window(*(tuple(int(n) for n in field) for field in fields))


class Convolutions(Operands):
    """Defines dense, Winograd, stem and depthwise convolutions, and dense layers."""

    def _matmul(self, node: Node) -> Family:
        """Rows times a constant matrix: ``columns`` vectors of outputs have their weights together."""
        data, weight = node.operands
        if not is_constant(weight) or node.dtype != "float32" or len(shape_of(weight)) != 2:
            raise Unsupported
        if prod(node.shape[:-1]) == node.shape[-2] > 1 and node.shape[-1] % self._vector == 0:
            return self._tokens(node)
        if len(node.shape) != 2:
            raise Unsupported
        (rows, depth), v = shape_of(data), self._vector
        columns = min(self._machine.columns, blocks(node.shape[1], v))
        groups = blocks(node.shape[1], columns * v)
        a = self._placeholder(data, (rows, depth), False)
        packing = partial(pack_matrix, array_of(weight), columns, v)
        w = self._placeholder(weight, (groups, depth, columns, v), False, packing)
        k = te.reduce_axis((0, depth), "k")
        acc = te.compute(
            (rows, groups, columns, v),
            lambda m, g, j, c: te.sum(wide(a[m, k]) * wide(w[g, k, j, c]), axis=[k]),
            name="acc",
        )
        self._values[node.var] = lambda i: acc[
            i[0], i[1] // (columns * v), i[1] // v % columns, i[1] % v
        ]
        return "matmul"

    def _tokens(self, node: Node) -> Family:
        """Several rows times a constant matrix, in tiles of rows and vectors; what is left of the
        rows is a part of its own.
        """
        data, weight = node.operands
        *ones, rows, depth = shape_of(data)
        v, vectors, tile = self._vector, node.shape[-1] // self._vector, self._machine.tokens
        columns = largest_divisor(vectors, max(1, self._machine.columns // 2))
        groups = vectors // columns
        a = self._placeholder(data, shape_of(data), False)
        packing = partial(pack_matrix, array_of(weight), columns, v)
        w = self._placeholder(weight, (groups, depth, columns, v), False, packing)

        def part(first: int, last: int) -> Part:
            k = te.reduce_axis((0, depth), "k")
            acc = te.compute(
                (last - first, groups, columns, v),
                lambda m, g, j, c: te.sum(
                    wide(a[(*(0 for _ in ones), m + first, k)]) * wide(w[g, k, j, c]), axis=[k]
                ),
                name="acc",
            )
            return Part(
                first,
                last,
                lambda i: acc[
                    i[-2] - first, i[-1] // (columns * v), i[-1] // v % columns, i[-1] % v
                ],
            )

        self._divided = len(ones)
        cuts = sorted({0, rows // tile * tile, rows})
        self._parts = [part(*cut) for cut in pairwise(cuts)]
        return "tokens"

    def _convolution(self, node: Node) -> Family:
        data, weight = node.operands
        attrs, shape = node.attrs, shape_of(data)
        out, into = shape_of(weight)[:2]
        groups = int(attrs.groups)  # type: ignore[attr-defined]
        if not is_constant(weight) or shape[0] != 1:
            raise Unsupported
        if groups == 1 and not is_packable(shape, "float32"):
            return self._stem(node)
        if groups == 1:
            return self._winograd(node) if self._takes_winograd(node) else self._dense(node)
        if into == 1 and groups == out == shape[1] and is_packable(shape, "float32"):
            return self._depthwise(node)
        raise Unsupported

    def _dense(self, node: Node) -> Family:
        data, weight = node.operands
        v, window = self._vector, Window.of(node)
        step = input_step(shape_of(weight)[1], v)
        padded = convolutions.pad(self._map(data), window.pads, 1)
        whole = pack_dense_weight(array_of(weight), v, step)
        for run in self._with_tiles(runs((whole != 0).any(axis=(2, 3, 4, 5))), node.shape[3]):
            ((low, high),), count = run.box, run.last - run.first
            packing = partial(_box_of, whole, run)
            size = (count, high - low, *shape_of(weight)[2:], step, v)
            w = self._weight(weight, size, packing)
            shape = (count, *packed_shape(node.shape, v)[1:])
            dense = dense_in_parts if self._machine.sums == HALF else convolutions.dense
            acc = dense(padded, w, shape, window.strides, window.dilation, low)
            self._parts.append(Part(run.first, run.last, _from(acc, run.first)))
        return "dense"

    def _with_tiles(self, found: list[Run], width: int) -> list[Run]:
        """Runs of output channels, those cut that no good tile divides."""
        if self._machine.whole:
            return found
        cut: list[Run] = []
        for run in found:
            last = channel_cut(width, run.last - run.first, self._machine.accumulators)
            at = run.last - last
            cut += [replace(run, last=at), replace(run, first=at)] if last else [run]
        return cut

    def _takes_winograd(self, node: Node) -> bool:
        window, weight = Window.of(node), node.operands[1]
        out, into, *kernel = shape_of(weight)
        return (
            self._machine.winograd
            and kernel == [3, 3]
            and window.strides == window.dilation == (1, 1)
            and min(out, into) >= winograd.MIN_CHANNELS
            and min(node.shape[2:]) >= winograd.TILE
            and share(array_of(weight)) == 1.0
        )

    def _winograd(self, node: Node) -> Family:
        data, weight = node.operands
        v, (top, left, _, _) = self._vector, Window.of(node).pads
        rows, columns = winograd.tiles(node.shape)
        height, width = shape_of(data)[2:]
        # The tiles may reach further than the padding says.
        bottom = winograd.OUT * rows + 2 - top - height
        right = winograd.OUT * columns + 2 - left - width
        padded = convolutions.pad(self._map(data), (top, left, bottom, right), 1)
        blocks_out, blocks_in = blocks(node.shape[1], v), blocks(shape_of(data)[1], v)
        size = (blocks_out, winograd.TILE, winograd.TILE, blocks_in, v, v)
        packing = partial(winograd.pack_weight, array_of(weight), v)
        w = self._placeholder(weight, size, False, packing)
        sums = winograd.multiply(winograd.transform_input(padded, rows, columns), w)
        self._values[node.var] = partial(winograd.transform_output, sums)
        return "winograd"

    def _stem(self, node: Node) -> Family:
        data, weight = node.operands
        v, window, shape = self._vector, Window.of(node), packed_shape(node.shape, self._vector)
        image = self._read(data, packed=False)
        packing = partial(pack_stem_weight, array_of(weight), v)
        w = self._placeholder(weight, (shape[0], *shape_of(weight)[1:], v), False, packing)
        before = None
        if self._machine.whole and max(shape_of(weight)[2:]) <= SMALL_WINDOW:
            # A padded copy would be another kernel, which takes longer than this one.
            before = window.pads[:2]
        else:
            image = convolutions.pad(image, window.pads, 2)
        acc = convolutions.stem(image, w, shape, window.strides, window.dilation, before)
        self._values[node.var] = lambda index: acc[index]
        return "stem"

    def _depthwise(self, node: Node) -> Family:
        data, weight = node.operands
        v, window = self._vector, Window.of(node)
        a = self._map(data)
        whole = pack_depthwise_weight(array_of(weight), v)
        for run in runs((whole != 0).any(axis=3)):
            (rows, columns), count = run.box, run.last - run.first
            packing = partial(_box_of, whole, run)
            size = (count, rows[1] - rows[0], columns[1] - columns[0], v)
            w = self._placeholder(weight, size, False, packing)
            before = (
                window.pads[0] - rows[0] * window.dilation[0],
                window.pads[1] - columns[0] * window.dilation[1],
            )
            shape = (count, *packed_shape(node.shape, v)[1:])
            acc = convolutions.depthwise(
                a,
                w,
                shape,
                window.strides,
                window.dilation,
                before,
                run.first,
                self._machine.sums,
            )
            self._parts.append(Part(run.first, run.last, _from(acc, run.first)))
        return "depthwise"


def _from(tensor: te.Tensor, first: int) -> Value:
    """``tensor`` as the part of a value that begins at ``first``."""
    return lambda i: wide(tensor[(i[0] - first if first else i[0], *i[1:])])


def _box_of(whole: np.ndarray, run: Run) -> np.ndarray:
    """The run's part of a packed weight."""
    box = (slice(run.first, run.last), *(slice(*extent) for extent in run.box))
    return np.ascontiguousarray(whole[box])
