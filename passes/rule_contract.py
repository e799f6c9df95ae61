"""What split rules promise, checked where they are called: one that breaks it is named in the error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import tvm
import tvm_ffi

from syncnas_tvm.errors import PlanError, RuleError, error_line
from syncnas_tvm.graph.region_graph import Region, RegionGraph
from syncnas_tvm.graph.region_work import written_calls
from syncnas_tvm.passes.rule import SplitRule, rule
from syncnas_tvm.plan import Decision
from syncnas_tvm.work import Work


def proposals(
    split_rule: SplitRule, graph: RegionGraph, region: Region
) -> list[tuple[Decision, Work]]:
    """The decisions that the rule has for ``region``, with their work."""
    found = []
    with _naming(split_rule, region):
        if split_rule.applies(graph, region):
            for decision in split_rule.variants(graph, region):
                _check_decision(decision, split_rule, region)
                found.append((decision, _work(split_rule, graph, decision)))
    return found


def proposed(graph: RegionGraph, decision: Decision) -> Work:
    """The work of any decision.

    Raises PlanError where the rule is not one for this region or refuses the parameters.
    """
    split_rule, region = _rule_of(graph, decision)
    with _naming(split_rule, region, refusal=PlanError):
        return _work(split_rule, graph, decision)


def rewritten(mod: tvm.IRModule, graph: RegionGraph, decision: Decision) -> tvm.IRModule:
    """``mod`` with the region, or run of regions, written as ``decision`` says.

    Raises PlanError where the rule is not one for this region or refuses the parameters.
    """
    split_rule, region = _rule_of(graph, decision)
    with _naming(split_rule, region, refusal=PlanError):
        written = split_rule.rewrite(mod, graph, region, decision)
        if not isinstance(written, tvm.IRModule):
            raise RuleError(f"its 'rewrite' is {written!r}; return the rewritten module")
        before, after = (m[region.name].ret_ty for m in (mod, written))
        if not tvm_ffi.structural_equal(before, after):
            raise RuleError(
                f"it returned {before} and now returns {after}; "
                "a rule has to keep the region's outputs"
            )
        written_calls(written, region.name)
    return written


def _rule_of(graph: RegionGraph, decision: Decision) -> tuple[SplitRule, Region]:
    """The rule, and the region or run that it is to split; PlanError where it does not apply there."""
    split_rule = rule(decision.rule)
    region = graph.run(decision.regions)
    with _naming(split_rule, region):
        applies = split_rule.applies(graph, graph.region(decision.regions[0]))
    if not applies:
        raise PlanError(
            f"rule {decision.rule} does not apply to region '{region.name}'; "
            "'inspect' lists the rules that do"
        )
    return split_rule, region


def _work(split_rule: SplitRule, graph: RegionGraph, decision: Decision) -> Work:
    work = split_rule.work(graph, graph.run(decision.regions), decision)
    if not isinstance(work, Work):
        raise RuleError(f"its 'work' is {work!r}; return a Work")
    return work


@contextmanager
def _naming(
    split_rule: SplitRule, region: Region, refusal: type[PlanError] | tuple[()] = ()
) -> Iterator[None]:
    """Makes a RuleError that names the rule and the region of all errors; a ``refusal`` keeps its type."""
    try:
        yield
    except Exception as error:
        kind = PlanError if isinstance(error, refusal) else RuleError
        raise kind(
            f"split rule {split_rule.name} failed on region '{region.name}': {error_line(error)}"
        ) from error


def _check_decision(decision: Decision, split_rule: SplitRule, region: Region) -> None:
    if not isinstance(decision, Decision):
        raise RuleError(f"one of its 'variants' is {decision!r}; return Decisions")
    decision.check()
    if decision.rule != split_rule.name:
        raise RuleError(f"its decision {decision} names another rule; name it '{split_rule.name}'")
    if decision.regions[0] != region.name:
        raise RuleError(
            f"its decision {decision} is on {', '.join(decision.regions)}; "
            "decide this region, or a run that starts with it"
        )
    _check_kept(decision)


def _check_kept(decision: Decision) -> None:
    """A plan is kept as JSON: a decision that comes back as another one cannot be found again."""
    advice = "make it with Decision.of, of strings, numbers, booleans and None"
    try:
        kept = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RuleError(
            f"a plan cannot keep its decision {decision} ({error}); {advice}"
        ) from error
    if Decision.from_json(kept) != decision:
        raise RuleError(f"a plan keeps its decision {decision} as {kept}; {advice}")
