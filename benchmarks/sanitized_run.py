"""Runs a compiled network on both lanes with the C++ runner, built with sanitizers.

    make sanitize
    PYTHONPATH=tests python benchmarks/sanitized_run.py build/sanitize

Compiles MobileNetV3 (narrow, 32 pixels, random weights) for this machine, every region cut where it
can be, and runs it with ``syncnas-run`` and each kind of memory (docs/opencl.md); outputs are compared
with onnxruntime. Fails on a report of AddressSanitizer or UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import tvm
import tvm_ffi
import zoo
from networks import no_measurements

import syncnas_tvm
from syncnas_tvm.frontend import import_onnx
from syncnas_tvm.planner import Budget

MEMORIES = ("shared", "mapped", "copied")
TOLERANCE = 1e-4


def environment(build: Path, memory: str) -> dict[str, str]:
    """What the program needs: TVM's libraries, and the sanitizers' settings."""
    libraries = [Path(tvm.__file__).parent / "lib", Path(tvm_ffi.__file__).parent / "lib", build]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        # The driver's and TVM's own leaks at exit are not ours.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "SYNCNAS_OPENCL_MEMORY": memory,
    }


def main() -> int:
    """Compile once, run with each memory; 1 where a run fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("build", type=Path, help="build folder with syncnas-run")
    build = parser.parse_args().build.resolve()
    with tempfile.TemporaryDirectory() as name, no_measurements():
        work = Path(name)
        model = zoo.export("mobilenet_v3_large", size=32, width=0.5)
        budget = Budget(evaluations=50)
        syncnas_tvm.compile_onnx(model, output=work / "out", split_all=True, budget=budget)
        imported = import_onnx(model)
        image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype("float32")
        (expected,) = imported.original.run({imported.inputs[0].name: image}).values()
        np.save(work / "x.npy", image)
        flags = ["--input=x.npy", "--repeat=20", "--output=y", "--profile=p.json"]
        bad = 0
        for memory in MEMORIES:
            done = subprocess.run(
                [str(build / "syncnas-run"), str(work / "out"), *flags],
                cwd=work, env=environment(build, memory), capture_output=True, text=True, check=False,
            )  # fmt: skip
            clean = done.returncode == 0 and "runtime error" not in done.stderr
            error = np.inf
            if clean:
                found = np.load(work / "y0.npy")
                error = float(np.abs(found - expected).max() / np.abs(expected).max())
            print(f"{memory}: exit code {done.returncode}, relative error {error:.1e}")
            if not clean or error > TOLERANCE:
                print(done.stderr[-3000:])
                bad += 1
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
