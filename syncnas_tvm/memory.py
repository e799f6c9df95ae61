"""What a plan makes each lane hold: weights, and the largest working set of a kernel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from syncnas_tvm.simulator import join_kernels
from syncnas_tvm.work import Kernel, Lane, Shape, Work, tensor_bytes


@dataclass(frozen=True)
class LaneMemory:
    """Bytes of one lane: all its weights, and what its largest kernel reads and writes beside them.

    An estimate from below: values that are kept for later, such as residuals, come on top.
    """

    weight_bytes: int
    working_bytes: int

    @property
    def bytes(self) -> int:
        """Both together."""
        return self.weight_bytes + self.working_bytes


def lane_memory(works: Iterable[Work], lane: Lane) -> LaneMemory:
    """The memory that ``works``, a plan's, ask of ``lane``; joins count where both lanes have parts."""
    weights = working = 0
    for work in works:
        for phase in work.phases:
            join = join_kernels(phase, lane) if phase.cpu and phase.gpu else ()
            for kernel in (*phase.kernels(lane), *join):
                own = weight_bytes(kernel)
                weights += own
                working = max(working, kernel.bytes_moved - own)
    return LaneMemory(weights, working)


def weight_bytes(kernel: Kernel) -> int:
    """Of weight and biases; what is fused and broadcast over pixels is taken for a bias."""
    main: list[Shape] = [kernel.shapes[1]] if kernel.op in ("nn.conv2d", "matmul") else []
    fused = (s for step in kernel.epilogue for s in step.operands if s != kernel.out_shape)
    biases = [shape for shape in fused if len(shape) > 0]
    return sum(tensor_bytes(shape, kernel.dtype) for shape in main + biases)
