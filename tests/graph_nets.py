"""Small Relax networks made by hand, and ways to run a Relax module: by torch, or compiled.

:class:`Net` writes networks; :func:`evaluate` runs a module operator by operator in torch, which
compiles nothing and so can try a great many plans; :func:`merge` puts several plans into one
module, :func:`run_on_llvm` and :func:`run_compiled` compile it with the project's own pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import tvm
from torch.nn import functional
from tvm import relax
from tvm.ir.expr import GenericConst

from syncnas_tvm.graph.calls import LANE_ATTR, calls_of
from syncnas_tvm.graph.dataflow import Dataflow, shape_of
from syncnas_tvm.graph.rebuild import emit_function, fresh_params
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.lane_types import FLOAT32, LaneTypes
from syncnas_tvm.lowering import build
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.lift_gpu_weights import WEIGHTS_FUNCTION
from syncnas_tvm.passes.place import Place
from syncnas_tvm.passes.rule import rules
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.runtime.lanes import gpu_device
from syncnas_tvm.schedule.packed_kernels import Records
from syncnas_tvm.targets import Target

Arrays = list[np.ndarray]
op = relax.op


class Net:
    """Writes ``main`` of a small network: methods emit operators and return their values."""

    def __init__(self, channels: int = 3, size: int = 16, batch: int = 1) -> None:
        self.builder = relax.BlockBuilder()
        self.input = relax.Var("x", relax.TensorType((batch, channels, size, size), "float32"))
        self.rng = np.random.default_rng(0)

    def build(self, body: Callable[[relax.Var], relax.Expr | Sequence[relax.Expr]]) -> tvm.IRModule:
        """The module whose ``main`` returns what ``body`` makes of the input."""

        def results() -> list[relax.Expr]:
            made = body(self.input)
            return list(made) if isinstance(made, list | tuple) else [made]

        emit_function(self.builder, "main", [self.input], results, {"num_input": 1}, private=False)
        return self.builder.get()

    def emit(self, expr: relax.Expr, name: str = "v") -> relax.Var:
        return self.builder.emit(expr, name_hint=name)

    def weights(self, *shape: int) -> relax.Expr:
        fan_in = max(1, int(np.prod(shape[1:])))
        return relax.const((self.rng.standard_normal(shape) * fan_in**-0.5).astype("float32"))

    def conv(
        self,
        x: relax.Var,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        name: str = "conv",
        depthwise: bool = False,
        bias: bool = True,
    ) -> relax.Var:
        channels = shape_of(x)[1]
        groups = channels if depthwise else 1
        y = op.nn.conv2d(
            x,
            self.weights(out, channels // groups, kernel, kernel),
            strides=(stride, stride),
            padding=(kernel // 2, kernel // 2),
            groups=groups,
        )
        y = self.emit(y, name)
        return self.emit(op.add(y, self.weights(1, out, 1, 1)), f"{name}_bias") if bias else y

    def depthwise(self, x: relax.Var, kernel: int = 3, stride: int = 1) -> relax.Var:
        return self.conv(x, shape_of(x)[1], kernel, stride, "depthwise", depthwise=True)

    def relu6(self, x: relax.Var) -> relax.Var:
        return self.emit(op.clip(x, 0, 6), "relu6")

    def relu(self, x: relax.Var) -> relax.Var:
        return self.emit(op.nn.relu(x), "relu")

    def mean(self, x: relax.Var) -> relax.Var:
        return self.emit(op.mean(x, [2, 3], True), "mean")

    def excite(self, x: relax.Var, squeezed: int) -> relax.Var:
        """Squeeze-and-excite."""
        y = self.relu(self.conv(self.mean(x), squeezed, name="reduce"))
        gate = self.emit(op.sigmoid(self.conv(y, shape_of(x)[1], name="expand_gate")), "gate")
        return self.emit(op.multiply(x, gate), "gated")

    def mbconv(
        self,
        x: relax.Var,
        hidden: int,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        se: str = "",
        squeezed: int = 8,
        residual: bool = True,
    ) -> relax.Var:
        """An inverted residual block; ``hidden`` 0: without expansion; ``se`` before or after."""
        y = self.relu6(self.conv(x, hidden, name="expand")) if hidden else x
        y = self.depthwise(y, kernel, stride)
        y = self.excite(y, squeezed) if se == "before" else y
        y = self.relu6(y)
        y = self.excite(y, squeezed) if se == "after" else y
        y = self.conv(y, out, name="project")
        if residual and shape_of(x) == shape_of(y):
            return self.emit(op.add(x, y), "residual")
        return y

    def basic(self, x: relax.Var, out: int, stride: int = 1) -> relax.Var:
        """ResNet's block of two 3x3 convolutions."""
        y = self.conv(self.relu(self.conv(x, out, 3, stride, "first")), out, 3, name="second")
        shortcut = x if shape_of(x) == shape_of(y) else self.conv(x, out, 1, stride, "downsample")
        return self.relu(self.emit(op.add(y, shortcut), "residual"))

    def attention(self, x: relax.Var) -> relax.Var:
        """The products of a map's pixels with each other, [1, pixels, pixels], scaled."""
        _, channels, height, width = (int(n) for n in x.ty.shape)
        keys = self.emit(op.reshape(x, (1, channels, height * width)), "keys")
        queries = self.emit(op.permute_dims(keys, [0, 2, 1]), "queries")
        products = self.emit(op.matmul(queries, keys), "products")
        return self.emit(op.multiply(products, relax.const(0.25, "float32")), "scaled")

    def mlp(self, x: relax.Var, hidden: int) -> relax.Var:
        """A transformer's dense layers on a map's pixels as tokens, [1, pixels, channels]."""
        _, channels, height, width = (int(n) for n in x.ty.shape)
        flat = op.reshape(x, (1, channels, height * width))
        tokens = self.emit(op.permute_dims(flat, [0, 2, 1]), "tokens")
        y = self.emit(op.matmul(tokens, self.weights(channels, hidden)), "up")
        y = self.emit(op.nn.gelu(self.emit(op.add(y, self.weights(hidden)), "up_bias")), "gelu")
        y = self.emit(op.matmul(y, self.weights(hidden, channels)), "down")
        y = self.emit(op.add(y, self.weights(channels)), "down_bias")
        return self.emit(op.add(tokens, y), "residual")

    def slice(self, x: relax.Var, begin: int, end: int) -> relax.Var:
        return self.emit(op.strided_slice(x, [1], [begin], [end]), "slice")

    def mix(
        self, x: relax.Var, hidden: int, out: int, kernels: Sequence[int] = (3, 5)
    ) -> relax.Var:
        """MixNet's block: expanded channels in groups, each with a depthwise kernel of its own."""
        y = self.relu(self.conv(x, hidden, name="expand")) if hidden else x
        width = shape_of(y)[1] // len(kernels)
        parts = [
            self.depthwise(self.slice(y, i * width, (i + 1) * width), kernel)
            for i, kernel in enumerate(kernels)
        ]
        y = self.relu(self.emit(op.concat(parts, 1), "mixed"))
        return self.conv(y, out, name="project")

    def rexnet(self, x: relax.Var, hidden: int, out: int) -> relax.Var:
        """ReXNet's block: the input is added to the first channels of the output only."""
        channels = shape_of(x)[1]
        y = self.mbconv(x, hidden, out, residual=False)
        front = self.emit(op.add(self.slice(y, 0, channels), x), "residual")
        return self.emit(op.concat([front, self.slice(y, channels, out)], 1), "widened")

    def head(self, x: relax.Var, channels: int, classes: int) -> relax.Var:
        """Convolution, mean and classifier."""
        y = self.mean(self.relu6(self.conv(x, channels, name="head")))
        y = self.emit(op.reshape(y, (shape_of(y)[0], channels)), "flat")
        y = self.emit(op.matmul(y, self.weights(channels, classes)), "classifier")
        return self.emit(op.add(y, self.weights(classes)), "classifier_bias")


def graph_of(
    body: Callable[[Net, relax.Var], relax.Expr], step: int = 8, **net: int
) -> RegionGraph:
    """The regions of a network that ``body`` writes."""
    maker = Net(**net)
    return RegionGraph(maker.build(lambda x: body(maker, x)), step)


# Running plans.


RUNS = 6
"""Plans with a decision on several regions that :func:`all_plans` gives."""


def all_plans(graph: RegionGraph) -> list[Plan]:
    """As few plans as there are variants: plan i has each region's i-th variant, in turns.

    Of the decisions on several regions, of which there are hundreds, a few from all over.
    """
    variants = [
        [d for rule in rules() if rule.applies(graph, region) for d in rule.variants(graph, region)]
        for region in graph.regions
    ]
    single = [[d for d in here if len(d.regions) == 1] for here in variants]
    plans = [
        Plan(tuple(here[i % len(here)] for here in single)) for i in range(max(map(len, single)))
    ]
    runs = [(i, d) for i, here in enumerate(variants) for d in here if len(d.regions) > 1]
    for start, decision in runs[:: max(1, len(runs) // RUNS)]:
        lane = placed(graph, "cpu")
        plans.append(Plan((*lane[:start], decision, *lane[start + len(decision.regions) :])))
    return plans


def placed(graph: RegionGraph, lane: str) -> tuple[Decision, ...]:
    """Every region on ``lane``."""
    return tuple(Decision.of(region.name, Place.name, lane=lane) for region in graph.regions)


def merge(graph: RegionGraph, plans: Iterable[Plan]) -> tvm.IRModule:
    """One applied module for all ``plans``: its ``main`` returns the outputs of each in turn."""
    builder = relax.BlockBuilder()
    params = fresh_params(graph.mod["main"].params)

    def body() -> list[relax.Expr]:
        results: list[relax.Expr] = []
        for number, plan in enumerate(plans):
            mod = apply_plan(graph, plan)
            main = calls_of(mod, mod["main"])
            env = dict(zip(main.params, params, strict=True))
            for call in main.calls:
                name = f"{call.callee.name_hint}_v{number}"
                # A region's name tells phases apart: two plans' regions must not be the same.
                region = f"{call.region}v{number}"
                function = relax.utils.copy_with_new_vars(call.function)
                callee = builder.add_func(function.with_attr("syncnas.region", region), name)
                value = builder.emit(relax.Call(callee, [env[arg] for arg in call.args]))
                many = len(call.results) > 1
                for i, result in enumerate(call.results):
                    if result is not None:
                        env[result] = builder.emit(relax.TupleGetItem(value, i)) if many else value
            results += [env[output] for output in main.outputs]
        return results

    emit_function(builder, "main", params, body, {"num_input": len(params)}, private=False)
    return builder.get()


def run_on_llvm(mod: tvm.IRModule, target: Target, inputs: Arrays) -> Arrays:
    """Compile an applied module with both lanes' functions on the CPU lane, and run it."""
    placed_mod = tvm.IRModule()
    for gv, function in mod.functions_items():
        if LANE_ATTR in (function.attrs or {}):
            function = function.with_attr(LANE_ATTR, "cpu")
        placed_mod[gv] = function
    return run_compiled(placed_mod, target, inputs)


def run_compiled(
    mod: tvm.IRModule,
    target: Target,
    inputs: Arrays,
    records: Records | None = None,
    types: LaneTypes = FLOAT32,
) -> Arrays:
    """Compile an applied module for ``target``, with tuning records if any, and run it here."""
    return run_executable(build(mod, target, types, records), uses_gpu(mod), inputs)


def uses_gpu(mod: tvm.IRModule) -> bool:
    """Whether an applied module has functions on the GPU lane."""
    return any(str((f.attrs or {}).get(LANE_ATTR)) == "gpu" for _, f in mod.functions_items())


def run_executable(executable: relax.VMExecutable, gpu: bool, inputs: Arrays) -> Arrays:
    """Run what was built, here; ``gpu``: its module uses the GPU lane."""
    devices = [tvm.cpu(0), *([gpu_device()] if gpu else [])]
    vm = relax.VirtualMachine(executable, devices)
    weights = list(vm[WEIGHTS_FUNCTION]()) if gpu else []
    result = vm["main"](*(tvm.runtime.tensor(a) for a in inputs), *weights)
    return [r.numpy() for r in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]


def random_inputs(mod: tvm.IRModule, seed: int = 0) -> Arrays:
    """Normal inputs for ``main``."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape_of(p)).astype("float32") for p in mod["main"].params]


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """max |a - b| / max |b|; infinite where the shapes differ or a number is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    difference = float(np.abs(found.astype("float64") - expected).max(initial=0.0))
    scale = float(np.abs(expected).max(initial=0.0))
    return difference / scale if difference else 0.0


# Operators in torch.


def evaluate(mod: tvm.IRModule, inputs: Arrays, name: str = "main") -> Arrays:
    """What ``name`` computes, by torch: operators on tensors and calls of other functions."""
    with torch.no_grad():
        result = _run(mod, mod[name], [torch.from_numpy(a) for a in inputs])
    results = result if isinstance(result, list) else [result]
    return [r.numpy() for r in results]


def _run(mod: tvm.IRModule, function: relax.Function, args: list[torch.Tensor]) -> object:
    env: dict[relax.Var, object] = dict(zip(function.params, args, strict=True))

    def value(expr: relax.Expr) -> object:
        if isinstance(expr, relax.Var):
            return env[expr]
        if isinstance(expr, GenericConst):
            return torch.from_numpy(expr.value.numpy())
        if isinstance(expr, relax.Tuple):
            return [value(field) for field in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return value(expr.tuple_value)[expr.index]
        if isinstance(expr, relax.ShapeExpr):
            return [int(n) for n in expr.values]
        if isinstance(expr, relax.Call):
            if isinstance(expr.op, tvm.ir.GlobalVar):
                return _run(mod, mod[expr.op], [value(arg) for arg in expr.args])
            arguments = [value(arg) for arg in expr.args]
            return _TORCH[expr.op.name.removeprefix("relax.")](expr, *arguments)
        return getattr(expr, "value", expr)

    for block in function.body.blocks:
        for binding in block.bindings:
            found = value(binding.value)
            _check_shape(binding.var, found)
            env[binding.var] = found
    return value(function.body.body)


def _check_shape(var: relax.Var, found: object) -> None:
    """Relax must have inferred what torch computes."""
    for type_, part in zip(
        var.ty.fields if isinstance(found, list) else [var.ty],
        found if isinstance(found, list) else [found],
        strict=True,
    ):
        shape = tuple(int(n) for n in type_.shape)
        assert tuple(part.shape) == shape, f"{var.name}: {tuple(part.shape)}, typed {shape}"


def _pads(attrs: object) -> list[int]:
    """Relax's (top, left, bottom, right) in torch's order, innermost dimension first."""
    top, left, bottom, right = (int(p) for p in attrs.padding)
    return [left, right, top, bottom]


def _conv2d(call: relax.Call, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    a = call.attrs
    x = functional.pad(x, _pads(a))
    strides, dilation = [int(s) for s in a.strides], [int(d) for d in a.dilation]
    return functional.conv2d(x, w, None, strides, 0, dilation, int(a.groups))


def _pool(call: relax.Call, x: torch.Tensor, kind: str) -> torch.Tensor:
    a = call.attrs
    size, strides = [int(k) for k in a.pool_size], [int(s) for s in a.strides]
    _, _, height, width = (int(n) for n in call.ty.shape)
    left, right, top, bottom = _pads(a)
    # With ceil_mode the last window may reach over the padding.
    reach_y = max(0, (height - 1) * strides[0] + size[0] - top - x.shape[2])
    reach_x = max(0, (width - 1) * strides[1] + size[1] - left - x.shape[3])
    if kind == "max":
        x = functional.pad(x, [left, reach_x, top, reach_y], value=float("-inf"))
        return functional.max_pool2d(x, size, strides)[:, :, :height, :width]
    ones = functional.pad(
        torch.ones_like(x), [left, right, top, bottom], value=float(bool(a.count_include_pad))
    )
    extra = [0, max(0, reach_x - right), 0, max(0, reach_y - bottom)]
    total = functional.avg_pool2d(
        functional.pad(functional.pad(x, [left, right, top, bottom]), extra), size, strides
    )
    count = functional.avg_pool2d(functional.pad(ones, extra), size, strides)
    return (total / count)[:, :, :height, :width]


def _axes(call: relax.Call, x: torch.Tensor) -> list[int]:
    axis = call.attrs.axis
    return [int(a) for a in axis] if axis is not None else list(range(x.ndim))


def _slice(call: relax.Call, x: torch.Tensor, axes, begins, ends, strides=None) -> torch.Tensor:
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(axes):
        index[int(axis)] = slice(int(begins[i]), int(ends[i]), int(strides[i]) if strides else 1)
    return x[tuple(index)]


def _split(call: relax.Call, x: torch.Tensor) -> list[torch.Tensor]:
    axis = int(call.attrs.axis)
    sizes = [int(field.shape[axis]) for field in call.ty.fields]
    return list(torch.split(x, sizes, axis))


def _reshape(call: relax.Call, x: torch.Tensor, *_: object) -> torch.Tensor:
    return x.reshape([int(n) for n in call.ty.shape])


_TORCH: Mapping[str, Callable[..., object]] = {
    "nn.conv2d": _conv2d,
    "matmul": lambda c, x, w: x @ w,
    "add": lambda c, a, b: a + b,
    "subtract": lambda c, a, b: a - b,
    "multiply": lambda c, a, b: a * b,
    "divide": lambda c, a, b: a / b,
    "maximum": lambda c, a, b: torch.maximum(a, b),
    "minimum": lambda c, a, b: torch.minimum(a, b),
    "power": lambda c, a, b: a**b,
    "clip": lambda c, x, low, high: torch.clamp(x, float(low), float(high)),
    "sigmoid": lambda c, x: torch.sigmoid(x),
    "tanh": lambda c, x: torch.tanh(x),
    "exp": lambda c, x: torch.exp(x),
    "sqrt": lambda c, x: torch.sqrt(x),
    "erf": lambda c, x: torch.erf(x),
    "abs": lambda c, x: torch.abs(x),
    "negative": lambda c, x: -x,
    "nn.relu": lambda c, x: torch.relu(x),
    "nn.silu": lambda c, x: functional.silu(x),
    "nn.gelu": lambda c, x: functional.gelu(x),
    "nn.leakyrelu": lambda c, x: functional.leaky_relu(x, float(c.attrs.alpha)),
    "mean": lambda c, x: x.mean(_axes(c, x), keepdim=bool(c.attrs.keepdims)),
    "sum": lambda c, x: x.sum(_axes(c, x), keepdim=bool(c.attrs.keepdims)),
    "max": lambda c, x: torch.amax(x, _axes(c, x), keepdim=bool(c.attrs.keepdims)),
    "nn.max_pool2d": lambda c, x: _pool(c, x, "max"),
    "nn.avg_pool2d": lambda c, x: _pool(c, x, "avg"),
    "nn.layer_norm": lambda c, x, scale, shift: functional.layer_norm(
        x, scale.shape, scale, shift, float(c.attrs.epsilon)
    ),
    "nn.softmax": lambda c, x: torch.softmax(x, int(c.attrs.axis)),
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "flatten": _reshape,
    "permute_dims": lambda c, x: x.permute([int(a) for a in c.attrs.axes]),
    "nn.pad": lambda c, x, *_: functional.pad(
        x,
        [
            int(n)
            for pair in zip(c.attrs.pad_width[-2::-2], c.attrs.pad_width[::-2], strict=True)
            for n in pair
        ],
    ),
    "concat": lambda c, parts: torch.cat(parts, int(c.attrs.axis)),
    "split": _split,
    "strided_slice": _slice,
}


# What a split region should become.


class Expected:
    """Writes the module that a rule should make of a graph of one region.

    Weights come from the region by the names of its nodes, cut by slices; attributes are those of
    the node.
    """

    def __init__(self, graph: RegionGraph) -> None:
        (region,) = graph.regions
        self.graph = graph
        self.region = region.name
        self.nodes = {node.name: node for node in Dataflow(graph.function(region.name)).nodes}
        self.builder = relax.BlockBuilder()

    def module(self, body: Callable[..., relax.Expr]) -> tvm.IRModule:
        """The graph's module with the region's body written by ``body`` from its parameters."""
        params = fresh_params(self.graph.function(self.region).params)
        attrs = {"syncnas.region": self.region}
        emit_function(self.builder, self.region, params, lambda: [body(*params)], attrs)
        mod = self.graph.mod.clone()
        for gv, function in self.builder.get().functions_items():
            same = gv.name_hint == self.region
            mod[mod.get_global_var(self.region) if same else gv] = function
        return mod

    def lane(
        self, lane: str, phase: int, args: Sequence[relax.Expr], body: Callable[..., object]
    ) -> list[relax.Expr]:
        """Add a lane function and call it: its results."""
        attrs = {"syncnas.region": self.region, "syncnas.lane": lane, "syncnas.phase": phase}
        return self._call(f"{self.region}_p{phase}_{lane}", args, body, attrs)

    def join(
        self,
        phase: int,
        args: Sequence[relax.Expr],
        body: Callable[..., object] | None = None,
        kind: str = "sum",
    ) -> relax.Expr:
        """Add a join and call it; without ``body`` it adds its two arguments."""
        attrs = {"syncnas.region": self.region, "syncnas.join": kind, "syncnas.phase": phase}
        (result,) = self._call(f"{self.region}_join{phase}", args, body or self.add, attrs)
        return result

    def _call(
        self,
        name: str,
        args: Sequence[relax.Expr],
        body: Callable[..., object],
        attrs: dict[str, object],
    ) -> list[relax.Expr]:
        params = fresh_params(args)

        def results() -> list[relax.Expr]:
            made = body(*params)
            return list(made) if isinstance(made, tuple) else [made]

        callee = emit_function(self.builder, name, params, results, attrs)
        call = self.emit(relax.Call(callee, list(args)))
        if not isinstance(call.ty, relax.TupleType):
            return [call]
        return [self.emit(relax.TupleGetItem(call, i)) for i in range(len(call.ty.fields))]

    def emit(self, expr: relax.Expr) -> relax.Var:
        return self.builder.emit(expr)

    def constant(self, name: str, *parts: slice) -> relax.Expr:
        """The last constant of the node ``name``, cut by ``parts``."""
        value = next(o for o in self.nodes[name].operands[::-1] if isinstance(o, GenericConst))
        return relax.const(np.ascontiguousarray(value.value.numpy()[parts]))

    def conv(
        self, x: relax.Expr, name: str, out: slice = slice(None), into: slice = slice(None)
    ) -> relax.Var:
        """The convolution ``name`` with some of its output or input channels."""
        attrs, weight = self.nodes[name].attrs, self.constant(name, out, into)
        groups = shape_of(weight)[0] if int(attrs.groups) > 1 else 1
        return self.emit(
            op.nn.conv2d(x, weight, attrs.strides, attrs.padding, attrs.dilation, groups)
        )

    def bias(self, x: relax.Expr, name: str, part: slice = slice(None)) -> relax.Var:
        """The addition ``name_bias`` of some channels."""
        return self.add(x, self.constant(f"{name}_bias", slice(None), part))

    def biased(self, x: relax.Expr, name: str, out: slice = slice(None)) -> relax.Var:
        """Some output channels of the convolution ``name`` with their bias."""
        return self.bias(self.conv(x, name, out), name, out)

    def add(self, x: relax.Expr, y: relax.Expr) -> relax.Var:
        return self.emit(op.add(x, y))

    def relu(self, x: relax.Expr) -> relax.Var:
        return self.emit(op.nn.relu(x))

    def relu6(self, x: relax.Expr) -> relax.Var:
        return self.emit(op.clip(x, 0, 6))

    def slice(self, x: relax.Expr, part: slice) -> relax.Var:
        """Channels of ``x``."""
        return self.emit(op.strided_slice(x, [1], [part.start], [part.stop]))
