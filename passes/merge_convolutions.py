"""``MergeConvolutions``: convolutions of parts of the channels become one convolution of all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, const, constant, op_name, shape_of
from syncnas_tvm.passes._slices import channel_slice


@tvm.transform.module_pass(opt_level=0, name="MergeConvolutions")
class MergeConvolutions:
    """Merge a concat of convolutions of a value's channel slices into one convolution of the value.

    MixNet's mixed depthwise convolutions and its grouped pointwise ones are written that way.
    Depthwise kernels are padded with zeros to the largest; dense convolutions become the blocks on
    the diagonal of one weight. The schedules find the zeros again and leave them out, so that
    nothing is computed in vain, nothing is sliced and nothing is copied.

    Before::

        a = R.strided_slice(x, axes=[1], begin=[0], end=[24])
        b = R.strided_slice(x, axes=[1], begin=[24], end=[48])
        z = R.concat((R.nn.conv2d(a, w3, padding=1, groups=24),
                      R.nn.conv2d(b, w5, padding=2, groups=24)), axis=1)

    After::

        z = R.nn.conv2d(x, concat(pad(w3), w5), padding=2, groups=48)

    Convolutions of the whole value side by side stay apart: they are branches, which may run on
    different lanes.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Merge wherever all parts of a concat are such convolutions."""
        return _Merger(mod).run()


@dataclass(frozen=True)
class _Branch:
    """A convolution of channels ``first`` to ``last`` of ``source``; ``bias`` per output channel."""

    source: relax.Expr
    first: int
    last: int
    call: tvm.ir.Call
    weight: np.ndarray
    bias: np.ndarray | None

    @property
    def depthwise(self) -> bool:
        return int(self.call.attrs.groups) == self.last - self.first == len(self.weight)


class _Merger(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        if op_name(expr) != "relax.concat" or int(expr.attrs.axis or 0) != 1:
            return None
        if not isinstance(expr.args[0], relax.Tuple):
            return None
        found = [self._branch(part) for part in expr.args[0].fields]
        branches = [branch for branch in found if branch is not None]
        if len(branches) < len(found) or not _side_by_side(branches):
            return None
        merged = _merge(branches)
        if merged is None:
            return None
        if all(branch.bias is None for branch in branches):
            return merged
        bias = [np.zeros(len(b.weight), "float32") if b.bias is None else b.bias for b in branches]
        convolution = self.emit(merged, f"{name}_merged")
        return relax.op.add(convolution, const(np.concatenate(bias).reshape(1, -1, 1, 1)))

    def _branch(self, value: relax.Expr) -> _Branch | None:
        bias = None
        call = self.producer(value, "relax.nn.conv2d", "relax.add")
        if call is None or not self.single_use(value):
            return None
        if op_name(call) == "relax.add":
            shift, data = constant(call.args[1]), call.args[0]
            shape = shape_of(data)
            if shift is None or shape is None or shift.shape != (1, shape[1], 1, 1):
                return None
            bias = shift.reshape(-1)
            call = self.producer(data, "relax.nn.conv2d")
            if call is None or not self.single_use(data):
                return None
        weight = constant(call.args[1])
        part = channel_slice(self.definition(call.args[0]))
        if weight is None or part is None or call.attrs.kernel_layout != "OIHW":
            return None
        return _Branch(*part, call, weight, bias)


def _side_by_side(branches: list[_Branch]) -> bool:
    """Whether the branches read neighbouring slices, in order, of the whole of one value."""
    source, at = branches[0].source, 0
    for branch in branches:
        if not branch.source.same_as(source) or branch.first != at:
            return False
        at = branch.last
    shape = shape_of(source)
    return len(branches) > 1 and shape is not None and len(shape) == 4 and at == shape[1]


def _merge(branches: list[_Branch]) -> relax.Expr | None:
    first = branches[0].call.attrs
    for attrs in (branch.call.attrs for branch in branches):
        same = (list(attrs.strides), list(attrs.dilation), attrs.data_layout)
        if same != (list(first.strides), list(first.dilation), first.data_layout):
            return None
    if all(branch.depthwise for branch in branches):
        return _merge_depthwise(branches)
    if all(int(branch.call.attrs.groups) == 1 for branch in branches):
        return _merge_dense(branches)
    return None


def _merge_depthwise(branches: list[_Branch]) -> relax.Expr | None:
    attrs = branches[0].call.attrs
    if any(int(d) != 1 for d in attrs.dilation):
        return None
    # Each kernel is put where its own padding says: all read around the same point.
    pads = np.array([[int(p) for p in b.call.attrs.padding] for b in branches])
    most = pads.max(axis=0)
    weights = []
    for branch, own in zip(branches, pads, strict=True):
        top, left, bottom, right = most - own
        weights.append(np.pad(branch.weight, ((0, 0), (0, 0), (top, bottom), (left, right))))
    if len({weight.shape[2:] for weight in weights}) > 1:
        return None  # their padding is not what makes their outputs the same size
    merged = np.concatenate(weights)
    return relax.op.nn.conv2d(
        branches[0].source,
        const(merged),
        strides=list(attrs.strides),
        padding=[int(p) for p in most],
        groups=len(merged),
    )


def _merge_dense(branches: list[_Branch]) -> relax.Expr | None:
    attrs = branches[0].call.attrs
    windows = {(b.weight.shape[2:], tuple(map(int, b.call.attrs.padding))) for b in branches}
    if len(windows) > 1:
        return None
    outs = sum(len(branch.weight) for branch in branches)
    merged = np.zeros((outs, branches[-1].last, *branches[0].weight.shape[2:]), "float32")
    at = 0
    for branch in branches:
        merged[at : at + len(branch.weight), branch.first : branch.last] = branch.weight
        at += len(branch.weight)
    return relax.op.nn.conv2d(
        branches[0].source,
        const(merged),
        strides=list(attrs.strides),
        padding=list(attrs.padding),
        dilation=list(attrs.dilation),
    )
