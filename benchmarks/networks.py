"""The networks that the benchmarks run, and the argument that chooses some of them."""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import zoo

if TYPE_CHECKING:
    from syncnas_tvm.planner import Space
    from syncnas_tvm.targets import Target

NETWORKS = (*zoo.TRAINED_MODELS, *zoo.RANDOM_MODELS)


def network_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose ``network`` is a list of names: all networks where none is given."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "network",
        nargs="*",
        default=list(NETWORKS),
        help=f"of {', '.join(NETWORKS)}; default: all",
    )
    return parser


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table, each row as soon as it is there."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def spaces_of(network: str, targets: Iterable[str]) -> Iterator[tuple[Target, Space]]:
    """Each target with the network's decisions for it, which those with one channel step share."""
    # Not above: TVM reads the environment when it is imported, and a benchmark may set it first.
    from syncnas_tvm.candidates import decision_space
    from syncnas_tvm.frontend import import_onnx
    from syncnas_tvm.graph.region_graph import RegionGraph
    from syncnas_tvm.targets import load_target

    module = import_onnx(zoo.export(network), None).mod
    spaces: dict[int, Space] = {}
    for target in map(load_target, targets):
        step = target.channel_step
        if step not in spaces:
            spaces[step] = decision_space(RegionGraph(module, step))
        yield target, spaces[step]


@contextmanager
def no_measurements() -> Iterator[None]:
    """Compiles measure no kernels and find none that were measured before."""
    from syncnas_tvm import compile_job  # not above, as in spaces_of

    compile_job.HostKernels = functools.partial(compile_job.HostKernels, seconds=0.0)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SYNCNAS_CACHE_DIR"] = cache
        yield
