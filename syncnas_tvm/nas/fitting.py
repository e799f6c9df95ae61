"""Whether the parts of a branched configuration fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncnas_tvm.errors import ConfigError

if TYPE_CHECKING:
    from syncnas_tvm.nas.branched import BranchedConfig, Row


def check(config: BranchedConfig) -> None:
    """Raise ConfigError where the stages of ``config`` do not fit together."""
    if len(config.stages) != len(config.sync) or not config.stages:
        raise ConfigError(
            f"'{config.name}': {len(config.stages)} stages but {len(config.sync)} entries of 'sync'"
        )
    if config.sync[-1] == "n":
        raise ConfigError(f"'{config.name}': the last stage has to be synchronized ('a' or 'c')")
    for name, row in (("stem", config.stem), ("head", config.head)):
        if row.kernel % 2 == 0:
            raise ConfigError(
                f"'{config.name}': '{name}' has kernel size {row.kernel}, which is even"
            )
    size = None
    given = (config.stem.out, config.stem.out)
    for s, stage in enumerate(config.stages):
        ends = []
        for b, branch in enumerate(stage):
            ends.append(_check_branch(config, s, b, branch, given[b], size))
        if ends[0].out_size != ends[1].out_size or len(stage[0]) != len(stage[1]):
            raise ConfigError(f"{_at(config, s)}: the branches differ in blocks or output size")
        size = ends[0].out_size
        given = (ends[0].out, ends[1].out)
        if config.sync[s] != "n" and given[0] != given[1]:
            joined = "added" if config.sync[s] == "a" else "concatenated, which takes halves"
            raise ConfigError(
                f"{_at(config, s)}: branches of {given[0]} and {given[1]} channels cannot be {joined}"
            )
        if config.sync[s] == "c":
            given = (sum(given), sum(given))
    if config.head.inputs != given[0]:
        raise ConfigError(
            f"'{config.name}': 'head' takes {config.head.inputs} channels, the last stage gives {given[0]}"
        )


def _check_branch(
    config: BranchedConfig, s: int, b: int, branch: tuple[Row, ...], inputs: int, size: int | None
) -> Row:
    if not branch:
        raise ConfigError(f"{_at(config, s, b)} has no blocks")
    for i, row in enumerate(branch):
        at = _at(config, s, b, i)
        if min(row.size, row.kernel, row.stride, row.inputs, row.expand, row.out) < 1:
            raise ConfigError(f"{at}: all six numbers have to be 1 or more")
        if row.kernel % 2 == 0:
            raise ConfigError(f"{at}: kernel size {row.kernel} is even")
        if row.inputs != inputs:
            raise ConfigError(f"{at} takes {row.inputs} channels, but gets {inputs}")
        if size is not None and row.size != size:
            raise ConfigError(
                f"{at} takes {row.size} x {row.size} pixels, but gets {size} x {size}"
            )
        inputs, size = row.out, row.out_size
    return branch[-1]


def _at(config: BranchedConfig, s: int, b: int | None = None, i: int | None = None) -> str:
    where = f"'{config.name}': stage {s}"
    where += "" if b is None else f", branch {b}"
    return where + ("" if i is None else f", block {i}")
