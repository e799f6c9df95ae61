"""``WidenResiduals``: a residual of the first channels only becomes one of all channels."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.passes._dataflow import Rewriter, op_name, shape_of
from syncnas_tvm.passes._slices import channel_slice


@tvm.transform.module_pass(opt_level=0, name="WidenResiduals")
class WidenResiduals:
    """Add a value to the first channels of another by padding it with zeros.

    ReXNet's blocks add their input to as many channels of the output as it has. Written with
    slices and a concat, three kernels copy what the convolution in front could add itself.

    Before::

        a = R.add(R.strided_slice(y, axes=[1], begin=[0], end=[16]), x)
        z = R.concat((a, R.strided_slice(y, axes=[1], begin=[16], end=[27])), axis=1)

    After::

        z = R.add(y, R.nn.pad(x, (0, 0, 0, 11, 0, 0, 0, 0)))
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Widen every such residual."""
        return _Widener(mod).run()


class _Widener(Rewriter):
    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        if op_name(expr) != "relax.concat" or int(expr.attrs.axis or 0) != 1:
            return None
        if not isinstance(expr.args[0], relax.Tuple) or len(expr.args[0].fields) != 2:
            return None
        front, back = expr.args[0].fields
        total = self.producer(front, "relax.add")
        rest = channel_slice(self.definition(back))
        if total is None or rest is None or not self.single_use(front):
            return None
        for sliced, residual in (total.args, reversed(total.args)):
            part = channel_slice(self.definition(sliced))
            if part is None or not part[0].same_as(rest[0]) or part[1:] != (0, rest[1]):
                continue
            shape, own = shape_of(rest[0]), shape_of(residual)
            if shape is None or len(shape) != 4 or rest[2] != shape[1]:
                continue
            if own is None or own != (shape[0], rest[1], *shape[2:]):
                continue
            pads = [0, 0, 0, shape[1] - rest[1], 0, 0, 0, 0]
            padded = self.emit(relax.op.nn.pad(residual, pads), f"{name}_padded")
            return relax.op.add(rest[0], padded)
        return None
