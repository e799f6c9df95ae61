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
# Without the extension the device's own vload_half is a function of many steps. A half's bits at their
# places in a float's are its value times 2 to the -112 (infinity comes out as 65536).
_PRELUDE = """\
#ifdef cl_khr_fp16
#define load_half(p) vload_half(0, p)
#define load_half_n(n, p) vload_half##n(0, p)
#else
#define half_bits(n, bits) (as_float##n((as_uint##n(convert_int##n(bits)) << 13) & 0x8fffe000u) * 0x1p112f)
#define load_half(p) half_bits(, *(const __global short*)(p))
#define load_half_n(n, p) half_bits(n, vload##n(0, (const __global short*)(p)))
#endif

"""
# Where a kernel begins. In front of it every kernel of the module is declared.
_KERNEL = re.compile(r"^(?=__kernel .*\{$)", re.MULTILINE)
_POINTER = re.compile(r"__global half\* (?:restrict )?(\w+)")
# Values: types and conversions, but not the pointers.
_TYPE = re.compile(r"\b(convert_)?half(\d*)\b(?!\*)")
# A texel of halves: read as floats, which every device with images can do.
_TEXEL = re.compile(r"\bas_half(\d)\(READ_IMAGEH\(")
_SPLAT = re.compile(r"\(float\d+\)\(")
_CLOSING = {"(": ")", "[": "]"}


def install() -> None:
    """Have TVM's OpenCL code generator hand its code to :func:`store_half`."""
    tvm_ffi.register_global_func(
        POSTPROCESS, lambda source, _target: store_half(source), override=True
    )


def store_half(source: str) -> str:
    """``source`` with halves in memory only; unchanged where it has none."""
    source, found = _HEADER.subn(_PRELUDE, source)
    if not found:
        return source
    head, code = source.split(_PRELUDE)
    code = _TEXEL.sub(r"as_float\1(READ_IMAGEF(", code)
    code = _TYPE.sub(r"\1float\2", code)
    declarations, *kernels = _KERNEL.split(code)
    return head + _PRELUDE + declarations + "".join(map(_in_memory, kernels))


def _in_memory(kernel: str) -> str:
    """``kernel`` with loads and stores of its own halves: the same name may be of floats in another."""
    names = "|".join(sorted(set(_POINTER.findall(kernel))))
    if not names:
        return kernel
    kernel = re.sub(rf"\bvload(\d+)\(0, ({names})\b", r"load_half_n(\1, \2", kernel)
    vector_store = re.compile(rf"( *)vstore(\d+)(\(.*, 0, (?:{names}) \+ .*)")
    element = re.compile(rf"\b({names})\[")
    lines = [_statement(line, vector_store, element) for line in kernel.split("\n")]
    return "\n".join(lines)


def _statement(line: str, vector_store: re.Pattern[str], element: re.Pattern[str]) -> str:
    """A line of code: its store, then its loads of single elements."""
    line = _join_splats(line)
    if found := vector_store.fullmatch(line):
        line = f"{found[1]}vstore_half{found[2]}_rte{found[3]}"
    elif found := element.match(line.lstrip()):
        indent, text = " " * (len(line) - len(line.lstrip())), line.strip()
        end = _end(text, found.end(), "[")
        if text[end:].startswith("] = "):
            value = text[end + len("] = ") :].removesuffix(";")
            line = f"{indent}vstore_half_rte({value}, {text[found.end() : end]}, {found[1]});"
    parts, at = [], 0
    while found := element.search(line, at):
        end = _end(line, found.end(), "[")
        parts += [line[at : found.start()], f"load_half({found[1]} + {line[found.end() : end]})"]
        at = end + 1
    return "".join([*parts, line[at:]])


def _join_splats(line: str) -> str:
    """Vectors of equal elements from one element: it is then loaded and converted once."""
    parts, at = [], 0
    while found := _SPLAT.search(line, at):
        end = _end(line, found.end(), "(")
        elements = line[found.end() : end]
        first = elements[: _end(elements, 0, "(", stop=",")]
        count = int(found[0][len("(float") : -len(")(")])
        same = elements == ", ".join([first] * count)
        parts += [line[at : found.end()], first if same else elements]
        at = end
    return "".join([*parts, line[at:]])


def _end(text: str, start: int, opened: str, stop: str = "") -> int:
    """Where the bracket closes that was opened in front of ``start``, or the first ``stop`` in it."""
    depth = 0
    for at in range(start, len(text)):
        here = text[at]
        if depth == 0 and here in (_CLOSING[opened], stop):
            return at
        depth += (here in "([") - (here in ")]")
    return len(text)
