"""Targets: one TOML file per device, and the loader that checks it.

``load_target("rk3399")`` or ``load_target("path/to/my.toml")``; a file may start from another
one (``inherits = "rk3399"``) and override single keys.
"""

from syncnas_tvm.targets.host import LaneThreads, lane_threads
from syncnas_tvm.targets.loader import load_target, target_names
from syncnas_tvm.targets.model import (
    KERNEL_KINDS,
    LanePeak,
    LearnedLane,
    Link,
    Target,
    TargetCosts,
    Transfer,
)

__all__ = [
    "KERNEL_KINDS",
    "LanePeak",
    "LaneThreads",
    "LearnedLane",
    "Link",
    "Target",
    "TargetCosts",
    "Transfer",
    "lane_threads",
    "load_target",
    "target_names",
]
