"""Whether GPU kernels stay within what a target's OpenCL promises: launches, memory, OpenCL C.

:func:`launch_problems` looks at the scheduled kernels, :func:`source_problems` at their OpenCL C, and
:func:`compile_problems` has an OpenCL 1.2 compiler look at it.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import tvm
from tvm import tirx

from syncnas_tvm.lane_types import LaneTypes
from syncnas_tvm.lowering import lower
from syncnas_tvm.schedule.opencl_half import install
from syncnas_tvm.schedule.stack_sums import pipeline
from syncnas_tvm.schedule.texture import image_size, is_texture
from syncnas_tvm.targets import Target

# Every OpenCL 1.2 device takes kernels with this many bytes of arguments.
MAX_ARGUMENT_BYTES = 1024
POINTER_BYTES = 8
_WORD = re.compile(r"\b(?:u?(?:char|short|int|long)|float|half|double)(\d+)\b")
_MEMORY_CALL = re.compile(r"\b(?:vload|vstore)(?:_half)?(\d+)")
_EXTENSION = re.compile(r"#pragma OPENCL EXTENSION (\w+) *: *enable")
# What OpenCL C 1.2 does not have, or only with an extension: 2.0's and vendors' names.
_BEYOND = re.compile(
    r"\b(?:image\w*_t|sampler_t|double\d*|pipe|generic|atomic_\w*_explicit|work_group_\w+|sub_group_\w+"
    r"|intel_\w+|qcom_\w+|arm_\w+)\b|\b(?<!vload_)(?<!vstore_)half\d+\b"
)
# What of that kernels have whose weights are textures.
_TEXTURES = {"image2d_array_t", "sampler_t"}
# As TVM's code generator writes them: a line before each kernel, and declarations of all.
_SEPARATOR = "// Function: "
_DECLARATION = re.compile(r"^__kernel void .*\);\n", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass
class Nest:
    """One kernel launch: extents of its work groups and work items."""

    groups: dict[str, int]
    items: dict[str, int]


def gpu_kernels(mod: tvm.IRModule) -> Iterator[tuple[str, tirx.PrimFunc]]:
    """Name and function of the scheduled OpenCL kernels in a lowered module."""
    for gv, function in mod.functions_items():
        target = function.attrs.get("target") if isinstance(function, tirx.PrimFunc) else None
        if target is not None and target.kind.name == "opencl":
            yield gv.name_hint, function


def launch_problems(name: str, function: tirx.PrimFunc, target: Target) -> list[str]:
    """What is beyond the limits in the launches and buffers of a kernel."""
    most_items = int(target.gpu["max_threads_per_block"])
    most_local = int(target.gpu["max_shared_memory_per_block"])
    problems = []
    buffers = [param.ty for param in function.params if hasattr(param.ty, "shape")]
    if len(function.params) * POINTER_BYTES > MAX_ARGUMENT_BYTES:
        problems.append(f"{len(function.params)} arguments")
    local = 0
    for scope, shape, dtype in _allocations(function.body):
        size = _bytes(shape, dtype)
        local += size if scope == "shared" else 0
        if scope in ("", "global") and size > target.opencl.max_buffer_bytes:
            problems.append(f"a workspace of {size} bytes")
    problems += [
        f"a buffer of {_bytes(ty.shape, ty.dtype)} bytes"
        for ty in buffers
        if _bytes(ty.shape, ty.dtype) > target.opencl.max_buffer_bytes
    ]
    for size in (image_size(p.ty.shape) for p in function.params if is_texture(p)):
        if max(size) > target.texture_limit:
            problems.append(f"a texture of {size[0]} x {size[1]} texels")
    nests = list(launches(function.body))
    if not nests:
        problems.append("no launch")
    for nest in nests:
        if not nest.groups and not nest.items:
            problems.append("a launch without work items")
        if math.prod(nest.items.values()) > most_items:
            problems.append(f"a work group of {nest.items}")
        if any(size > 2**31 - 1 for size in nest.groups.values()):
            problems.append(f"work groups {nest.groups}")
    if local > most_local:
        problems.append(f"{local} bytes of local memory")
    return [f"{name}: {problem}" for problem in problems]


def launches(body: tirx.Stmt) -> Iterator[Nest]:
    """The nests of loops bound to a grid, outermost only."""
    if isinstance(body, tirx.For) and body.thread_binding is not None:
        nest = Nest({}, {})
        _collect(body, nest)
        yield nest
        return
    for child in _children(body):
        yield from launches(child)


def _collect(stmt: tirx.Stmt, nest: Nest) -> None:
    if isinstance(stmt, tirx.For) and stmt.thread_binding is not None:
        tag = str(stmt.thread_binding.thread_tag)
        kind = nest.items if tag.startswith("threadIdx") else nest.groups
        kind[tag] = max(kind.get(tag, 1), int(stmt.extent))
    for child in _children(stmt):
        _collect(child, nest)


def _children(stmt: tirx.Stmt) -> list[tirx.Stmt]:
    if isinstance(stmt, tirx.SeqStmt):
        return list(stmt.seq)
    block = getattr(stmt, "block", None)
    inner = [block] if block is not None else []
    inner += [getattr(stmt, name, None) for name in ("body", "init", "then_case", "else_case")]
    return [child for child in inner if child is not None]


def _allocations(stmt: tirx.Stmt) -> Iterator[tuple[str, list[int], str]]:
    for buffer in getattr(stmt, "alloc_buffers", None) or []:
        yield _scope(buffer), list(buffer.ty.shape), str(buffer.ty.dtype)
    for child in _children(stmt):
        yield from _allocations(child)


def _scope(buffer: tirx.Var) -> str:
    scope = buffer.scope
    return str(scope() if callable(scope) else scope)


def _bytes(shape: list[int], dtype: object) -> int:
    return math.prod(int(n) for n in shape) * tvm.DataType(str(dtype)).bits // 8


def source_problems(source: str, target: Target) -> list[str]:
    """What OpenCL C of a target's kernels may not contain."""
    code = _COMMENT.sub("", source)
    most, problems = target.opencl.max_vector_lanes, []
    widths = {int(n) for pattern in (_WORD, _MEMORY_CALL) for n in pattern.findall(code)}
    problems += [f"vectors of {width}" for width in sorted(widths) if width > most]
    declared = set(target.opencl.extensions)
    problems += [f"extension {name}" for name in set(_EXTENSION.findall(code)) - declared]
    beyond = {found[0] for found in _BEYOND.finditer(code)}
    if target.opencl.weights == "texture":
        beyond -= _TEXTURES
    problems += [f"'{name}'" for name in sorted(beyond)]
    return problems


class Compiler:
    """The OpenCL compiler of this machine's first device, asked for OpenCL C 1.2."""

    def __init__(self) -> None:
        self.cl = ctypes.CDLL("libOpenCL.so.1")
        for name in ("clCreateContext", "clCreateProgramWithSource", "clCreateKernel"):
            getattr(self.cl, name).restype = ctypes.c_void_p
        platform, self.device = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self.cl.clGetPlatformIDs(1, ctypes.byref(platform), None))
        everything = ctypes.c_uint64(0xFFFFFFFF)
        self._check(
            self.cl.clGetDeviceIDs(platform, everything, 1, ctypes.byref(self.device), None)
        )
        code = ctypes.c_int()
        self.context = ctypes.c_void_p(
            self.cl.clCreateContext(
                None, 1, ctypes.byref(self.device), None, None, ctypes.byref(code)
            )
        )
        self._check(code.value)

    def _check(self, code: int) -> None:
        assert code == 0, f"OpenCL error {code}"

    def problems(self, source: str) -> list[str]:
        """The compiler's first complaints; a warning is one too."""
        code, text = ctypes.c_int(), ctypes.c_char_p(source.encode())
        program = ctypes.c_void_p(
            self.cl.clCreateProgramWithSource(
                self.context, 1, ctypes.byref(text), None, ctypes.byref(code)
            )
        )
        self._check(code.value)
        options = b"-cl-std=CL1.2 -Werror"
        built = self.cl.clBuildProgram(program, 1, ctypes.byref(self.device), options, None, None)
        log = self._log(program) if built else ""
        self.cl.clReleaseProgram(program)
        return [line for line in log.splitlines() if "error" in line][:3] or ["failed"] * bool(
            built
        )

    def _log(self, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        question = (program, self.device, ctypes.c_uint(0x1183))
        self.cl.clGetProgramBuildInfo(*question, ctypes.c_size_t(0), None, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value + 1)
        self.cl.clGetProgramBuildInfo(*question, size, text, None)
        return text.value.decode(errors="replace")


def kernel_source(module: tvm.runtime.Module) -> str:
    """The OpenCL C in a built module and in those imported into it."""
    if module.kind == "opencl":
        return str(module.inspect_source("cl"))
    return "".join(kernel_source(inner) for inner in module.imports)


def kernel_texts(source: str) -> dict[str, str]:
    """OpenCL C of each kernel in a module's source by name; the texts do not have the name."""
    texts = {}
    for part in source.split(_SEPARATOR)[1:]:
        name, body = part.split("\n", 1)
        texts[name] = _DECLARATION.sub("", body).replace(f" {name}(", " kernel_main(").strip()
    return texts


@dataclass(frozen=True)
class Checked:
    """An applied plan's GPU kernels, and all problems that they have."""

    kernels: dict[str, str]  # by name: OpenCL C
    launched: frozenset[str]  # what is run: each function's kernels with their extents
    problems: list[str]


def check(mod: tvm.IRModule, target: Target, types: LaneTypes, compiler: Compiler) -> Checked:
    """Hold the GPU kernels of an applied plan against ``target``."""
    functions = dict(gpu_kernels(lower(mod, target, types)))
    found = [p for name, f in functions.items() for p in launch_problems(name, f, target)]
    install()
    with tvm.transform.PassContext(opt_level=3):
        built = tvm.compile(
            tvm.IRModule(functions), target=target.gpu_target(), tir_pipeline=pipeline()
        )
    source = kernel_source(built.mod)
    kernels = kernel_texts(source)
    return Checked(
        kernels,
        frozenset(_launched(name, f, kernels) for name, f in functions.items()),
        found + source_problems(source, target) + compiler.problems(source),
    )


def _launched(name: str, function: tirx.PrimFunc, kernels: dict[str, str]) -> str:
    """Everything that says what a function does on the GPU, but for its name."""
    own = re.compile(re.escape(name) + r"_kernel(_\d+)?$")
    texts = [text for kernel, text in kernels.items() if own.match(kernel)]
    nests = list(launches(function.body))
    assert len(texts) == len(nests), f"{name}: {len(texts)} kernels, {len(nests)} launches"
    return "\n".join([*texts, *map(str, nests)])


def problems(mod: tvm.IRModule, target: Target, types: LaneTypes, compiler: Compiler) -> list[str]:
    """All problems of an applied plan's GPU kernels."""
    return check(mod, target, types, compiler).problems
