"""What MetaSchedule needs around it to be of use here."""

from __future__ import annotations

import logging
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm.s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback


@derived_object
class ResultsCallback(PyMeasureCallback):
    """Hands MetaSchedule's results on."""

    def __init__(self, keep: Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], None]) -> None:
        super().__init__()
        self._keep = keep

    def apply(
        self,
        task_scheduler: Any,
        task_id: int,
        measure_candidates: list[Any],
        builder_results: list[Any],
        runner_results: list[Any],
    ) -> None:
        """See MetaSchedule's MeasureCallback."""
        self._keep(measure_candidates, builder_results, runner_results)


@contextmanager
def few_intrinsics() -> Iterator[None]:
    """An empty stand-in for ``tvm.s_tir.tensor_intrin``, which ``TuneContext`` imports.

    The real one takes 20 to 60 s, and no schedule of ours has an intrinsic in it.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    package = types.ModuleType(name)
    package.__path__ = [os.path.join(os.path.dirname(str(tvm.s_tir.__file__)), "tensor_intrin")]
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def silent() -> Iterator[None]:
    """MetaSchedule logs tables and every candidate."""
    logger = logging.getLogger("tvm.s_tir.meta_schedule")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
