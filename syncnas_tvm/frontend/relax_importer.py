"""TVM's ONNX importer, with names kept and a few operators converted our way."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from itertools import chain, count
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from syncnas_tvm.errors import ModelError
from syncnas_tvm.frontend.converters import CONVERTERS
from syncnas_tvm.frontend.model_file import first_line
from syncnas_tvm.frontend.slimming import quiet
from syncnas_tvm.passes._dataflow import Rewriter, main_block, op_name

_UNNAMED = re.compile(r"(lv|gv)\d*")  # what TVM's block builder calls a value


def convertible_operators() -> frozenset[str]:
    """The ONNX operators of the default domain that can be converted."""
    return frozenset(onnx_frontend._get_convert_map()) | CONVERTERS.keys()


def to_relax(model: onnx.ModelProto) -> tuple[tvm.IRModule, dict[str, str]]:
    """Convert a static model; also returns the ONNX node behind each binding's name.

    ``main`` takes the model's inputs; weights are constants. Raises :class:`ModelError` naming
    the node that could not be converted.
    """
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    importer = _Importer()
    with quiet():
        try:
            mod = importer.from_onnx(model.graph, opset)
        except BaseException:
            importer.close()
            raise
        mod = _NameIntermediates(mod, importer.bound_by_converters).run()
    return mod, importer.node_names


def identifier(name: str) -> str:
    """A name that TVMScript can print, letters, digits and underscores, and that is no region's."""
    cleaned = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    usable = cleaned and not re.match(r"r?\d", cleaned)
    return cleaned if usable else f"v_{cleaned}".rstrip("_")


class _Importer(onnx_frontend.ONNXGraphImporter):
    """Binds the result of each node to a variable named after it.

    The base class leaves results unbound until they are read, and calls all of them lv; it is
    part of TVM, whose version is pinned, but not of its documented interface.
    """

    def __init__(self) -> None:
        super().__init__({}, {}, keep_params_in_input=False)
        self.node_names: dict[str, str] = {}
        self.bound_by_converters: dict[str, str] = {}
        self._identifiers: dict[str, str] = {}

    def close(self) -> None:
        """End the blocks that an exception left open: the builder prints a warning otherwise."""
        with contextlib.suppress(tvm.error.InternalError):
            while True:
                self.bb._end_block()

    def _sanitize_name(self, name: str) -> str:
        return self._identifier(f"input {name}", identifier(name))

    def _identifier(self, key: str, wanted: str) -> str:
        """A name that nothing else in the module has; the same one for the same key."""
        if key not in self._identifiers:
            taken = set(self._identifiers.values())
            numbered = (f"{wanted}_{number}" for number in count(2))
            free = next(name for name in chain([wanted], numbered) if name not in taken)
            self._identifiers[key] = free
        return self._identifiers[key]

    def _convert_operator(
        self, op_name: str, inputs: list[relax.Expr], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        node = attrs["tvm_custom"]["name"]
        name = self._identifier(f"node {node}", identifier(node))
        self.node_names[name] = node
        try:
            own = CONVERTERS.get(op_name)
            if own is not None:
                result = own(self.bb, inputs, attrs, name)
            else:
                result = super()._convert_operator(op_name, inputs, attrs, opset)
            return self._bind(result, name)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"node '{node}' ({op_name}) cannot be converted: {first_line(error)}: "
                "export the model without it"
            ) from error

    def _bind(self, result: relax.Expr, name: str) -> relax.Expr:
        if isinstance(result, relax.Tuple):
            return relax.Tuple([self._bind(field, name) for field in result.fields])
        if tvm.ir.is_prim_expr(result):
            return result
        if isinstance(result, relax.DataflowVar) and _UNNAMED.fullmatch(result.name):
            self.bound_by_converters.setdefault(result.name, name)
        if not isinstance(result, (tvm.ir.Call, relax.TupleGetItem)):
            return result
        return self.bb.emit(result, name)


class _NameIntermediates(Rewriter):
    """Calls the unnamed steps of a node after it: ``lv7`` becomes ``head_Gemm_permute_dims``."""

    def __init__(self, mod: tvm.IRModule, known: Mapping[str, str]) -> None:
        super().__init__(mod)
        self._names: dict[relax.Var, str] = {}
        pending: list[relax.VarBinding] = []
        for binding in main_block(mod).bindings:
            name = known.get(binding.var.name, binding.var.name)
            if _UNNAMED.fullmatch(name):
                pending.append(binding)
                continue
            self._names[binding.var] = name
            self._name(pending, name)
            pending = []

    def _name(self, bindings: Iterable[relax.VarBinding], owner: str) -> None:
        for binding in bindings:
            kind = op_name(binding.value).rpartition(".")[2] or "item"
            self._names[binding.var] = f"{owner}_{kind}"

    def binding_name(self, var: relax.Var) -> str:
        return self._names.get(var, var.name)

    def rewrite(self, name: str, expr: relax.Expr) -> relax.Expr | None:
        return None
