"""The canonical form of an imported model, and the pipeline that produces it.

What ``normalize`` guarantees, for float32 models whose operators allow it:

- One function ``main`` with one dataflow block; its parameters are the model's inputs, weights
  are constants. Bindings carry names made from the ONNX nodes. A single result is bound by the
  operator that computes it; several are a tuple in the block's last binding.
- A convolution is ``nn.conv2d`` (NCHW, OIHW, four paddings: top, left, bottom, right), its bias
  ``add(conv, const (1, C, 1, 1))``. A dense layer is ``matmul(x, const (K, N))`` and
  ``add(dense, const (N,))``. Zero padding in front of a convolution is in its ``padding``.
- No batch norm is left: it is in the weights, or one ``multiply`` and one ``add`` per channel.
- Element-wise arithmetic with a constant is ``add`` or ``multiply`` with the constant second;
  a constant with one element is a scalar (shape ``()``), except the bias of a convolution.
- Activations: see :class:`~syncnas_tvm.passes.canonicalize_activations.CanonicalizeActivations`.
- Global average pooling is ``mean(x, axis=[2, 3], keepdims=True)``.
- Convolutions of channel slices side by side are one convolution, with zeros in its weight.
- Squeeze, unsqueeze and flatten are ``reshape``; a split is one ``strided_slice`` per part;
  dropout, identities and casts to the same type are gone. Tuples appear as the operand of a
  ``concat`` and as the model's result, nowhere else.

Other operators stay as TVM's importer writes them. Nearly all are Relax operators; ``Einsum``,
``CumSum`` in reverse and ``Resize`` with a computed region of interest become ``call_tir``.

The form is a fixed point: normalising twice changes nothing.
"""

from __future__ import annotations

import tvm

from syncnas_tvm.passes.canonicalize_activations import CanonicalizeActivations
from syncnas_tvm.passes.canonicalize_arithmetic import CanonicalizeArithmetic
from syncnas_tvm.passes.canonicalize_pooling import CanonicalizePooling
from syncnas_tvm.passes.canonicalize_shapes import CanonicalizeShapes
from syncnas_tvm.passes.fold_batch_norm import FoldBatchNorm
from syncnas_tvm.passes.fold_constants import FoldConstants
from syncnas_tvm.passes.fold_padding import FoldPadding
from syncnas_tvm.passes.merge_convolutions import MergeConvolutions
from syncnas_tvm.passes.widen_residuals import WidenResiduals


def pipeline() -> tvm.transform.Sequential:
    """The passes in their order."""
    return tvm.transform.Sequential(
        [
            # Phase 1. Constants: every weight a plain constant, on the right-hand side.
            FoldConstants(),
            CanonicalizeArithmetic(),
            # Phase 2. Structure: one form each for data movement, pooling and padding.
            CanonicalizeShapes(),
            CanonicalizePooling(),
            CanonicalizeShapes(),  # the reshapes that pooling left behind a flatten
            FoldPadding(),
            # Phase 3. Batch norm: before activations, so that only their scalars are left.
            FoldBatchNorm(),
            # Phase 4. Activations.
            CanonicalizeActivations(),
            # Phase 5. Fewer and larger kernels: what was cut into slices of channels.
            MergeConvolutions(),
            WidenResiduals(),
        ],
        name="syncnas.normalize",
    )
