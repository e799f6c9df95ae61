"""The planner: search strategies over what can be decided for each region of a model."""

from syncnas_tvm.planner.base import (
    DEFAULT_BUDGET,
    STRATEGIES,
    Budget,
    SearchResult,
    Strategy,
    Trial,
    register_strategy,
    strategy,
)
from syncnas_tvm.planner.choose import Choice, choose, choose_fixed
from syncnas_tvm.planner.cost_mode import MODES, CostMode, ModeName, kernels_of
from syncnas_tvm.planner.exhaustive import Exhaustive
from syncnas_tvm.planner.fixed import single_lane, split_all
from syncnas_tvm.planner.frontier import DP, Beam
from syncnas_tvm.planner.greedy import Greedy
from syncnas_tvm.planner.mcts import MCTS
from syncnas_tvm.planner.random_search import RandomSearch
from syncnas_tvm.planner.space import Candidate, Space, plan_of
from syncnas_tvm.planner.state_file import StateFile

__all__ = [
    "DEFAULT_BUDGET",
    "DP",
    "MCTS",
    "MODES",
    "STRATEGIES",
    "Beam",
    "Budget",
    "Candidate",
    "Choice",
    "CostMode",
    "Exhaustive",
    "Greedy",
    "ModeName",
    "RandomSearch",
    "SearchResult",
    "Space",
    "StateFile",
    "Strategy",
    "Trial",
    "choose",
    "choose_fixed",
    "kernels_of",
    "plan_of",
    "register_strategy",
    "single_lane",
    "split_all",
    "strategy",
]
