"""Weights in textures: OpenCL images that a GPU reads through a cache of their own, four channels at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import s_tir, te, tirx
from tvm.ir import Expr

from syncnas_tvm.work import Shape

TEXEL = 4
"""Channels of a texel: red, green, blue, alpha."""
# TVM's name of a tensor that is an image of shape[0] rows, its last dimension a texel.
_SCOPE = "global.texture-weight"


def texture_shape(shape: Shape) -> Shape | None:
    """``[O/V, ..., V out]`` as a texture: ``[O/4, ..., 4 out]``; None where 4 does not divide V."""
    blocks, *inner, vector = shape
    return None if vector % TEXEL else (blocks * (vector // TEXEL), *inner, TEXEL)


def image_size(texture: Shape) -> tuple[int, int]:
    """Width and height in texels."""
    return prod(texture[1:-1]), texture[0]


def to_texture(weight: np.ndarray) -> np.ndarray:
    """``[O/V, ..., V out]`` to ``[O/4, ..., 4 out]``."""
    split = weight.reshape(*weight.shape[:-1], -1, TEXEL)
    moved = np.moveaxis(split, -2, 1)
    return np.ascontiguousarray(moved.reshape(-1, *moved.shape[2:]))


@dataclass(frozen=True, eq=False)
class FromTexture:
    """A texture ``[O/4, ..., 4 out]``, read as if it were the tensor ``[O/V, ..., V out]``."""

    tensor: te.Tensor
    shape: Shape

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        block, *inner, channel = index
        texels = self.shape[-1] // TEXEL
        return self.tensor[(block * texels + channel // TEXEL, *inner, channel % TEXEL)]


def in_textures(function: tirx.PrimFunc, numbers: Iterable[int]) -> tirx.PrimFunc:
    """``function`` with the parameters of these ``numbers`` in textures."""
    params = [function.params[number] for number in numbers]
    images = [tirx.decl_buffer(p.ty.shape, p.ty.dtype, p.name, scope=_SCOPE) for p in params]
    return function.specialize(dict(zip(params, images, strict=True))) if params else function


def is_texture(param: tirx.Var) -> bool:
    """Whether a kernel's parameter is a texture."""
    return tirx.is_buffer_var(param) and param.scope() == _SCOPE


def fetch_texels(
    sch: s_tir.Schedule, acc: s_tir.schedule.SBlockRV, at: s_tir.schedule.LoopRV
) -> None:
    """Read the texels of a step of the reduction ``acc`` inside of loop ``at``, each once and whole."""
    for number, region in enumerate(sch.get(acc).reads):
        if is_texture(region.source):
            texels = sch.cache_read(acc, number, "local")
            sch.compute_at(texels, at, preserve_unit_loops=True)
            *outer, channel = list(sch.get_loops(texels))[-len(region.region) :]
            sch.vectorize(channel)
            for loop in outer:
                sch.unroll(loop)
