"""What each value is while a run of regions is split by rows, and which rows each lane computes.

- ``rows``: each lane has a band of the value's rows (dimension 2 of an NCHW tensor), its own and
  those that its later kernels reach over the border (the *halo*).
- ``partial``: each lane has the mean or the sum over the rows that it *owns* (bands without halo).
- ``whole``: every lane that needs it computes it, from values that it has whole.

A partial value is joined before it is read; that is a sync, and what reads it belongs to the next
*phase*. Squeeze-and-excite gets its inner sync that way: its pooling is over all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tvm import relax

from syncnas_tvm.graph.cuts import cuts_of
from syncnas_tvm.graph.dataflow import Dataflow, Node, is_constant, shape_of
from syncnas_tvm.work import LANES, Interval, Lane, Shape

ROWS = 2
"""The dimension of NCHW tensors that is cut."""

Kind = Literal["rows", "partial", "whole"]
Bands = Mapping[Lane, Interval]


@dataclass(frozen=True)
class Window:
    """Rows of input that a row of output reads: ``size`` rows, ``stride`` apart, from ``-before``."""

    size: int
    stride: int
    before: int

    def reads(self, rows: Interval, height: int) -> tuple[Interval, tuple[int, int]]:
        """The input rows, of ``height``, that the output's ``rows`` need, and the padding rows that
        remain above and below them."""
        first = rows[0] * self.stride - self.before
        last = (rows[1] - 1) * self.stride - self.before + self.size
        inside = max(0, first), min(height, last)
        return inside, (inside[0] - first, last - inside[1])


def window_of(node: Node) -> Window | None:
    """The window of a convolution or pooling along the rows; None for any other operator."""
    attrs = node.attrs
    if node.op == "nn.conv2d":
        plain = attrs.data_layout == "NCHW" and attrs.kernel_layout == "OIHW"  # type: ignore[attr-defined]
        if not plain or not is_constant(node.operands[1]):
            return None
        taps = shape_of(node.operands[1])[2]
    elif node.op in ("nn.max_pool2d", "nn.avg_pool2d"):
        if attrs.layout != "NCHW" or attrs.ceil_mode:  # type: ignore[attr-defined]
            return None
        taps = int(attrs.pool_size[0])  # type: ignore[attr-defined]
        averaged = node.op == "nn.avg_pool2d" and not attrs.count_include_pad  # type: ignore[attr-defined]
        if averaged and any(int(p) for p in attrs.padding):  # type: ignore[attr-defined]
            return None
    else:
        return None
    size = (taps - 1) * int(attrs.dilation[0]) + 1  # type: ignore[attr-defined]
    return Window(size, int(attrs.strides[0]), int(attrs.padding[0]))  # type: ignore[attr-defined]


class RowStates:
    """The kinds and phases of all values of a function; independent of where the cut is made.

    ``splits`` says whether the function can be split by rows: every operator can, and the one
    result is a feature map of at least two rows.
    """

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.windows: dict[relax.Var, Window] = {}
        self.phase: dict[relax.Var, int] = dict.fromkeys(flow.params, 0)
        self._kind: dict[relax.Var, Kind | None] = {
            p: "rows" if _has_rows(shape_of(p)) else "whole" for p in flow.params
        }
        for node in flow.nodes:
            self._kind[node.var] = self._interpret(node)
            self.phase[node.var] = max(map(self._phase_after, _variables(node)), default=0)

    @property
    def splits(self) -> bool:
        """See the class."""
        if len(self.flow.outputs) != 1 or None in self._kind.values():
            return False
        (output,) = self.flow.outputs
        made = self.flow.definer.get(output)
        return made is not None and self._kind[output] == "rows" and made.shape[ROWS] > 1

    @property
    def phases(self) -> int:
        """Number of phases; neighbouring phases are a sync apart."""
        return 1 + max(self.phase.values())

    def kind(self, expr: relax.Expr) -> Kind:
        """Kind of a value of a function that ``splits``; constants are whole."""
        found = self._kind.get(expr) if isinstance(expr, relax.Var) else None
        return found or "whole"

    def shape(self, expr: relax.Expr) -> Shape:
        """Shape of a value or constant; of a ``split``, that of its input."""
        definer = self.flow.definer.get(expr) if isinstance(expr, relax.Var) else None
        return definer.shape if definer else shape_of(expr)

    def cuts_constant(self, node: Node, position: int) -> bool:
        """Whether the operand is a constant with a row for each of ``node``'s, in dimension -2."""
        operand = node.operands[position]
        if not is_constant(operand) or self.kind(node.var) != "rows" or node.var in self.windows:
            return False
        shape = shape_of(operand)
        return len(shape) > 1 and shape[-2] == node.shape[ROWS] > 1

    def _phase_after(self, var: relax.Var) -> int:
        """The phase in which ``var`` can be read."""
        return self.phase[var] + (self._kind[var] == "partial")

    def _interpret(self, node: Node) -> Kind | None:
        """The kind of ``node``'s value, None where its rows cannot be divided."""
        kinds = [self._kind.get(o) if isinstance(o, relax.Var) else "whole" for o in node.operands]
        if None in kinds:
            return None
        if "rows" not in kinds:
            return "whole"
        window = window_of(node)
        if window:
            self.windows[node.var] = window
            return "rows"
        if node.op in ("mean", "sum"):
            axes = node.attrs.axis  # type: ignore[attr-defined]
            reduced = axes is None or any(
                int(a) % len(shape_of(node.operands[0])) == ROWS for a in axes
            )
            if reduced:
                return "partial"
        if all(self._in_step(node, i) for i in range(len(node.operands))):
            return "rows"
        return None

    def _in_step(self, node: Node, position: int) -> bool:
        """Whether the operand's rows are the output's rows, or it has none."""
        operand = node.operands[position]
        shape = self.shape(operand)
        height = node.shape[ROWS] if len(node.shape) == 4 else 0
        if node.op == "split" and int(node.attrs.axis) % len(shape) == ROWS:  # type: ignore[attr-defined]
            return False
        if node.op == "nn.pad":
            pads = [int(n) for n in node.attrs.pad_width]  # type: ignore[attr-defined]
            return len(shape) == 4 and not any(pads[2 * ROWS : 2 * ROWS + 2])
        linked = any(
            link.operand == position
            and link.in_dim == len(shape) - 2
            and shape[-2] == height
            and (link.out_dim, link.in_start, link.out_start, link.size) == (ROWS, 0, 0, height)
            for link in cuts_of(node).links
        )
        if linked:
            return is_constant(operand) or self.kind(operand) == "rows"
        # A gate of one row, a bias, a scalar: the same for all rows.
        return self.kind(operand) != "rows" and (len(shape) < 2 or shape[-2] == 1)


class RowBands:
    """The rows of each value that each lane computes, from those of the result that are wanted.

    ``outputs``: the bands of the function's result, which together are all of it; they overlap
    where a later region needs a halo. Raises ValueError where a band is empty.
    """

    def __init__(self, states: RowStates, outputs: Bands) -> None:
        self.states = states
        self._bands: dict[relax.Var, dict[Lane, Interval]] = {}
        self._owned: dict[relax.Var, int] = {}
        (output,) = states.flow.outputs
        self._bands[output] = dict(outputs)
        for node in reversed(states.flow.nodes):
            self._settle(node.var)
            for position, operand in enumerate(node.operands):
                if states.kind(operand) == "rows":
                    self._demand(node, position, operand)
        for param in states.flow.params:
            self._settle(param)

    def band(self, var: relax.Var, lane: Lane) -> Interval:
        """The rows of a ``rows`` value that ``lane`` computes (of a parameter: that it reads)."""
        return self._bands[var][lane]

    def bands(self, var: relax.Var) -> dict[Lane, Interval] | None:
        """The rows of both lanes; None for a value whose rows nobody reads."""
        return self._bands.get(var)

    def reads(self, node: Node, position: int, lane: Lane) -> Interval:
        """The rows of an operand of kind ``rows`` that ``node`` reads on ``lane``."""
        operand = node.operands[position]
        if self.states.kind(node.var) == "partial":
            return self.owned(operand, lane)  # type: ignore[arg-type]
        rows = self._bands[node.var][lane]
        window = self.states.windows.get(node.var)
        if window is None:
            return rows
        return window.reads(rows, self.states.shape(operand)[ROWS])[0]

    def padding(self, node: Node, lane: Lane) -> tuple[int, int]:
        """The padding rows above and below the band of a convolution or pooling."""
        height = self.states.shape(node.operands[0])[ROWS]
        return self.states.windows[node.var].reads(self._bands[node.var][lane], height)[1]

    def owned(self, var: relax.Var, lane: Lane) -> Interval:
        """The rows of ``var`` that count for ``lane`` where a mean or sum is over all of them."""
        cut = self._owned[var]
        return (0, cut) if lane == "cpu" else (cut, self.states.shape(var)[ROWS])

    def _demand(self, node: Node, position: int, operand: relax.Var) -> None:
        if self.states.kind(node.var) == "partial":
            self._owned[operand] = -1  # settled once all its readers are known
            return
        if node.var not in self._bands:
            return
        found = self._bands.setdefault(operand, {})
        for lane in LANES:
            begin, end = self.reads(node, position, lane)
            if begin >= end:
                raise ValueError(f"{node.name} reads padding alone on the {lane} lane")
            old = found.get(lane, (begin, end))
            found[lane] = min(begin, old[0]), max(end, old[1])

    def _settle(self, var: relax.Var) -> None:
        """Where the lanes' own rows of ``var`` meet, if some operator reduces over all rows."""
        if var not in self._owned:
            return
        height = self.states.shape(var)[ROWS]
        found = self._bands.get(var)
        if found is None:
            (output,) = self.states.flow.outputs
            final = self._bands[output]
            whole = self.states.shape(output)[ROWS]
            cut = round(height * (final["cpu"][1] + final["gpu"][0]) / (2 * whole))
            cut = min(max(cut, 1), height - 1)
            self._bands[var] = {"cpu": (0, cut), "gpu": (cut, height)}
        else:
            # Rows that only a stride skips belong to the CPU lane, the last ones to the GPU lane.
            first, last = found["gpu"][0], max(found["cpu"][1], found["gpu"][0])
            self._bands[var] = {"cpu": (0, last), "gpu": (first, height)}
            cut = (first + last) // 2
        if not 0 < cut < height:
            raise ValueError(f"no rows of {var.name} are left for one of the lanes")
        self._owned[var] = cut


def _has_rows(shape: Shape) -> bool:
    return len(shape) == 4 and shape[ROWS] > 1


def _variables(node: Node) -> list[relax.Var]:
    return [o for o in node.operands if isinstance(o, relax.Var)]
