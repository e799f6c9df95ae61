"""What a decision makes each lane do: the plain data that cost models and the timeline read.

Nothing here touches TVM: kernels are described by shapes, so that a plan can be scored in
microseconds, stored, hashed and sent to another process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal

Lane = Literal["cpu", "gpu"]
LANES: tuple[Lane, Lane] = ("cpu", "gpu")
Shape = tuple[int, ...]
Interval = tuple[int, int]
"""Rows from the first to before the second."""

# Kernel attribute: the share of a convolution's multiply-adds that is not structurally zero.
NONZERO = "nonzero"

DTYPE_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "int8": 1, "uint8": 1, "bool": 1}  # fmt: skip


def other(lane: Lane) -> Lane:
    """The lane that is not ``lane``."""
    return "gpu" if lane == "cpu" else "cpu"


def tensor_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of a dense tensor of ``shape`` (elements) and ``dtype``."""
    return prod(shape) * DTYPE_BYTES[dtype]


@dataclass(frozen=True)
class Epilogue:
    """One operator fused behind a kernel's main operator.

    ``op`` is the Relax operator's name without ``relax.`` (``add``, ``clip``, ``nn.silu``);
    ``operands`` the shapes of its further operands (a bias is ``(1, C, 1, 1)``, a residual the
    output's own shape, a scalar ``()``); ``attrs`` its static attributes.
    """

    op: str
    operands: tuple[Shape, ...] = ()
    attrs: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Kernel:
    """One kernel *after fusion*: a main operator and the element-wise operators behind it.

    ``op`` is the main operator's Relax name without ``relax.`` (``nn.conv2d``, ``matmul``,
    ``mean``, ``nn.max_pool2d``, ``add``...); ``shapes`` its operands' shapes and, last, its
    output's; tensors are NCHW, convolution weights OIHW, dense weights ``[in, out]``.
    """

    op: str
    shapes: tuple[Shape, ...]
    dtype: str
    lane: Lane
    attrs: tuple[tuple[str, object], ...] = ()
    epilogue: tuple[Epilogue, ...] = ()
    layout: str = "NCHW"
    name: str = field(default="", compare=False)

    @property
    def out_shape(self) -> Shape:
        """Shape of the kernel's output."""
        return self.shapes[-1]

    @property
    def is_depthwise(self) -> bool:
        """A convolution with one input channel per group."""
        return self.op == "nn.conv2d" and self.shapes[1][1] == 1 and self.shapes[0][1] > 1

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of the main operator (0 for operators that have none).

        Structural zeros of a weight are left out (attribute ``nonzero``, the share that remains).
        """
        if self.op == "nn.conv2d":
            nonzero = dict(self.attrs).get(NONZERO, 1.0)
            return round(prod(self.out_shape) * prod(self.shapes[1][1:]) * float(nonzero))  # type: ignore[arg-type]
        if self.op == "matmul":
            return prod(self.out_shape) * self.shapes[0][-1]
        return 0

    @cached_property
    def flops(self) -> int:
        """Floating-point operations, two per multiply-add, one per element and epilogue step."""
        if self.macs:
            main = 2 * self.macs
        elif self.op in ("mean", "sum", "max"):
            main = prod(self.shapes[0])
        elif "pool" in self.op:
            window = dict(self.attrs).get("pool_size", (1, 1))
            main = prod(self.out_shape) * prod(window)  # type: ignore[call-overload]
        else:
            main = prod(self.out_shape)
        return main + prod(self.out_shape) * len(self.epilogue)

    @cached_property
    def bytes_moved(self) -> int:
        """Bytes read and written once each: operands, epilogue operands and output."""
        shapes = [*self.shapes, *(s for step in self.epilogue for s in step.operands)]
        return sum(tensor_bytes(shape, self.dtype) for shape in shapes)


SyncKind = Literal["sum", "concat", "copy"]


@dataclass(frozen=True)
class Seam:
    """Which rows of a feature map the lanes have: the CPU lane the first ``cut`` of ``height``, of
    ``row_bytes`` each, the GPU lane the others. A lane may have all of them.

    ``early``: how many rows next to the cut, of the CPU's and the GPU's band, their lane computes
    first, in a kernel of their own. The last two kernels of a lane whose number is above 0 are the
    border rows' and the rest's; a lane with 0 is not cut.
    """

    cut: int
    height: int
    row_bytes: int
    early: tuple[int, int] | None = None

    def bytes_to(self, lane: Lane, reads: Interval | None) -> int:
        """Bytes that ``lane`` lacks of the rows that it reads (None: of all)."""
        first, last = reads or (0, self.height)
        rows = last - max(first, self.cut) if lane == "cpu" else min(last, self.cut) - first
        return max(0, rows) * self.row_bytes

    def covers(self, reads: tuple[Interval, Interval] | None) -> bool:
        """Whether all rows that the lanes (CPU, GPU) read and lack are early ones; None: they read all."""
        if self.early is None or reads is None:
            return False
        (_, cpu_last), (gpu_first, _) = reads
        return cpu_last <= self.cut + self.early[1] and gpu_first >= self.cut - self.early[0]


@dataclass(frozen=True)
class Sync:
    """How the lanes' results of a phase become one value.

    ``whole``: a lane has all of it (no join: ``copy`` it where it is read).
    ``cpu_bytes`` and ``gpu_bytes`` are what each lane holds; a lane that needs the value gets
    the other lane's share and runs its ``join`` kernels (the addition, say) on both. Where there is a
    ``seam`` it gets only the rows that it reads and lacks, into a tensor that has its own already: no
    join runs.
    """

    kind: SyncKind
    cpu_bytes: int
    gpu_bytes: int
    join: tuple[Kernel, ...] = ()
    seam: Seam | None = None

    def bytes_from(self, lane: Lane) -> int:
        """Bytes that the other lane has to receive from ``lane``."""
        return self.cpu_bytes if lane == "cpu" else self.gpu_bytes


@dataclass(frozen=True)
class Phase:
    """What runs between two exchanges: kernels on either lane, and how they end.

    A lane with kernels needs the previous phase's value; a lane without sits out. ``output``
    of kind ``copy`` means that the value is whole on the lane or lanes that ran kernels. ``reads``:
    the rows of the previous phase's value that the CPU and the GPU lane read; None for all.
    """

    cpu: tuple[Kernel, ...]
    gpu: tuple[Kernel, ...]
    output: Sync
    reads: tuple[Interval, Interval] | None = None

    def kernels(self, lane: Lane) -> tuple[Kernel, ...]:
        """The kernels of ``lane``, in order."""
        return self.cpu if lane == "cpu" else self.gpu

    def rows_read(self, lane: Lane) -> Interval | None:
        """The rows of the previous phase's value that ``lane`` reads; None for all."""
        return self.reads and self.reads[LANES.index(lane)]


@dataclass(frozen=True)
class Work:
    """All phases of one decision, in order."""

    phases: tuple[Phase, ...]

    def kernels(self, lane: Lane) -> tuple[Kernel, ...]:
        """Every kernel that ``lane`` runs, joins not counted."""
        return tuple(k for phase in self.phases for k in phase.kernels(lane))
