"""What a branched model, or its base on one lane, makes the lanes do: phases for the timeline."""

from __future__ import annotations

from syncnas_tvm.nas.branched import BranchedConfig
from syncnas_tvm.nas.description import Network
from syncnas_tvm.nas.kernels import block_kernels, head_kernels, join_kernels, stem_kernels
from syncnas_tvm.plan import Decision
from syncnas_tvm.planner import Candidate
from syncnas_tvm.work import LANES, Kernel, Lane, Phase, Sync, Work, tensor_bytes

BRANCH_LANES: tuple[Lane, Lane] = LANES
"""The lane of each branch: the first one runs on the CPU, the second on the GPU."""


def base_work(base: Network, lane: Lane, size: int = 224, classes: int = 1000) -> Candidate:
    """The whole base network on one lane."""
    stages = base.shapes(size)
    kernels = [*stem_kernels(base, size, lane)]
    for stage in stages:
        for shape in stage:
            kernels += block_kernels(shape, lane)
    kernels += head_kernels(base, stages[-1][-1].out_size, classes, lane)
    return _candidate((_alone(tuple(kernels), lane),), f"{base.name} on {lane}")


def branched_work(
    config: BranchedConfig, base: Network, stem: Lane, head: Lane, classes: int = 1000
) -> Candidate:
    """Stem on one lane, a phase of both branches up to each sync, head on one lane."""
    phases = [_alone(stem_kernels(base, config.size, stem), stem)]
    kernels: tuple[list[Kernel], list[Kernel]] = [], []
    for stage, kind in zip(config.stages, config.sync, strict=True):
        for b, rows in enumerate(stage):
            for row in rows:
                kernels[b].extend(block_kernels(row.shape(config.act), BRANCH_LANES[b]))
        if kind == "n":
            continue
        last = stage[0][-1]
        channels = last.out if kind == "a" else last.out * 2
        joined = (1, channels, last.out_size, last.out_size)
        held = tensor_bytes((1, last.out, last.out_size, last.out_size), "float32")
        join = join_kernels(joined, kind, "cpu")
        output = Sync("sum" if kind == "a" else "concat", held, held, join)
        phases.append(Phase(tuple(kernels[0]), tuple(kernels[1]), output))
        kernels = [], []
    pixels = config.stages[-1][0][-1].out_size
    phases.append(_alone(head_kernels(base, pixels, classes, head), head))
    return _candidate(tuple(phases), config.name)


def _alone(kernels: tuple[Kernel, ...], lane: Lane) -> Phase:
    """Kernels of one lane; the value stays there."""
    held = tensor_bytes(kernels[-1].out_shape, "float32")
    if lane == "cpu":
        return Phase(kernels, (), Sync("copy", held, 0))
    return Phase((), kernels, Sync("copy", 0, held))


def _candidate(phases: tuple[Phase, ...], name: str) -> Candidate:
    return Candidate(Decision.of((name,), "Branches"), 1, Work(phases))
