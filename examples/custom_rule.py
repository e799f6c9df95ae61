"""A split rule of one's own: the lanes share out the tokens of a transformer's MLP.

    python examples/custom_rule.py model.onnx

Each token goes through the dense layers by itself: a lane takes some tokens through all of them, with
one sync at the end. Installed packages register theirs as entry points of `syncnas_tvm.rules`.
"""

import sys

from tvm.relax import Call, op

import syncnas_tvm as syncnas

POINTWISE = ("add", "multiply", "divide", "erf", "nn.gelu", "nn.relu")


@syncnas.register_rule
class TokenSplit(syncnas.SplitRule):
    """``TokenSplit(cpu_tokens)``: the first tokens are the CPU lane's, the others the GPU lane's."""

    name = "TokenSplit"

    def applies(self, graph, region):
        """Where one [batch, tokens, features] goes in and one out, and nothing mixes the tokens."""
        if [len(shape) for shape in region.in_shapes] != [3] or len(region.out_shapes) != 1:
            return False
        tokens, nodes = region.in_shapes[0][1], syncnas.Dataflow(graph.function(region.name)).nodes
        return tokens > 1 and all(token_by_token(node, tokens) for node in nodes)

    def variants(self, graph, region):
        """The tokens in quarters."""
        cuts = sorted({region.in_shapes[0][1] * i // 4 for i in (1, 2, 3)} - {0})
        return [syncnas.Decision.of(region.name, self.name, cpu_tokens=n) for n in cuts]

    def rewrite(self, mod, graph, region, decision):
        """A lane function per lane on its tokens, and a join that puts them together."""
        flow, name = syncnas.Dataflow(mod[region.name]), region.name
        cut, tokens = decision.param("cpu_tokens"), region.in_shapes[0][1]

        def write(builder, params):
            def call(title, args, attrs, body):
                inner = syncnas.fresh_params(args)
                callee = syncnas.emit_function(builder, title, inner, lambda: [body(*inner)], attrs)
                return builder.emit(Call(callee, args))

            def part(lane, begin, end):
                def body(x):
                    env = {flow.params[0]: builder.emit(op.strided_slice(x, [1], [begin], [end]))}
                    syncnas.copy_nodes(builder, flow.nodes, env)
                    return env[flow.outputs[0]]

                return call(f"{name}_{lane}", params, syncnas.lane_attrs(name, lane, 0), body)

            gpu, cpu = part("gpu", cut, tokens), part("cpu", 0, cut)
            attrs = syncnas.join_attrs(name, "concat", 0)
            return [call(f"{name}_join", [cpu, gpu], attrs, lambda *x: op.concat(x, 1))]

        return syncnas.replace_region(mod, region, write)


def token_by_token(node, tokens):
    """Whether the node makes [batch, tokens, features], every token of the same token alone."""
    fixed = {i: syncnas.shape_of(o) for i, o in enumerate(node.operands) if syncnas.is_constant(o)}
    if len(node.shape) != 3 or node.shape[1] != tokens:
        return False
    if node.op == "matmul":  # a constant on the left would sum over the tokens
        return list(fixed) == [1] and len(fixed[1]) == 2
    if node.op == "nn.layer_norm":
        return [int(axis) % 3 for axis in node.attrs.axes] == [2]
    return node.op in POINTWISE and all(len(s) < 2 or s[-2] == 1 for s in fixed.values())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/custom_rule.py model.onnx")
    result = syncnas.compile_onnx(sys.argv[1], split_all=True)
    print(*result.plan.decisions, result.deviation, sep="\n")
