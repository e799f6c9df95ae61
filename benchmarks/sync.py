"""What one synchronization of the lanes costs, beside a C program that does the same with bare OpenCL.

    PYTHONPATH=tests python benchmarks/sync.py [--memory shared mapped copied] [--rounds 300] [--plugin FILE]

``to_gpu`` hands a value to the GPU lane (after which the value's memory may be written again), runs a
small kernel on it and waits for that; ``to_cpu`` runs the kernel and gets the value for the CPU lane. Both programs are one process (benchmarks/sync_c/, built
with gcc): the bare side calls OpenCL, ours calls what TVM's VM calls. Their runs take turns; ``noise`` is
the ratio of the bare side's odd rounds to all of its rounds. Times in microseconds; ratios are of
minima and of medians. Now and then PoCL's worker has not fallen asleep yet, and a run takes half as long:
a minimum says more about that than about either side. The host's thread has the last core, the worker
the first.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from networks import print_table

SOURCES = Path(__file__).parent / "sync_c"
MEMORIES = ("shared", "mapped", "copied")
SIZES = tuple(2**power << 10 for power in (2, 4, 6, 8, 10, 11))  # 4 KB to 2 MB
HEADER = ("memory", "direction", "KB", "bare min", "bare median", "ours min", "ours median")
RATIOS = ("ratio of minima", "ratio of medians", "noise (minima)", "noise (medians)")
LIMIT = 1.3
KERNEL = (
    "// Function: touch\n__kernel void touch(__global float* x) { x[get_global_id(0)] += 1.0f; }\n"
)


def packages() -> list[Path]:
    """The folders of TVM and of its FFI, without importing them."""
    specs = (find_spec("tvm"), find_spec("tvm_ffi"))
    return [Path(spec.submodule_search_locations[0]) for spec in specs]  # type: ignore[union-attr]


def build(folder: Path) -> Path:
    """Compile the C program."""
    program, (tvm, ffi) = folder / "sync", packages()
    libraries = [tvm / "lib", ffi / "lib"]
    subprocess.run(
        ["gcc", "-std=gnu11", "-O2", "-Wall", "-o", program, *sorted(SOURCES.glob("*.c"))]
        + [f"-I{ffi / 'include'}", *(f"-L{path}" for path in libraries)]
        + ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-ldl"]
        + [f"-Wl,-rpath,{path}" for path in libraries],
        check=True,
    )
    return program


def kernel_bytes() -> bytes:
    """The kernel as TVM saves a module of OpenCL (runtime/module_format.h)."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pointer, tags = struct.pack("<QBBH", 1, 3, 64, 1), ("blockIdx.x", "threadIdx.x")
    out = text("cl") + struct.pack("<Q", 1) + text("touch") + text("touch") + pointer
    out += struct.pack("<Q", len(tags)) + b"".join(map(text, tags)) + struct.pack("<Q", 0)
    return out + text(KERNEL)


def plugin() -> Path:
    """The OpenCL device of the installed project."""
    from syncnas_tvm.backend import plugin_path

    return plugin_path()


def rows(
    program: Path, kernel: Path, device: Path, memory: str, rounds: int
) -> Iterator[tuple[object, ...]]:
    """Measure one kind of memory."""
    environment = {"POCL_MAX_PTHREAD_COUNT": "1", "POCL_AFFINITY": "1", **os.environ}
    command = [str(v) for v in (program, memory, device, kernel, rounds, *SIZES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: {memory}: {done.stderr.strip()}")
    found: dict[tuple[str, int], dict[str, tuple[float, float]]] = {}
    for line in done.stdout.splitlines():
        direction, size, side, least, median = line.split()
        found.setdefault((direction, int(size)), {})[side] = (float(least), float(median))
    for (direction, size), sides in sorted(found.items()):
        bare, ours, odd = sides["bare"], sides["ours"], sides["odd"]
        times = [f"{value:.1f}" for value in (*bare, *ours)]
        ratios = [o / b for o, b in zip(ours, bare, strict=True)]
        noise = [o / b for o, b in zip(odd, bare, strict=True)]
        yield memory, direction, size >> 10, *times, *(f"{r:.2f}" for r in (*ratios, *noise))


def main() -> int:
    """Print the table; 1 where a ratio of medians is above the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--memory", nargs="+", choices=MEMORIES, default=MEMORIES)
    parser.add_argument("--rounds", type=int, default=300, help="default: 300")
    parser.add_argument("--plugin", type=Path, help="another build of the OpenCL device")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program, kernel = build(Path(folder)), Path(folder) / "kernel.bin"
        kernel.write_bytes(kernel_bytes())
        device = options.plugin or plugin()
        table = []
        for memory in options.memory:
            table += rows(program, kernel, device, memory, options.rounds)
        print_table((*HEADER, *RATIOS), table)
    worst = max(table, key=lambda row: float(row[8]))
    above = float(worst[8]) > LIMIT
    where = f"{worst[0]} memory, {worst[1]}, {worst[2]} KB"
    print(
        f"largest ratio of medians: {worst[8]} ({where}), {'above' if above else 'within'} {LIMIT}"
    )
    return int(above)


if __name__ == "__main__":
    sys.exit(main())
