"""``RowSplit(cpu_rows)``: each lane computes a band of rows through a run of regions."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.errors import PlanError
from syncnas_tvm.graph.dataflow import Dataflow
from syncnas_tvm.graph.early_rows import Numbers, early_rows
from syncnas_tvm.graph.fusion import groups_of
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.graph.row_work import run_work, splits
from syncnas_tvm.graph.rows import ROWS, RowBands, RowStates
from syncnas_tvm.passes.lanes import replace_region
from syncnas_tvm.passes.row_lanes import RowWriter
from syncnas_tvm.passes.rule import SplitRule, register_rule
from syncnas_tvm.plan import BORDERS, Decision
from syncnas_tvm.work import Work

STEPS = 16


@register_rule
class RowSplit(SplitRule):
    """Divide the rows of a run's output: ``cpu_rows`` of them, from the top, are the CPU lane's.

    Each lane computes its band through all regions of the run, and the rows around it that its
    kernels reach (the halo), so nothing is exchanged until the run ends. There a lane gets the rows
    that what follows reads and it lacks: all of them, or where another run of bands follows its halo.
    Where a value is averaged over all rows (squeeze-and-excite), each lane does so over its own rows,
    and one small sync follows. Exact up to rounding.

    Before (56 rows)::

        def r1_r2(x): return conv3x3(conv3x3(x))

    With ``cpu_border`` and ``gpu_border``, each lane computes so many rows next to the cut first, in a
    kernel of their own: where another run of bands follows, they travel while the lane computes the rest
    (``r1_r2_p0_cpu_rest``, ...).

    After (``cpu_rows`` 20)::

        def r1_r2_p0_gpu(x): return conv3x3(conv3x3(x[18:56]))   # lane gpu, 36 rows
        def r1_r2_p0_cpu(x): return conv3x3(conv3x3(x[0:22]))    # lane cpu, 20 rows
        def r1_r2_join0(a, b): return concat(a, b)               # concat
        def r1_r2(x): return r1_r2_join0(r1_r2_p0_cpu(x), r1_r2_p0_gpu(x))
    """

    name = "RowSplit"

    def applies(self, graph: RegionGraph, region: Region) -> bool:
        """Where every operator of the region passes rows on."""
        return splits(graph, region.name)

    def variants(self, graph: RegionGraph, region: Region) -> list[Decision]:
        """Every run that starts here, its output cut in sixteenths."""
        found: list[Decision] = []
        first = graph.names.index(region.name)
        for last in range(first, len(graph.names)):
            if not splits(graph, graph.names[last]):
                break
            names = graph.names[first : last + 1]
            (shape,) = graph.region(names[-1]).out_shapes
            height = shape[ROWS]
            cuts = {round(height * i / STEPS) for i in range(1, STEPS)} - {0, height}
            for cut in sorted(cuts):
                decision = Decision.of(names, self.name, cpu_rows=cut)
                if run_work(graph, names, cut) is not None:
                    found.append(decision)
        return found

    def work(self, graph: RegionGraph, region: Region, decision: Decision) -> Work:
        """As the rewritten region would have it, without writing it: there are many variants."""
        for name in decision.regions:
            if not splits(graph, name):
                raise PlanError(f"region '{name}' cannot be split by rows; use Place")
        cut, early = self._cut(region, decision), self._early(region, decision)
        found = run_work(graph, decision.regions, cut, early)
        if found is None:
            raise self._impossible(region, decision)
        return found

    def rewrite(
        self, mod: tvm.IRModule, graph: RegionGraph, region: Region, decision: Decision
    ) -> tvm.IRModule:
        """Write a lane function per lane and phase, and the joins between them."""
        cut = self._cut(region, decision)
        function = mod[region.name]
        states = RowStates(Dataflow(function))
        height, numbers = region.out_shapes[0][ROWS], self._early(region, decision)
        if not states.splits:
            raise PlanError(f"region '{region.name}' cannot be split by rows; use Place")
        try:
            bands = RowBands(states, {"cpu": (0, cut), "gpu": (cut, height)})
        except ValueError as error:
            raise self._impossible(region, decision) from error
        early = None
        if numbers is not None:
            early = early_rows(states, groups_of(function, "cpu"), cut, height, numbers)
            if early is None:
                raise self._impossible(region, decision)

        def body(builder: relax.BlockBuilder, params: list[relax.Var]) -> list[relax.Expr]:
            return RowWriter(builder, region.name, bands, params, early).write()

        return replace_region(mod, region, body)

    @staticmethod
    def _cut(region: Region, decision: Decision) -> int:
        decision.expect("cpu_rows", *BORDERS)
        cut = decision.param("cpu_rows")
        height = region.out_shapes[0][ROWS] if len(region.out_shapes[0]) == 4 else 1
        if isinstance(cut, bool) or not isinstance(cut, int) or not 0 < cut < height:
            raise PlanError(
                f"region '{region.name}': cpu_rows is {cut!r}; use a whole number from 1 to "
                f"{height - 1}, for its output has {height} rows"
            )
        return cut

    @staticmethod
    def _early(region: Region, decision: Decision) -> Numbers | None:
        """The rows that each lane computes first; None where the decision names none."""
        given = dict(decision.params)
        if not any(name in given for name in BORDERS):
            return None
        numbers = tuple(decision.param(name) for name in BORDERS)
        for name, rows in zip(BORDERS, numbers, strict=True):
            if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
                raise PlanError(
                    f"region '{region.name}': {name} is {rows!r}; use a whole number from 1 on,"
                    " or leave both borders out"
                )
        return numbers  # type: ignore[return-value]

    @staticmethod
    def _impossible(region: Region, decision: Decision) -> PlanError:
        return PlanError(
            f"region '{region.name}': with cpu_rows {decision.param('cpu_rows')} a lane would have "
            "no rows of some layer; use another cut, narrower borders or a shorter run"
        )
