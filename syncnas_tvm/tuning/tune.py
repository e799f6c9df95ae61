"""``tune_kernels``: measures other tilings of kernels than the rules' and keeps records of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm_ffi

from syncnas_tvm.errors import DeviceError, InputError
from syncnas_tvm.graph.fusion import Group
from syncnas_tvm.schedule.packed_kernels import PackedSchedules
from syncnas_tvm.schedule.tiling import Tiling
from syncnas_tvm.schedule.tuning_space import TuningSpace
from syncnas_tvm.targets import Target
from syncnas_tvm.tuning.tuner import Tuner, opened_tuner, spaces_of
from syncnas_tvm.work import Kernel

TRIALS = 32


@dataclass(frozen=True)
class Tuned:
    """What is known of one function of a kernel: how many of its tilings were measured, the rule's.

    ``rule_us`` and ``best_us`` are of one call, from the same rounds; ``tiling`` is None where the
    rule's own stays.
    """

    kernel: Kernel
    candidates: int
    measured: int
    rule_us: float
    best_us: float
    tiling: Tiling | None


def tune_kernels(
    groups: Sequence[Group],
    target: Target,
    folder: Path,
    trials: int = TRIALS,
    *,
    builder: Any = None,
    runner: Any = None,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
) -> list[Tuned]:
    """Measure up to ``trials`` tilings of each distinct kernel; records go to ``folder``.

    Records that are there already count as trials and are not measured again, so that a tuning that
    was killed goes on where it was. The rule's own tiling is always measured, and the fastest few are
    measured once more together with it. ``builder`` and ``runner`` are MetaSchedule's; by default
    kernels are built and timed in this process, which only target ``host`` allows.

    Raises InputError where another target has no runner, or another tuner has the folder; DeviceError
    where the rule's own kernel cannot be run.
    """
    if runner is None and not target.is_host:
        raise InputError(
            f"target '{target.name}' does not run on this machine; give a runner for its device"
        )
    results = []
    with opened_tuner(target, folder, builder, runner, seed) as tuner:
        spaces = _distinct(groups, target, tuner)
        for number, (kernel, space) in enumerate(spaces, 1):
            results.append(_tune(tuner, kernel, space, trials))
            report(f"{number} of {len(spaces)} kernels tuned")
    return results


def _distinct(
    groups: Sequence[Group], target: Target, tuner: Tuner
) -> list[tuple[Kernel, TuningSpace]]:
    """The different functions of the groups that have something to choose."""
    schedules = PackedSchedules.of(target)
    found: dict[tuple[str, int], tuple[Kernel, TuningSpace]] = {}
    for group in groups:
        spaces = spaces_of(group, schedules)
        some = [space for space in spaces if len(space.tilings) > 1]
        if some and len(some) == len(spaces):
            tuner.records.describe(group.kernel, spaces)
        for space in some:
            key = (group.kernel.lane, int(tvm_ffi.structural_hash(space.function)))
            found.setdefault(key, (group.kernel, space))
    return list(found.values())


def _tune(tuner: Tuner, kernel: Kernel, space: TuningSpace, trials: int) -> Tuned:
    """Measure what is missing of one kernel."""
    own, tried = space.tilings[0], tuner.records.tried(space)
    wanted = trials - len(tried)
    tuner.search(kernel, space, wanted if own in tried else max(wanted, 1))
    tuner.compare(space)
    times = dict(tuner.records.measured(space))
    if own not in times:
        raise DeviceError(
            f"the rule's own kernel for {kernel.op} {kernel.out_shape} was not measured; see "
            "whether the model compiles and runs on this device"
        )
    tiling = tuner.records.tiling(space)
    return Tuned(
        kernel,
        len(space.tilings),
        len(times),
        times[own] * 1e6,
        times[tiling or own] * 1e6,
        tiling,
    )
