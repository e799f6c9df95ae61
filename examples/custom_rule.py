"""A split rule of one's own: the lanes share out the tokens of a transformer's MLP.

    python examples/custom_rule.py model.onnx

Each token goes through the dense layers by itself: a lane takes some tokens through all of them, with
one sync at the end. An installed package registers its rules through the entry point group
`syncnas_tvm.rules` instead; the commands see them too.
"""

import sys

from tvm import relax

import syncnas_tvm
from syncnas_tvm.graph.dataflow import Dataflow, is_constant, shape_of
from syncnas_tvm.graph.rebuild import copy_nodes, emit_function, fresh_params
from syncnas_tvm.passes.lanes import join_attrs, lane_attrs, replace_region
from syncnas_tvm.passes.rule import SplitRule, register_rule

PER_TOKEN = ("matmul", "add", "multiply", "nn.gelu", "nn.relu", "erf", "divide", "nn.layer_norm")


@register_rule
class TokenSplit(SplitRule):
    """``TokenSplit(cpu_tokens)``: the first tokens are the CPU lane's, the others the GPU lane's."""

    name = "TokenSplit"

    def applies(self, graph, region):
        """Where [batch, tokens, features] goes in and out and nothing mixes the tokens."""
        if len(region.in_shapes) != 1 or len(region.out_shapes) != 1:
            return False
        shapes = (region.in_shapes[0], region.out_shapes[0])
        if not all(len(shape) == 3 and shape[1] == shapes[0][1] > 1 for shape in shapes):
            return False
        nodes = Dataflow(graph.function(region.name)).nodes
        fixed = [shape_of(o) for node in nodes for o in node.operands if is_constant(o)]
        return all(n.op in PER_TOKEN for n in nodes) and all(len(s) < 3 or s[1] == 1 for s in fixed)

    def variants(self, graph, region):
        """The tokens in quarters."""
        cuts = sorted({region.in_shapes[0][1] * i // 4 for i in (1, 2, 3)} - {0})
        return [syncnas_tvm.Decision.of(region.name, self.name, cpu_tokens=n) for n in cuts]

    def rewrite(self, mod, graph, region, decision):
        """A lane function per lane on its tokens, and a join that puts them together."""
        flow = Dataflow(mod[region.name])
        cut, tokens = decision.param("cpu_tokens"), region.in_shapes[0][1]

        def lane_part(builder, x, lane, begin, end):
            params = fresh_params([x])

            def body():
                part = builder.emit(relax.op.strided_slice(params[0], [1], [begin], [end]))
                env = {flow.params[0]: part}
                copy_nodes(builder, flow.nodes, env)
                return [env[flow.outputs[0]]]

            attrs = lane_attrs(region.name, lane, 0)
            callee = emit_function(builder, f"{region.name}_{lane}", params, body, attrs)
            return builder.emit(relax.Call(callee, [x]))

        def write(builder, params):
            gpu = lane_part(builder, params[0], "gpu", cut, tokens)
            cpu = lane_part(builder, params[0], "cpu", 0, cut)
            both = fresh_params([cpu, gpu])
            attrs = join_attrs(region.name, "concat", 0)
            whole = lambda: [builder.emit(relax.op.concat(both, 1))]  # noqa: E731
            join = emit_function(builder, f"{region.name}_join", both, whole, attrs)
            return [builder.emit(relax.Call(join, [cpu, gpu]))]

        return replace_region(mod, region, write)


if __name__ == "__main__":
    result = syncnas_tvm.compile_onnx(sys.argv[1], split_all=True)
    for decision in result.plan.decisions:
        print(", ".join(decision.regions), decision.rule, dict(decision.params))
    print(result.deviation)
