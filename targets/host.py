"""The machine that compiles: its vector width, and how many threads and cores each lane gets."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncnas_tvm import backend, opencl_setup
from syncnas_tvm.errors import TargetError

CPU_THREADS_VARIABLE = "SYNCNAS_CPU_THREADS"


@dataclass(frozen=True)
class LaneThreads:
    """Threads of either lane on this machine, and the cores that the CPU lane is pinned to.

    Half of the cores go to the CPU lane, or as many as ``SYNCNAS_CPU_THREADS`` says; PoCL, the
    OpenCL of the GPU lane, gets the others (``POCL_MAX_PTHREAD_COUNT``) and takes them from the
    lowest number up (``POCL_AFFINITY``), so the CPU lane takes the highest numbers.
    """

    cpu_threads: int
    gpu_threads: int
    cpus: tuple[int, ...]


def available_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may use.

    TVM's thread pool binds the thread that first uses it to one core, so what was noted when TVM
    was imported counts, if it was.
    """
    if backend.cores_at_start:
        return backend.cores_at_start
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def lane_threads(cores: tuple[int, ...] | None = None) -> LaneThreads:
    """Divide ``cores`` (default: all that this process may use) between the lanes.

    Raises TargetError when ``SYNCNAS_CPU_THREADS`` is not a number from 1 up.
    """
    cores = available_cores() if cores is None else cores
    wanted = os.environ.get(CPU_THREADS_VARIABLE, "")
    if wanted and not (wanted.isdecimal() and int(wanted) >= 1):
        raise TargetError(
            f"{CPU_THREADS_VARIABLE} is '{wanted}'; set it to the number of threads of the CPU"
            " lane (1 or more), or unset it"
        )
    cpu_threads = int(wanted) if wanted else max(1, len(cores) // 2)
    return LaneThreads(cpu_threads, max(1, len(cores) - cpu_threads), cores[-cpu_threads:])


def vector_lanes(cpu_info: Path = Path("/proc/cpuinfo")) -> int:
    """Floats in a vector register of this machine: 16 (AVX-512), 8 (AVX2), else 4 (SSE, NEON)."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return 4
    try:
        text = cpu_info.read_text()
    except OSError:
        return 4
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return 16 if "avx512f" in flags else 8 if "avx2" in flags else 4


def complete(data: dict[str, Any]) -> dict[str, Any]:
    """Fill in what ``host.toml`` leaves to the machine: threads, cores, vector width, peaks.

    The file's peaks are those of one core with 16-float vectors.
    """
    threads, lanes = lane_threads(), vector_lanes()
    data.setdefault("vector_lanes", lanes)
    data.setdefault("channel_step", lanes)
    data.setdefault("cpus", list(threads.cpus))
    if isinstance(data.get("cpu"), dict):
        data["cpu"].setdefault("num-cores", threads.cpu_threads)
    # Of a driver that was set up here it is known what it cannot do.
    opencl = data.setdefault("opencl", {})
    if isinstance(opencl, dict) and (most := opencl_setup.max_vector_lanes()):
        opencl.setdefault("max_vector_lanes", most)
    for lane, count in (("cpu", threads.cpu_threads), ("gpu", threads.gpu_threads)):
        peak = data.get("peak")
        peak = peak.get(lane) if isinstance(peak, dict) else None
        if isinstance(peak, dict) and isinstance(peak.get("gflops"), int | float):
            peak["gflops"] = peak["gflops"] * count * lanes / 16
    return data
