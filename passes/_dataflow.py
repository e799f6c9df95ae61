"""A forward rewriter over ``main``'s one dataflow block, shared by the normalising passes.

TVM's own ``PyExprMutator`` crosses from C++ into Python for every node and renames what it
rebuilds. These passes need three things it does not give: the definition and the number of
uses of an operand, bindings that keep their names (regions are shown to users by them), and
dead bindings gone when the pass ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import tvm
from tvm import relax

from syncnas_tvm.errors import ModelError

_MAX_STEPS = 32  # rewrites of one binding; far beyond any real chain, stops a rule that cycles


def main_block(mod: tvm.IRModule) -> relax.DataflowBlock:
    """The only dataflow block of ``main``; raises ModelError where there is another form."""
    blocks = mod["main"].body.blocks
    if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
        raise ModelError(
            f"'main' has {len(blocks)} binding blocks, expected a single dataflow block: "
            "control flow is not supported, remove If and Loop from the model"
        )
    return blocks[0]


def op_name(expr: relax.Expr | None) -> str:
    """``relax.nn.conv2d`` for a call of that operator, an empty string for anything else."""
    if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name)
    return ""


def constant(expr: relax.Expr | None) -> np.ndarray | None:
    """The value of a constant, or None."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def scalar(expr: relax.Expr | None) -> float | None:
    """The value of a constant with one element, or None."""
    value = constant(expr)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def shape_of(expr: relax.Expr) -> tuple[int, ...] | None:
    """The static shape of a tensor, or None where it is unknown, dynamic or not a tensor."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    dims = [int(d) if isinstance(d, (int, tvm.tirx.IntImm)) else None for d in shape.values]
    return None if None in dims else tuple(d for d in dims if d is not None)


def dtype_of(expr: relax.Expr) -> str:
    """The element type of a tensor, for example ``float32``; empty for anything else."""
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else ""


def const(value: np.ndarray | float, dtype: str = "float32") -> relax.Expr:
    """A Relax constant; scalars become tensors without dimensions."""
    return relax.const(np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value)), dtype)


def operands(expr: relax.Expr) -> Iterator[relax.Var]:
    """The variables that an expression in A-normal form reads, with repetition."""
    if isinstance(expr, tvm.ir.Var):
        yield expr
    elif isinstance(expr, tvm.ir.Call):
        for arg in expr.args:
            yield from operands(arg)
    elif isinstance(expr, relax.Tuple):
        for field in expr.fields:
            yield from operands(field)
    elif isinstance(expr, relax.TupleGetItem):
        yield from operands(expr.tuple_value)


class Rewriter:
    """Rewrites the bindings of ``main`` in order; subclasses override :meth:`rewrite`."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self._mod = mod
        self._builder = relax.BlockBuilder(mod)
        self._bindings: list[tuple[relax.Var, relax.Expr]] = []
        self._definitions: dict[relax.Var, relax.Expr] = {}
        self._replacements: dict[relax.Var, relax.Expr] = {}
        self._uses: Counter[relax.Var] = Counter()

    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        """What to compute in place of ``expr`` (bound to ``name``), or None to keep it."""
        raise NotImplementedError

    def binding_name(self, var: relax.Var) -> str:
        """The name that the binding of ``var`` gets."""
        return str(var.name)

    def run(self) -> tvm.IRModule:
        """Walk the block once and return a module with the new ``main``."""
        function = self._mod["main"]
        block = main_block(self._mod)
        for binding in block.bindings:
            self._uses.update(operands(binding.value))
        self._uses.update(operands(function.body.body))
        outputs: list[tuple[relax.Var, relax.Expr]] = []
        for binding in block.bindings:
            before = len(self._bindings)
            name = self.binding_name(binding.var)
            value = self.emit(_substitute(binding.value, self._replacements), name)
            self._replace(binding.var, value, created=len(self._bindings) > before)
            if not isinstance(binding.var, relax.DataflowVar):
                outputs.append((binding.var, value))
        return self._finish(function, outputs)

    def definition(self, expr: relax.Expr) -> relax.Expr | None:
        """The expression that a variable is bound to; None for parameters and constants."""
        return self._definitions.get(expr) if isinstance(expr, tvm.ir.Var) else None

    def single_use(self, expr: relax.Expr) -> bool:
        """Whether one binding alone reads this variable."""
        return isinstance(expr, tvm.ir.Var) and self._uses[expr] == 1

    def producer(self, expr: relax.Expr, *names: str) -> tvm.ir.Call | None:
        """The call that defines a variable, where it is a call of one of these operators."""
        found = self.definition(expr)
        return found if op_name(found) in names else None

    def emit(self, expr: relax.Expr, name: str) -> relax.Expr:
        """Rewrite an expression to its end and bind it; leaves come back as they are."""
        for _ in range(_MAX_STEPS):
            expr = self._builder.normalize(expr)
            changed = self.rewrite(name, expr)
            if changed is None:
                break
            expr = changed
        expr = self._builder.normalize(expr)
        if not isinstance(expr, (tvm.ir.Call, relax.TupleGetItem)):
            return expr
        var = relax.DataflowVar(name, expr.ty)
        self._bindings.append((var, expr))
        self._definitions[var] = expr
        self._uses[var] = 1
        return var

    def _replace(self, old: relax.Var, new: relax.Expr, created: bool) -> None:
        self._replacements[old] = new
        if isinstance(new, tvm.ir.Var):
            # An old variable that now stands for an earlier one hands its readers over.
            created = created and new.same_as(self._bindings[-1][0])
            self._uses[new] = self._uses[old] + (0 if created else self._uses[new] - 1)

    def _finish(
        self, function: relax.Function, outputs: Sequence[tuple[relax.Var, relax.Expr]]
    ) -> tvm.IRModule:
        live: set[relax.Var] = {var for _, value in outputs for var in operands(value)}
        kept = []
        for var, value in reversed(self._bindings):
            if var in live:
                live.update(operands(value))
                kept.append((var, value))
        promoted = [value for _, value in outputs if isinstance(value, tvm.ir.Var)]
        names = _Names([param.name for param in function.params])
        final: dict[relax.Var, relax.Expr] = {}
        bindings = []
        for var, value in reversed(kept):
            kind = relax.Var if var in promoted else relax.DataflowVar
            final[var] = kind(names.unique(var.name), var.ty)
            value = self._builder.normalize(_substitute(value, final))
            bindings.append(relax.VarBinding(final[var], value))
        results: dict[relax.Var, relax.Expr] = {}
        taken: set[relax.Var] = set()
        for old, value in outputs:
            if isinstance(value, tvm.ir.Var) and value in final and value not in taken:
                taken.add(value)
                results[old] = final[value]
                continue
            value = self._builder.normalize(_substitute(value, final))
            results[old] = relax.Var(names.unique(old.name), value.ty)
            bindings.append(relax.VarBinding(results[old], value))
        body = _substitute(function.body.body, results)
        main = relax.Function(
            function.params,
            relax.SeqExpr([relax.DataflowBlock(bindings)], body),
            body.ty,
            function.is_pure,
            function.attrs,
        )
        mod = self._mod.clone()
        mod.update_func(mod.get_global_var("main"), self._builder.normalize(main))
        return mod


class _Names:
    """Hands out names, each one once."""

    def __init__(self, taken: Sequence[str]) -> None:
        self._taken = set(taken)

    def unique(self, name: str) -> str:
        candidate, number = name, 0
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


def _substitute(expr: relax.Expr, env: dict[relax.Var, relax.Expr]) -> relax.Expr:
    """``expr`` with its variables replaced; the same object where nothing changes."""
    if isinstance(expr, tvm.ir.Var):
        return env.get(expr, expr)
    if not any(var in env for var in operands(expr)):
        return expr
    if isinstance(expr, tvm.ir.Call):
        args = [_substitute(arg, env) for arg in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_substitute(field, env) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        value = _substitute(expr.tuple_value, env)
        if isinstance(value, relax.Tuple):
            return value.fields[expr.index]
        return relax.TupleGetItem(value, expr.index)
    return expr
