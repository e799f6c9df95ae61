"""Reads target files: TOML with inheritance, checked key by key, into a :class:`Target`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from syncnas_tvm.errors import TargetError
from syncnas_tvm.targets import host
from syncnas_tvm.targets.model import (
    KERNEL_KINDS,
    WEIGHT_MEMORIES,
    LanePeak,
    LearnedLane,
    Link,
    OpenCLLimits,
    Target,
    TargetCosts,
    Transfer,
)
from syncnas_tvm.work import LANES, Lane

FOLDER = Path(__file__).resolve().parent
TRAINED = FOLDER.parent / "cost_models" / "trained"
"""Where the cost models that ship are."""
VECTOR_LANES = (1, 2, 4, 8, 16)
ALIASES = {"android": "android-adreno"}


def target_names() -> list[str]:
    """Names of the built-in targets, aliases included."""
    return sorted([path.stem for path in FOLDER.glob("*.toml")] + list(ALIASES))


def load_target(name_or_path: str | Path) -> Target:
    """The target of that name, or of the TOML file at that path.

    Raises TargetError, with file and key, when there is no such target or it is malformed.
    """
    path = _find(str(name_or_path), asked_by=None)
    data = _read(path, seen=())
    link = data.get("link")
    if isinstance(link, dict) and link.get("mode") == "host":
        data = host.complete(data)
    return _target(_Table(data, str(path), ""), path.stem)


def _find(name: str, asked_by: Path | None) -> Path:
    if name.endswith(".toml") or "/" in name:
        path = Path(name) if asked_by is None else asked_by.parent / name
        if not path.is_file():
            raise TargetError(f"there is no target file '{path}'; check the path")
        return path
    built_in = FOLDER / f"{ALIASES.get(name, name)}.toml"
    if built_in.is_file() and name in target_names():
        return built_in
    names = target_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? Or " if close else ""
    where = f"{asked_by}: 'inherits': " if asked_by else ""
    raise TargetError(
        f"{where}unknown target '{name}'; {hint}take one of {', '.join(names)},"
        " or the path of a .toml file"
    )


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's tables on top of those that it inherits."""
    if path in seen:
        raise TargetError(f"{path}: 'inherits' goes round in a circle; remove it in one file")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{path} is not valid TOML; correct it: {error}") from error
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}") from error
    parent = data.pop("inherits", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise TargetError(f"{path}: 'inherits' must be the name or path of a target")
    return _merge(_read(_find(parent, asked_by=path), (*seen, path)), data)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


class _Table:
    """A TOML table that is taken apart key by key; what is left over is an error."""

    def __init__(self, data: Mapping[str, Any], file: str, prefix: str) -> None:
        self.data, self.file, self.prefix = dict(data), file, prefix
        self.known: list[str] = []

    def fail(self, key: str, what: str) -> TargetError:
        return TargetError(f"{self.file}: '{self.prefix}{key}' {what}")

    def take(self, key: str, kind: type | tuple[type, ...], what: str, default: Any = None) -> Any:
        self.known.append(key)
        if key not in self.data:
            if default is None:
                raise self.fail(key, f"is missing; add it ({what})")
            return default
        value = self.data.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.fail(key, f"must be {what}, found {value!r}")
        return value

    def number(
        self, key: str, low: float, high: float = 1e9, default: float | None = None
    ) -> float:
        what = f"a number from {low:g}" + (f" to {high:g}" if high < 1e9 else " up")
        value = float(self.take(key, (int, float), what, default))
        if not low <= value <= high:
            raise self.fail(key, f"must be {what}, found {value:g}")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.take(key, int, "a whole number from 1 up", default)
        if value < 1:
            raise self.fail(key, f"must be a whole number from 1 up, found {value}")
        return int(value)

    def text(self, key: str, default: str | None = None) -> str:
        return str(self.take(key, str, "a text", default))

    def several(self, key: str, kind: type, what: str) -> tuple[Any, ...]:
        values = self.take(key, list, what, [])
        if not all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
            raise self.fail(key, f"must be {what}, found {values!r}")
        return tuple(values)

    def table(self, key: str, default: Mapping[str, Any] | None = None) -> _Table:
        data = self.take(key, dict, "a table", default)
        return _Table(data, self.file, f"{self.prefix}{key}.")

    def done(self) -> None:
        for key in self.data:
            close = difflib.get_close_matches(key, self.known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(self.known)}"
            raise self.fail(key, f"is not a key of a target; remove it ({hint})")


def _target(table: _Table, name: str) -> Target:
    peak = table.table("peak")
    target = Target(
        name=name,
        description=table.text("description"),
        cpu=_tvm_table(table.table("cpu"), "llvm"),
        gpu=_tvm_table(table.table("gpu"), "opencl"),
        vector_lanes=table.whole("vector_lanes"),
        channel_step=table.whole("channel_step"),
        cpus=table.several("cpus", int, "a list of core numbers"),
        link=_link(table.table("link")),
        cpu_peak=_peak(peak.table("cpu")),
        gpu_peak=_peak(peak.table("gpu")),
        costs=_costs(table.table("costs")),
        learned=_learned(table.table("learned", {})),
        opencl=_opencl(table.table("opencl", {})),
    )
    peak.done()
    table.done()
    return target


def _tvm_table(table: _Table, kind: str) -> dict[str, Any]:
    """TVM's own keys: TVM checks them, in ``cpu_target`` and ``gpu_target``."""
    if table.data.get("kind") != kind:
        raise table.fail("kind", f"must be '{kind}', found {table.data.get('kind')!r}")
    if "host" in table.data:
        raise table.fail("host", "must not be set; the CPU lane is the GPU lane's host")
    return table.data


def _link(table: _Table) -> Link:
    mode = table.text("mode")
    if mode not in ("host", "cross"):
        raise table.fail("mode", f"must be 'host' or 'cross', found '{mode}'")
    commands = table.several("commands", str, "a list of commands")
    if mode == "cross" and not commands:
        raise table.fail("commands", "must name at least one linker to try")
    options = table.several("options", str, "a list of options")
    link = Link(cast(Any, mode), commands, options, table.text("hint", ""))
    table.done()
    return link


def _peak(table: _Table) -> LanePeak:
    shares = table.table("efficiency", {})
    peak = LanePeak(
        gflops=table.number("gflops", 1e-3),
        gbytes_per_s=table.number("gbytes_per_s", 1e-3),
        launch_us=table.number("launch_us", 0),
        efficiency={k: shares.number(k, 1e-6, 1) for k in KERNEL_KINDS if k in shares.data},
        default_efficiency=table.number("default_efficiency", 1e-6, 1, default=0.5),
    )
    shares.known = list(KERNEL_KINDS)
    shares.done()
    table.done()
    return peak


def _costs(table: _Table) -> TargetCosts:
    def transfer(key: str) -> Transfer:
        inner = table.table(key)
        result = Transfer(inner.number("latency_us", 0), inner.number("gbytes_per_s", 1e-3))
        inner.done()
        return result

    costs = TargetCosts(
        to_gpu=transfer("to_gpu"),
        to_cpu=transfer("to_cpu"),
        enqueue_us=table.number("enqueue_us", 0),
        cpu_contention=table.number("cpu_contention", 1, 2, default=1),
        gpu_contention=table.number("gpu_contention", 1, 2, default=1),
    )
    table.done()
    return costs


def _opencl(table: _Table) -> OpenCLLimits:
    default = OpenCLLimits()
    lanes = table.whole("max_vector_lanes", default.max_vector_lanes)
    if lanes not in VECTOR_LANES:
        raise table.fail("max_vector_lanes", f"must be one of 1, 2, 4, 8, 16, found {lanes}")
    weights = table.text("weights", default.weights)
    if weights not in WEIGHT_MEMORIES:
        raise table.fail("weights", f"must be 'buffer' or 'texture', found '{weights}'")
    limits = OpenCLLimits(
        max_vector_lanes=lanes,
        max_buffer_bytes=table.whole("max_buffer_bytes", default.max_buffer_bytes),
        extensions=table.several("extensions", str, "a list of names of OpenCL extensions"),
        weights=cast(Any, weights),
    )
    table.done()
    return limits


def _learned(table: _Table) -> dict[Lane, LearnedLane]:
    """The lanes that have trained cost models."""
    found: dict[Lane, LearnedLane] = {}
    for lane in LANES:
        inner = table.table(lane, {})
        models = {
            dtype: _model(inner.text(dtype), inner.file)
            for dtype in ("float32", "float16")
            if inner.data.get(dtype)
        }
        inner.known += ["float32", "float16"]
        speed = inner.number("speed", 1e-3, default=1)
        bias = inner.number("network_bias", 0.1, 10, default=1)
        inner.data = {k: v for k, v in inner.data.items() if v != ""}
        inner.done()
        if models:
            found[lane] = LearnedLane(models, speed, bias)
    table.done()
    return found


def _model(name: str, file: str) -> Path:
    """A model that ships, by name, or a file: its path starts at the target's file."""
    if name.endswith(".npz") or "/" in name:
        return Path(file).parent / name
    return TRAINED / f"{name}.npz"
