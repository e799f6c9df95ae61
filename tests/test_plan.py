"""Plans and decisions: plain data, JSON in and out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncnas_tvm.errors import PlanError
from syncnas_tvm.plan import Decision, Plan

names = st.text(min_size=1, max_size=8)
keys = names.filter(lambda key: key not in ("regions", "rule"))
values = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.booleans())
decisions = st.builds(
    lambda regions, rule, params: Decision.of(regions, rule, **params),
    st.lists(names, min_size=1, max_size=3),
    names,
    st.dictionaries(keys.filter(lambda key: key != "self"), values, max_size=3),
)
plans = st.lists(decisions, max_size=4).map(lambda found: Plan(tuple(found)))


@given(plans)
def test_json_round_trip_keeps_the_plan_and_its_hash(plan: Plan) -> None:
    again = Plan.loads(json.dumps(plan.to_json()))
    assert again == plan
    assert hash(again) == hash(plan)


def test_parameters_are_in_one_order() -> None:
    assert Decision.of("r0", "Rule", b=1, a=2) == Decision.of(["r0"], "Rule", a=2, b=1)
    assert Decision.of("r0", "Rule", a=2).param("a") == 2


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(PlanError, match=r"ChannelSplit on r0 has no parameter 'gpu_share'"):
        Decision.of("r0", "ChannelSplit").param("gpu_share")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"decisions": {}}',
        '{"decisions": [], "format": 99}',
        '{"decisions": [1]}',
        '{"decisions": [{"rule": "Place"}]}',
        '{"decisions": [{"regions": ["r0"]}]}',
        '{"decisions": [{"regions": 3, "rule": "Place"}]}',
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.loads(text)


@pytest.mark.parametrize(
    ("decision", "found"),
    [
        (Decision.of([], "Place", lane="cpu"), r"Place\(lane='cpu'\) names no region"),
        (
            Decision.of(["r0", "r1"], "Place", lane=["cpu"]),
            r"lane=\['cpu'\]\) on r0\.\.r1 has a list",
        ),
    ],
)
def test_what_no_plan_can_decide_is_named(decision: Decision, found: str) -> None:
    with pytest.raises(PlanError, match=found):
        Plan.from_json({"decisions": [decision.to_json()]})
    with pytest.raises(PlanError, match=found):
        Plan((decision,)).covers(["r0", "r1"])


@pytest.mark.parametrize(
    ("decided", "found"),
    [
        ([["r0"]], r"region 'r1' 0 times"),
        ([["r0"], ["r1"], ["r1"]], r"region 'r1' 2 times"),
        ([["r0"], ["r1"], ["r9"]], r"region 'r9'"),
        ([["r1"], ["r0"]], r"not in the order"),
    ],
)
def test_a_plan_must_cover_the_models_regions(decided: list[list[str]], found: str) -> None:
    plan = Plan(tuple(Decision.of(regions, "Place") for regions in decided))
    with pytest.raises(PlanError, match=found):
        plan.covers(["r0", "r1"])


def test_one_decision_may_cover_several_regions() -> None:
    decisions: Any = (Decision.of(["r0", "r1"], "RowSplit"), Decision.of("r2", "Place"))
    Plan(decisions).covers(["r0", "r1", "r2"])
