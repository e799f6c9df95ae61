"""The networks that the benchmarks run, and the argument that chooses some of them."""

from __future__ import annotations

import argparse

import zoo

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
