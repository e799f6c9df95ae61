"""What share of a Cortex-A72's multiply-adds do the pointwise kernels reach, by llvm-mca?

    PYTHONPATH=tests python benchmarks/neon.py [--all] [NETWORK ...]

Every distinct pointwise convolution of the networks (tests/zoo.py) is compiled for the CPU lane of
target rk3399. llvm-mca (Debian: apt-get install llvm) simulates its innermost loop: the share is one
fused multiply-add on four floats per cycle, the core's limit, over the cycles it takes. Caches are
not simulated. Spills are loads and stores of the stack in that loop.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys

import zoo
from assembly import Loop, assembly, hottest_loop
from kernels import describe, groups_of_network, kind
from networks import network_parser

from syncnas_tvm.targets import load_target

ITERATIONS = 200


def cycles(loop: Loop) -> float:
    """Cycles of one iteration."""
    command = ["llvm-mca", "-mtriple=aarch64", "-mcpu=cortex-a72", f"-iterations={ITERATIONS}"]
    found = subprocess.run(
        command, input="\n".join(loop.lines) + "\n", capture_output=True, text=True, check=True
    )
    match = re.search(r"Total Cycles:\s+(\d+)", found.stdout)
    assert match is not None
    return int(match[1]) / ITERATIONS


def main() -> None:
    parser = network_parser(__doc__)
    parser.add_argument("--all", action="store_true", help="print every kernel")
    options = parser.parse_args()
    if shutil.which("llvm-mca") is None:
        sys.exit("llvm-mca is not installed; on Debian or Ubuntu: apt-get install llvm")
    target = load_target("rk3399")
    kernels = {}
    for name in options.network:
        for group in groups_of_network(zoo.export(name, size=224), "cpu", target):
            if kind(group.kernel) == "pointwise":
                kernels[group.kernel] = group
    rows = []
    for kernel, group in kernels.items():
        loop = hottest_loop(assembly(group, target))
        rows.append((loop.fused / cycles(loop), loop.spills, loop.unfused, describe(kernel)))
    shares = [row[0] for row in rows]
    print(f"{len(rows)} pointwise kernels, share of the core's multiply-adds:")
    print(f"min {min(shares):.2f}, median {statistics.median(shares):.2f}, max {max(shares):.2f}")
    print(f"kernels with spills in the loop: {sum(row[1] > 0 for row in rows)}")
    print(f"kernels with multiplications that are not fused: {sum(row[2] > 0 for row in rows)}")
    if options.all:
        for share, spills, unfused, text in sorted(rows):
            print(f"{share:.2f} spills {spills} unfused {unfused} {text}")


if __name__ == "__main__":
    main()
