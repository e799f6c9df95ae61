"""A partition pass of one's own: keeps the layers whose names match a pattern on one lane.

    python examples/custom_pass.py model.onnx "classifier|head" cpu

On the command line, for a pass that needs no arguments, from the folder of this file:

    python -m syncnas_tvm.compile model.onnx --output out --pass custom_pass:KeepHeads
"""

import re
import sys

import syncnas_tvm


class PinLayers:
    """Changes a plan so that regions with a layer called like ``pattern`` run on ``lane``."""

    def __init__(self, pattern: str, lane: str) -> None:
        self.pattern = re.compile(pattern)
        self.lane = lane

    def __call__(self, graph: syncnas_tvm.RegionGraph, plan: syncnas_tvm.Plan) -> syncnas_tvm.Plan:
        """The plan with those regions placed; a run that holds one of them is placed as a whole."""
        decisions: list[syncnas_tvm.Decision] = []
        for decision in plan.decisions:
            nodes = [node for name in decision.regions for node in graph.region(name).nodes]
            if any(self.pattern.search(node) for node in nodes):
                decisions += [self._place(name) for name in decision.regions]
            else:
                decisions.append(decision)
        return syncnas_tvm.Plan(tuple(decisions))

    def _place(self, region: str) -> syncnas_tvm.Decision:
        return syncnas_tvm.Decision.of(region, "Place", lane=self.lane)


class KeepHeads(PinLayers):
    """The classifier on the CPU, where its scores are read."""

    def __init__(self) -> None:
        super().__init__(r"(?i)classifier|head|fc|gemm", "cpu")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/custom_pass.py model.onnx PATTERN cpu|gpu")
    model, pattern, lane = sys.argv[1:]
    result = syncnas_tvm.compile_onnx(model, passes=[PinLayers(pattern, lane)])
    for decision in result.plan.decisions:
        print(", ".join(decision.regions), decision.rule, dict(decision.params))
    print(result.choice.reason)
    print(result.deviation)
