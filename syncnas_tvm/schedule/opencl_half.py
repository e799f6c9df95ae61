"""OpenCL C that keeps tensors in half precision and computes in float.

TVM writes arithmetic of the type ``half``, which needs the extension ``cl_khr_fp16``; OpenCL on CPUs
(PoCL) and older mobile GPUs lack it. Pointers to ``half`` with ``vload_half`` and ``vstore_half`` are in
every OpenCL. So every value becomes a float: tensors are rounded to half as they are written, and
nothing in between is.
"""

from __future__ import annotations

import re

import tvm_ffi

POSTPROCESS = "tvm_callback_opencl_postproc"
# What TVM writes in front of a kernel with halves: an error where there is no extension.
_HEADER = re.compile(r"#ifdef cl_khr_fp16\n.*?#endif\n+", re.DOTALL)
_POINTER = re.compile(r"__global half\* (?:restrict )?(\w+)")
_SPLAT = re.compile(r"\(\(half(\d+)\)\((\w+\[[^;]+?\])(?:, \2)+\)\)")
# Values: types and conversions, but not the pointers.
_TYPE = re.compile(r"\b(convert_)?half(\d*)\b(?!\*)")


def install() -> None:
    """Have TVM's OpenCL code generator hand its code to :func:`store_half`."""
    tvm_ffi.register_global_func(
        POSTPROCESS, lambda source, _target: store_half(source), override=True
    )


def store_half(source: str) -> str:
    """``source`` with halves in memory only; unchanged where it has none."""
    source, found = _HEADER.subn("", source)
    if not found:
        return source
    source = _SPLAT.sub(r"((half\1)(\2))", source)
    source = _TYPE.sub(r"\1float\2", source)
    pointers = set(_POINTER.findall(source))
    names = "|".join(map(re.escape, sorted(pointers)))
    source = re.sub(rf"\bvload(\d+)\(0, ({names})\b", r"vload_half\1(0, \2", source)
    lines = [_line(line, names) for line in source.split("\n")]
    return "\n".join(lines)


def _line(line: str, names: str) -> str:
    """One statement: its store, then its loads of single elements."""
    vector = re.match(rf"( *)vstore(\d+)\((.*, 0, (?:{names}) \+ .*)$", line)
    if vector:
        line = f"{vector[1]}vstore_half{vector[2]}_rte({vector[3]}"
    single = re.match(rf"( *)({names})\[", line)
    if single:
        end = _closing(line, single.end())
        if line[end + 1 : end + 4] == " = ":
            value = line[end + 4 :].rstrip(";")
            index = line[single.end() : end]
            line = f"{single[1]}vstore_half_rte({value}, {index}, {single[2]});"
    while load := re.search(rf"\b({names})\[", line):
        end = _closing(line, load.end())
        call = f"vload_half({line[load.end() : end]}, {load[1]})"
        line = line[: load.start()] + call + line[end + 1 :]
    return line


def _closing(text: str, start: int) -> int:
    """Where the bracket closes that was opened just before ``start``."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"[": 1, "]": -1}.get(text[at], 0)
        if not depth:
            return at
    raise ValueError(f"no closing bracket in: {text}")
