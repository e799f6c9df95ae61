"""Random small networks, as ONNX files, under random plans: outputs equal onnxruntime's.

More examples: SYNCNAS_EXAMPLES=1000 multiplies nothing and replaces the number of networks of the
torch and LLVM tests; examples then are random instead of the same ones every time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import graph_nets
import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from syncnas_tvm.errors import PlanError
from syncnas_tvm.frontend import ImportedModel, import_onnx
from syncnas_tvm.graph.region_graph import RegionGraph
from syncnas_tvm.passes.apply_plan import apply_plan
from syncnas_tvm.passes.rule import rules
from syncnas_tvm.passes.rule_contract import proposed
from syncnas_tvm.plan import Decision, Plan
from syncnas_tvm.targets import load_target

TOLERANCE = 1e-4
MORE = int(os.environ.get("SYNCNAS_EXAMPLES", "0"))
ACTIVATIONS = ("none", "relu", "relu6", "swish", "hard_swish", "sigmoid", "hard_sigmoid", "leaky")


def profile(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same examples every time, unless more are asked for."""
    return settings(
        max_examples=MORE or examples,
        derandomize=not MORE,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Block:
    """One building block of a random network; which fields count depends on ``kind``."""

    kind: str
    out: int
    hidden: int
    kernel: int
    stride: int
    act: str
    excite: str
    gate: str
    squeezed: int
    residual: bool
    bias: bool
    norm: bool
    parts: int


@dataclass(frozen=True)
class Network:
    """A random network: its image, blocks and head."""

    batch: int
    channels: int
    height: int
    width: int
    blocks: tuple[Block, ...]
    head: str
    classes: int
    seed: int


KINDS = (
    *("conv", "mbconv", "mbconv", "mbconv", "basic", "bottleneck", "mix", "rexnet", "pool"),
    *("fork", "twins", "fire", "dense", "shuffle", "grouped", "act"),
)
sizes = st.one_of(st.sampled_from([8, 16, 24, 32, 48]), st.integers(1, 40))
blocks = st.builds(
    Block,
    kind=st.sampled_from(KINDS),
    out=sizes,
    hidden=st.one_of(st.just(0), sizes, st.integers(33, 80)),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 1, 2]),
    act=st.sampled_from(ACTIVATIONS),
    excite=st.sampled_from(["", "", "before", "after"]),
    gate=st.sampled_from(["sigmoid", "hard_sigmoid"]),
    squeezed=st.integers(1, 20),
    residual=st.booleans(),
    bias=st.booleans(),
    norm=st.booleans(),
    parts=st.integers(2, 4),
)
networks = st.builds(
    Network,
    batch=st.sampled_from([1, 1, 1, 2]),
    channels=st.one_of(st.just(3), sizes),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    blocks=st.lists(blocks, min_size=1, max_size=5).map(tuple),
    head=st.sampled_from(["none", "classifier", "classifier", "mobile", "two", "softmax"]),
    classes=st.integers(1, 20),
    seed=st.integers(0, 9),
)


class Writer:
    """Writes a :class:`Network` as an ONNX graph; keeps the shape of each value."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.rng = np.random.default_rng(network.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        shape = (network.batch, network.channels, network.height, network.width)
        self.shapes: dict[str, tuple[int, ...]] = {"image": shape}

    def model(self) -> onnx.ModelProto:
        value = "image"
        for block in self.network.blocks:
            value = getattr(self, f"_{block.kind}")(value, block)
        outputs = self._head(value)
        graph = helper.make_graph(
            self.nodes,
            "random",
            [self._info("image")],
            [self._info(name) for name in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _info(self, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[name])

    def node(self, op: str, inputs: list[str], shape: tuple[int, ...], **attrs: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attrs))
        self.shapes[name] = shape
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape: int, fan_in: int = 1, mean: float = 0.0) -> str:
        values = self.rng.standard_normal(shape) * fan_in**-0.5 + mean
        return self.constant(values.astype("float32"))

    def conv(
        self, x: str, out: int, block: Block, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> str:
        batch, channels, height, width = self.shapes[x]
        each = channels // groups
        inputs = [x, self.random(out, each, kernel, kernel, fan_in=each * kernel**2)]
        if block.bias:
            inputs.append(self.random(out, fan_in=4))
        shape = (batch, out, -(-height // stride), -(-width // stride))
        pads = [kernel // 2] * 4
        y = self.node(
            "Conv", inputs, shape, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads,
            group=groups,
        )  # fmt: skip
        if not block.norm:
            return y
        scale, mean = self.random(out, fan_in=100, mean=1.0), self.random(out, fan_in=100)
        bias = self.random(out, fan_in=100)
        variance = self.constant(self.rng.uniform(0.5, 2.0, out).astype("float32"))
        return self.node("BatchNormalization", [y, scale, bias, mean, variance], shape)

    def act(self, x: str, kind: str) -> str:
        shape = self.shapes[x]
        if kind == "relu6":
            low, high = (self.constant(np.array(v, "float32")) for v in (0, 6))
            return self.node("Clip", [x, low, high], shape)
        if kind == "swish":
            return self.node("Mul", [x, self.node("Sigmoid", [x], shape)], shape)
        if kind == "leaky":
            return self.node("LeakyRelu", [x], shape, alpha=0.1)
        if kind == "hard_sigmoid":
            return self.node("HardSigmoid", [x], shape, alpha=1 / 6)
        names = {"relu": "Relu", "hard_swish": "HardSwish", "sigmoid": "Sigmoid"}
        return self.node(names[kind], [x], shape) if kind in names else x

    def add(self, x: str, y: str) -> str:
        return self.node("Add", [x, y], self.shapes[y])

    def concat(self, parts: list[str]) -> str:
        batch, _, height, width = self.shapes[parts[0]]
        channels = sum(self.shapes[p][1] for p in parts)
        return self.node("Concat", parts, (batch, channels, height, width), axis=1)

    def split(self, x: str, sizes: list[int]) -> list[str]:
        """The parts of ``x`` along the channels."""
        batch, _, height, width = self.shapes[x]
        names = [f"part{len(self.nodes)}_{i}" for i in range(len(sizes))]
        self.nodes.append(
            helper.make_node("Split", [x, self.constant(np.array(sizes))], names, axis=1)
        )
        self.shapes.update(
            {n: (batch, s, height, width) for n, s in zip(names, sizes, strict=True)}
        )
        return names

    def slice(self, x: str, begin: int, end: int) -> str:
        batch, _, height, width = self.shapes[x]
        ends = [self.constant(np.array([v])) for v in (begin, end, 1)]
        return self.node("Slice", [x, *ends], (batch, end - begin, height, width))

    def excite(self, x: str, block: Block) -> str:
        shape = self.shapes[x]
        y = self.node("GlobalAveragePool", [x], (*shape[:2], 1, 1))
        y = self.act(self.conv(y, block.squeezed, block), "relu")
        gate = self.act(self.conv(y, shape[1], block), block.gate)
        return self.node("Mul", [x, gate], shape)

    def residual(self, x: str, y: str, block: Block) -> str:
        fits = block.residual and self.shapes[x] == self.shapes[y]
        return self.add(x, y) if fits else y

    # Blocks.

    def _conv(self, x: str, b: Block) -> str:
        return self.act(self.conv(x, b.out, b, b.kernel, b.stride), b.act)

    def _mbconv(self, x: str, b: Block) -> str:
        y = self.act(self.conv(x, b.hidden, b), b.act) if b.hidden else x
        channels = self.shapes[y][1]
        y = self.conv(y, channels, b, b.kernel, b.stride, groups=channels)
        y = self.excite(y, b) if b.excite == "before" else y
        y = self.act(y, b.act)
        y = self.excite(y, b) if b.excite == "after" else y
        out = self.shapes[x][1] if b.residual else b.out
        return self.residual(x, self.conv(y, out, b), b)

    def _basic(self, x: str, b: Block) -> str:
        y = self.act(self.conv(x, b.out, b, 3, b.stride), b.act)
        y = self.conv(y, b.out, b, 3)
        if self.shapes[x] != self.shapes[y]:
            x = self.conv(x, b.out, b, 1, b.stride)
        return self.act(self.add(x, y), b.act)

    def _bottleneck(self, x: str, b: Block) -> str:
        y = self.act(self.conv(x, max(1, b.hidden), b), b.act)
        y = self.act(self.conv(y, max(1, b.hidden), b, b.kernel, b.stride), b.act)
        y = self.conv(y, self.shapes[x][1] if b.residual else b.out, b)
        return self.act(self.residual(x, y, b), b.act)

    def _shares(self, channels: int, parts: int) -> list[int]:
        parts = min(parts, channels)
        return [channels // parts + (i < channels % parts) for i in range(parts)]

    def _mix(self, x: str, b: Block) -> str:
        """MixNet's block, expanded in parts too where ``residual`` is set."""
        y = x
        if b.hidden:
            if b.residual:
                parts = self.split(x, self._shares(self.shapes[x][1], b.parts))
                y = self.concat([self.conv(p, b.hidden, b) for p in parts])
            else:
                y = self.conv(x, b.hidden, b)
            y = self.act(y, b.act)
        parts = []
        for i, part in enumerate(self.split(y, self._shares(self.shapes[y][1], b.parts))):
            width = self.shapes[part][1]
            parts.append(self.conv(part, width, b, 2 * i + 1, b.stride, groups=width))
        y = self.act(self.concat(parts), b.act)
        y = self.excite(y, b) if b.excite else y
        return self.residual(x, self.conv(y, b.out, b), b)

    def _rexnet(self, x: str, b: Block) -> str:
        channels = self.shapes[x][1]
        y = self.act(self.conv(x, b.hidden, b), b.act) if b.hidden else x
        width = self.shapes[y][1]
        y = self.act(self.conv(y, width, b, 3, groups=width), b.act)
        y = self.conv(y, channels + b.out, b)
        front = self.add(self.slice(y, 0, channels), x)
        return self.concat([front, self.slice(y, channels, channels + b.out)])

    def _pool(self, x: str, b: Block) -> str:
        batch, channels, height, width = self.shapes[x]
        shape = (batch, channels, -(-height // b.stride), -(-width // b.stride))
        pads = [b.kernel // 2] * 4
        kind = "MaxPool" if b.bias else "AveragePool"
        more = {} if b.bias else {"count_include_pad": int(b.norm)}
        strides = [b.stride] * 2
        return self.node(
            kind, [x], shape, kernel_shape=[b.kernel] * 2, strides=strides, pads=pads, **more
        )

    def _fork(self, x: str, b: Block) -> str:
        """Parallel branches that are concatenated, or added."""
        branches = []
        for i in range(b.parts):
            y = self.act(self.conv(x, max(1, b.hidden), b), b.act)
            out = b.out if b.residual else b.out + i
            branches.append(self.conv(y, out, b, b.kernel if i % 2 else 1))
        if not b.residual:
            return self.act(self.concat(branches), b.act)
        total = branches[0]
        for branch in branches[1:]:
            total = self.add(total, branch)
        return self.act(total, b.act)

    def _twins(self, x: str, b: Block) -> str:
        """Two branches of several residual blocks, as SyncNAS's models have; some meet on the way."""
        block = replace(b, stride=1, residual=True)
        twins = [self.act(self.conv(x, b.out, b, stride=b.stride), b.act) for _ in range(2)]
        for i in range(b.parts):
            widths = (b.hidden, b.squeezed)
            twins = [
                self._mbconv(y, replace(block, hidden=w))
                for y, w in zip(twins, widths, strict=True)
            ]
            if i == 0 and b.bias:
                twins = [self.add(*twins)] * 2
        return self.add(*twins) if b.residual else self.concat(twins)

    def _fire(self, x: str, b: Block) -> str:
        y = self.act(self.conv(x, b.squeezed, b), b.act)
        branches = [self.act(self.conv(y, b.out, b, k), b.act) for k in (1, 3)]
        return self.concat(branches)

    def _dense(self, x: str, b: Block) -> str:
        for _ in range(2):
            y = self.conv(self.act(x, b.act), max(1, b.hidden), b)
            x = self.concat([x, self.conv(self.act(y, b.act), b.out, b, 3)])
        return x

    def _shuffle(self, x: str, b: Block) -> str:
        """Channel shuffle: channels are regrouped, which no cut survives."""
        batch, channels, height, width = self.shapes[x]
        groups = next((g for g in (4, 3, 2) if channels % g == 0), 1)
        split = (batch, groups, channels // groups, height, width)
        swapped = (batch, channels // groups, groups, height, width)
        y = self.node("Reshape", [x, self.constant(np.array(split))], split)
        y = self.node("Transpose", [y], swapped, perm=[0, 2, 1, 3, 4])
        return self.node("Reshape", [y, self.constant(np.array(self.shapes[x]))], self.shapes[x])

    def _grouped(self, x: str, b: Block) -> str:
        channels = self.shapes[x][1]
        groups = next((g for g in (b.parts, 2) if channels % g == 0), 1)
        y = self.conv(x, groups * b.out, b, b.kernel, b.stride, groups=groups)
        return self.conv(self.act(y, b.act), b.out, b)

    def _act(self, x: str, b: Block) -> str:
        return self.act(x, b.act)

    def _head(self, x: str) -> list[str]:
        network = self.network
        if network.head == "none":
            # A graph needs a node, and its output must not be its input.
            return [self.node("Relu", [x], self.shapes[x])]
        batch, channels = self.shapes[x][:2]
        pooled = self.node("GlobalAveragePool", [x], (batch, channels, 1, 1))
        y = self.node("Flatten", [pooled], (batch, channels))
        if network.head == "mobile":
            weight, bias = self.random(channels, 37, fan_in=channels), self.random(37)
            y = self.node(
                "HardSwish", [self.node("Gemm", [y, weight, bias], (batch, 37))], (batch, 37)
            )
            channels = 37
        weight = self.random(channels, network.classes, fan_in=channels)
        y = self.node("Gemm", [y, weight, self.random(network.classes)], (batch, network.classes))
        if network.head == "softmax":
            y = self.node("Softmax", [y], self.shapes[y], axis=-1)
        return [y, x] if network.head == "two" and x != "image" else [y]


@dataclass(frozen=True)
class Case:
    """An imported network with its regions, inputs, and onnxruntime's outputs."""

    model: ImportedModel
    graph: RegionGraph
    inputs: list[np.ndarray]
    expected: list[np.ndarray]


def case_of(network: Network, step: int) -> Case:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.onnx"
        onnx.save(Writer(network).model(), path)
        model = import_onnx(path)
        inputs = graph_nets.random_inputs(model.mod, network.seed)
        feeds = {s.name: a for s, a in zip(model.inputs, inputs, strict=True)}
        expected = model.original.run(feeds)
    graph = RegionGraph(model.mod, step)
    return Case(model, graph, inputs, [expected[s.name] for s in model.outputs])


def random_plan(graph: RegionGraph, seed: int) -> Plan:
    """Any variant of any rule for each region; runs of regions where a rule has them."""
    rng = np.random.default_rng(seed)
    decisions: list[Decision] = []
    start = 0
    while start < len(graph.regions):
        region = graph.regions[start]
        applying = [rule for rule in rules() if rule.applies(graph, region)]
        usable = [(r.name, found) for r in applying if (found := r.variants(graph, region))]
        # A rule first: some have many more variants than others. Splits more often than not.
        weights = np.array([1.0 if name == "Place" else 3.0 for name, _ in usable])
        _, variants = usable[rng.choice(len(usable), p=weights / weights.sum())]
        decision = variants[rng.integers(len(variants))]
        decisions.append(with_rows_first(graph, decision, rng))
        start += len(decisions[-1].regions)
    return Plan(tuple(decisions))


def with_rows_first(graph: RegionGraph, decision: Decision, rng: np.random.Generator) -> Decision:
    """Every other time, bands of which each lane computes a few rows first, where there are any."""
    cpu, gpu, wanted = rng.integers(1, 4, 3)
    if decision.rule != "RowSplit" or wanted == 1:
        return decision
    params = {**dict(decision.params), "cpu_border": int(cpu), "gpu_border": int(gpu)}
    border = Decision.of(decision.regions, decision.rule, **params)
    try:
        proposed(graph, border)
    except PlanError:
        return decision
    return border


def assert_close(found: list[np.ndarray], case: Case, what: object) -> None:
    for i, array in enumerate(found):
        expected = case.expected[i % len(case.expected)]
        error = graph_nets.relative_error(array, expected)
        assert error <= TOLERANCE, f"output {i}: {error:.2g} relative; {what}"


seeds = st.lists(st.integers(0, 10**6), min_size=3, max_size=3)
steps = st.sampled_from([1, 4, 8, 16])


@profile(150)
@given(networks, seeds, steps)
def test_any_plan_means_the_same(network: Network, seeds: list[int], step: int) -> None:
    case = case_of(network, step)
    for seed in seeds:
        plan = random_plan(case.graph, seed)
        mod = apply_plan(case.graph, plan)
        assert_close(graph_nets.evaluate(mod, case.inputs), case, plan)


@profile(42)
@given(networks, st.integers(0, 10**6), st.sampled_from([4, 8, 16]))
def test_compiled_for_the_cpu_lane(network: Network, seed: int, step: int) -> None:
    """Twelve plans in one module, which share most kernels: about 500 in all."""
    case = case_of(network, step)
    plans = [random_plan(case.graph, seed + i) for i in range(12)]
    found = graph_nets.run_on_llvm(
        graph_nets.merge(case.graph, plans), load_target("host"), case.inputs
    )
    assert_close(found, case, plans)


@profile(10)
@given(networks, seeds, st.sampled_from([4, 8, 16]))
def test_compiled_for_both_lanes(network: Network, seeds: list[int], step: int) -> None:
    case = case_of(network, step)
    plans = [random_plan(case.graph, seed) for seed in seeds]
    found = graph_nets.run_compiled(
        graph_nets.merge(case.graph, plans), load_target("host"), case.inputs
    )
    assert_close(found, case, plans)
