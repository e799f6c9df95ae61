"""Made-up kernels, phases and decision spaces for the planner's and the timeline's tests.

A kernel of ``us`` output channels takes ``us`` microseconds: :func:`kernel_us` reads it back.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import strategies as st

from syncnas_tvm.additive import Study
from syncnas_tvm.cost_models import CostModel
from syncnas_tvm.plan import Decision
from syncnas_tvm.planner import Budget, Candidate, CostMode, SearchResult, Space, strategy
from syncnas_tvm.scorer import Scorer
from syncnas_tvm.simulator import Simulator
from syncnas_tvm.targets import Target, TargetCosts, Transfer
from syncnas_tvm.work import LANES, Kernel, Lane, Phase, Sync, SyncKind, Work


def kernel(us: int, lane: Lane, bytes_in: int = 4) -> Kernel:
    """A kernel that takes ``us`` microseconds and reads ``bytes_in`` bytes."""
    return Kernel("add", ((bytes_in // 4,), (us,)), "float32", lane)


def kernel_us(found: Kernel) -> float:
    """Microseconds of a kernel from :func:`kernel`."""
    return float(found.shapes[-1][0])


def phase(
    cpu: Sequence[int] = (),
    gpu: Sequence[int] = (),
    kind: SyncKind = "copy",
    cpu_bytes: int = 1000,
    gpu_bytes: int = 1000,
    join: Sequence[int] = (),
) -> Phase:
    """A phase of kernels that take so many microseconds each; the GPU's read 2000 bytes."""
    return Phase(
        tuple(kernel(us, "cpu") for us in cpu),
        tuple(kernel(us, "gpu", 2000) for us in gpu),
        Sync(kind, cpu_bytes, gpu_bytes, tuple(kernel(us, "cpu") for us in join)),
    )


def candidate(*phases: Phase, region: str = "r0") -> Candidate:
    """A candidate for one region that makes ``phases``."""
    return Candidate(Decision.of(region, "Made"), 1, Work(phases))


def costs(
    latency_us: float = 100.0,
    gbytes_per_s: float = 1.0,
    enqueue_us: float = 10.0,
    contention: tuple[float, float] = (1.0, 1.0),
) -> TargetCosts:
    """Costs that are the same in both directions."""
    move = Transfer(latency_us, gbytes_per_s)
    return TargetCosts(move, move, enqueue_us, *contention)


times = st.lists(st.integers(1, 500), max_size=4)
phases = st.builds(
    phase,
    cpu=times,
    gpu=times,
    kind=st.sampled_from(["sum", "concat", "copy"]),
    cpu_bytes=st.integers(0, 10**6),
    gpu_bytes=st.integers(0, 10**6),
    join=st.lists(st.integers(1, 50), max_size=2),
)
candidates = st.lists(
    st.lists(phases, min_size=1, max_size=3).map(lambda found: candidate(*found)),
    min_size=1,
    max_size=6,
)
transfers = st.builds(Transfer, st.floats(0, 1000), st.floats(0.1, 50))
any_costs = st.builds(
    TargetCosts, transfers, transfers, st.floats(0, 50), st.floats(1, 2), st.floats(1, 2)
)


def place(region: str, lane: Lane, us: int) -> Candidate:
    """``Place(lane)`` for a region that takes ``us`` there."""
    work = Work((phase(**{lane: [us]}),))
    return Candidate(Decision.of(region, "Place", lane=lane), 1, work)


def split(region: str, share: float, cpu: int, gpu: int, size: int = 1000) -> Candidate:
    """``ChannelSplit``: ``cpu`` and ``gpu`` microseconds on the lanes, a sum of ``size`` bytes."""
    work = Work((phase([cpu], [gpu], "sum", size, size, join=[5]),))
    return Candidate(Decision.of(region, "ChannelSplit", gpu_share=share), 1, work)


def run_of(regions: Sequence[str], cpu: int, gpu: int) -> Candidate:
    """``RowSplit`` over several regions."""
    work = Work((phase([cpu], [gpu], "concat"),))
    return Candidate(Decision.of(regions, "RowSplit", gpu_share=0.5), len(regions), work)


def random_space(seed: int, regions: int = 6, shares: int = 4, runs: bool = False) -> Space:
    """A space like a real one: two places and ``shares`` splits a region, and runs if asked."""
    rng = random.Random(seed)
    names = tuple(f"r{i}" for i in range(regions))
    cpu_us = [rng.randint(200, 4000) for _ in names]
    gpu_us = [int(us * rng.uniform(0.5, 2.5)) + 1 for us in cpu_us]
    lists: list[tuple[Candidate, ...]] = []
    for start, name in enumerate(names):
        here = [place(name, "cpu", cpu_us[start]), place(name, "gpu", gpu_us[start])]
        for number in range(1, shares + 1):
            share = number / (shares + 1)
            cpu = int(cpu_us[start] * (1 - share) * rng.uniform(1, 1.3)) + 1
            gpu = int(gpu_us[start] * share * rng.uniform(1, 1.3)) + 1
            here.append(split(name, share, cpu, gpu, rng.randint(1000, 400_000)))
        for span in (2, 3) if runs else ():
            if start + span <= regions:
                covered = slice(start, start + span)
                halves = (int(sum(us[covered]) * 0.6) for us in (cpu_us, gpu_us))
                here.append(run_of(names[covered], *halves))
        lists.append(tuple(here))
    return Space(names, tuple(lists))


def run_space(seed: int, regions: int = 20, longest: int = 12, shares: int = 7) -> Space:
    """A space like that of a network with row splits: besides places and channel splits, every run
    of up to ``longest`` regions in ``shares``. Halo rows cost more the longer a run is."""
    rng = random.Random(seed)
    names = tuple(f"r{i}" for i in range(regions))
    cpu_us = [rng.randint(300, 3000) for _ in names]
    gpu_us = [int(us * rng.uniform(0.7, 2.0)) + 1 for us in cpu_us]
    halo = [rng.uniform(0.01, 0.06) for _ in names]
    sizes = [rng.randint(20_000, 400_000) for _ in names]
    lists = []
    for start, name in enumerate(names):
        here = [place(name, "cpu", cpu_us[start]), place(name, "gpu", gpu_us[start])]
        for number in range(1, shares + 1):
            share = number / (shares + 1)
            cpu, gpu = (
                int(us[start] * part * 1.08) + 1
                for us, part in ((cpu_us, 1 - share), (gpu_us, share))
            )
            here.append(split(name, share, cpu, gpu, sizes[start]))
        for span in range(1, min(longest, regions - start) + 1):
            # Each region computes the halo rows of all regions behind it in the run.
            more = [sum(halo[i : start + span]) for i in range(start, start + span)]
            for number in range(1, shares + 1):
                share = number / (shares + 1)
                cpu, gpu = (
                    int(sum(us[start + i] * min(1.0, part + more[i]) for i in range(span))) + 1
                    for us, part in ((cpu_us, 1 - share), (gpu_us, share))
                )
                size = sizes[start + span - 1]
                work = Work(
                    (phase([cpu], [gpu], "concat", int(size * (1 - share)), int(size * share)),)
                )
                decision = Decision.of(names[start : start + span], "RowSplit", gpu_share=share)
                here.append(Candidate(decision, span, work))
        lists.append(tuple(here))
    return Space(names, tuple(lists))


class MadeStudy(Study):
    """The study's costs, with made-up kernels instead of convolutions."""

    def __init__(self, sync_us: float) -> None:
        super().__init__(sync_us, kernel_us)
        self.us = kernel_us


any_space = st.builds(
    random_space, st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 3), st.booleans()
)
COSTS = costs(latency_us=150, gbytes_per_s=2, enqueue_us=10, contention=(1.2, 1.1))


def scored_us(kernel: Kernel, mode: CostMode, model: CostModel, target: Target) -> float:
    """Microseconds that ``kernel`` counts for where plans are scored in ``mode``, predicted by ``model``."""
    cpu, gpu = ((kernel,) if lane == kernel.lane else () for lane in LANES)
    work = Work((Phase(cpu, gpu, Sync("copy", 0, 0)),))
    here = Candidate(Decision.of(["r0"], "Place", lane=kernel.lane), 1, work)
    return mode.scorer(Space(("r0",), ((here,),)), target.costs, model).us(kernel)


def simulator() -> Simulator:
    """Scores made-up spaces with :data:`COSTS`."""
    return Simulator(COSTS, kernel_us)


def run(
    name: str, space: Space, evaluations: int = 500, seed: int = 0, scorer: Scorer | None = None
) -> SearchResult:
    """What the strategy ``name`` finds."""
    return strategy(name, seed).run(space, scorer or simulator(), Budget(evaluations))
