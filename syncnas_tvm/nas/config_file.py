"""Reads and writes configurations as SyncNAS publishes them: JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from syncnas_tvm.cli import file_written_aside
from syncnas_tvm.errors import ConfigError
from syncnas_tvm.nas.branched import BranchedConfig, ConvRow, Row, Stage, Sync

ACTS = {"ReLU": "relu", "ReLU6": "relu6", "SiLU": "silu", "Hardswish": "hard_swish"}
"""The published names, which are torch's, of activations."""
ROW = "[size, kernel, stride, inputs, expanded, out]"


def read_config(path: str | Path) -> BranchedConfig:
    """The branched configuration in the file; raises ConfigError naming it and what is wrong."""
    data = _load(Path(path))
    try:
        return config_from_json(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_config(config: BranchedConfig, path: str | Path) -> None:
    """Write ``config`` in one step: a reader never finds half of it."""
    with file_written_aside(Path(path)) as aside:
        aside.write_text(json.dumps(config_to_json(config)) + "\n", encoding="utf-8")


def config_to_json(config: BranchedConfig) -> dict[str, Any]:
    """The published form of ``config``."""
    names = {own: published for published, own in ACTS.items()}
    if config.act not in names:
        raise ConfigError(f"'{config.name}': activation {config.act} has no published name")
    data: dict[str, Any] = {
        "name": config.name,
        "act": names[config.act],
        "stem": _conv_list(config.stem),
        "head": _conv_list(config.head),
        "bn_momentum": config.bn_momentum,
    }
    if config.eps != 1e-5:
        data["eps"] = config.eps
    for s, stage in enumerate(config.stages):
        data[str(s)] = {str(b): [_row_list(r) for r in rows] for b, rows in enumerate(stage)}
    return data | {"sync": list(config.sync)}


def config_from_json(data: Any) -> BranchedConfig:
    """The configuration in a JSON object; raises ConfigError saying what is wrong."""
    data = _object(data)
    sync = data.get("sync")
    if not isinstance(sync, list) or any(kind not in ("n", "a", "c") for kind in sync):
        raise ConfigError("'sync' has to be a list with 'n', 'a' or 'c' for every stage")
    stages = []
    for s in range(_stage_count(data)):
        stage = data[str(s)]
        if not isinstance(stage, Mapping) or set(stage) != {"0", "1"}:
            raise ConfigError(f'stage \'{s}\' has to have two branches, "0" and "1"')
        stages.append(tuple(_rows(stage[b], f"stage '{s}', branch '{b}'") for b in "01"))
    known = {"name", "act", "stem", "head", "bn_momentum", "eps", "sync"}
    _no_others(data, known, len(stages))
    return BranchedConfig(
        name=str(data.get("name", "")),
        act=_act(data),
        stem=_conv(data, "stem"),
        head=_conv(data, "head"),
        stages=cast("tuple[Stage, ...]", tuple(stages)),
        sync=cast("tuple[Sync, ...]", tuple(sync)),
        bn_momentum=_number(data, "bn_momentum", 0.1),
        eps=_number(data, "eps", 1e-5),
    )


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"configuration {path} is not JSON ({error}); write it again") from error


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError("a configuration is a JSON object")
    return data


def _stage_count(data: Mapping[str, Any]) -> int:
    count = 0
    while str(count) in data:
        count += 1
    if count == 0:
        raise ConfigError('there is no stage "0"')
    return count


def _no_others(data: Mapping[str, Any], known: set[str], stages: int) -> None:
    others = sorted(set(data) - known - {str(s) for s in range(stages)})
    if others:
        raise ConfigError(
            f"'{others[0]}' is not part of a configuration, or a stage is missing before it"
        )


def _rows(data: Any, where: str) -> tuple[Row, ...]:
    if not isinstance(data, list):
        raise ConfigError(f"{where} has to be a list of {ROW}")
    return tuple(Row(*_whole(item, 6, f"{where}, block {i}", ROW)) for i, item in enumerate(data))


def _conv(data: Mapping[str, Any], key: str) -> ConvRow:
    form = "[inputs, out, kernel, stride]"
    return ConvRow(*_whole(data.get(key), 4, f"'{key}'", form))


def _whole(item: Any, count: int, where: str, form: str) -> list[int]:
    good = isinstance(item, list) and len(item) == count
    if not good or any(type(value) is not int or value < 1 for value in item):
        raise ConfigError(f"{where} has to be {form}, whole numbers from 1 up, not {item!r}")
    return list(item)


def _act(data: Mapping[str, Any]) -> str:
    if data.get("act") not in ACTS:
        raise ConfigError(f"'act' has to be one of {', '.join(ACTS)}, not {data.get('act')!r}")
    return ACTS[data["act"]]


def _number(data: Mapping[str, Any], key: str, default: float) -> float:
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"'{key}' has to be a number between 0 and 1, not {value!r}")
    return float(value)


def _conv_list(row: ConvRow) -> list[int]:
    return [row.inputs, row.out, row.kernel, row.stride]


def _row_list(row: Row) -> list[int]:
    return [row.size, row.kernel, row.stride, row.inputs, row.expand, row.out]
