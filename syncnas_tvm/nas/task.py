"""What a search is of: a training, target and budget; and how one strategy is evaluated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from syncnas_tvm.cost_models import CostModel, cost_model_of, read_tophub
from syncnas_tvm.nas import checkpoint
from syncnas_tvm.nas.allocate import CAP, Allocation, Allocator
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.config_file import config_to_json, write_config
from syncnas_tvm.nas.counting import count
from syncnas_tvm.nas.description import MULTIPLE, Network
from syncnas_tvm.nas.scaled_base import scaled_base
from syncnas_tvm.nas.strategy import SyncStrategy
from syncnas_tvm.nas.study import DIGEST
from syncnas_tvm.nas.trainer import Report
from syncnas_tvm.nas.training import TrainTask
from syncnas_tvm.nas.worker import Outcome
from syncnas_tvm.nas.zoo import network
from syncnas_tvm.targets import Target, load_target


@dataclass(frozen=True, kw_only=True)
class SearchTask(TrainTask):
    """Everything that decides what a strategy's reward is.

    Widths are determined for images of 224 pixels at width 1, whatever is trained, which has the same
    ratios to the base. ``trunk`` scales the base that branches are made of, to channels that are
    multiples of ``trunk_multiple``; the budget stays a share of the whole base's latency.
    """

    target: str
    budget: float
    step: int = 4
    cap: float = CAP
    trunk: float = 1.0
    trunk_multiple: int = MULTIPLE
    measurements: tuple[Path, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """What two workers of one search have to agree on; raises DataError where there are no images."""
        settings = self.settings.to_json()
        settings.pop("threads")
        options = asdict(self.options)
        options.pop("workers")
        return {
            "base": self.base,
            "target": self.target,
            "budget": self.budget,
            "data": self.data.name,
            DIGEST: self.images.digest,  # machines may keep them in different folders
            "width": self.width,
            "multiple": self.multiple,
            "step": self.step,
            "cap": self.cap,
            "trunk": self.trunk,
            "trunk multiple": self.trunk_multiple,
            "measurements": [path.name for path in self.measurements],
            "inherits": self.weights is not None and self.weights.digest,
            **{f"data {key}": value for key, value in options.items()},
            **{f"training {key}": value for key, value in settings.items()},
        }

    @cached_property
    def network(self) -> Network:
        """The base network that branches are made of, at width 1."""
        return network(self.base).scaled(self.trunk, self.trunk_multiple)

    @cached_property
    def allocator(self) -> Allocator:
        """Determines the widths."""
        target = load_target(self.target)
        model = cost_model(target, self.measurements)
        whole = network(self.base)
        return Allocator(self.network, target, model, step=self.step, cap=self.cap, whole=whole)

    def fitted(self) -> SearchTask:
        """This search with the trunk of the base scaled to the budget (:func:`scaled_base`); takes seconds.

        Raises InputError where the base meets the budget at no width.
        """
        base = scaled_base(self.allocator, self.budget)
        return replace(self, trunk=base.width, trunk_multiple=base.multiple)

    def evaluate(self, strategy: SyncStrategy, report: Report | None = None) -> Outcome:
        """Determine the widths, train, and return the validation accuracy; 0 where nothing fits.

        A checkpoint is kept while the training goes on, so that whoever retries the strategy goes on
        from there.
        """
        started = time.monotonic()
        found = self.allocator.allocate(strategy, self.budget)
        facts = allocation_facts(found) | {"base_us": self.allocator.base_us}
        if found.config is None:
            return Outcome(0.0, facts)
        path = None if self.folder is None else self.folder / "training" / f"{strategy}.pth"
        trainer = self.trainer(found.config, path)
        accuracy = trainer.run(report, val_every=max(1, self.settings.epochs // 10))
        if self.folder is not None:
            write_config(found.config, self.folder / "configs" / f"{strategy}.json")
            weights = trainer.best_weights.state_dict()
            checkpoint.save(self.folder / "weights" / f"{strategy}.pth", weights)
        if path is not None:
            path.unlink(missing_ok=True)
        facts |= {
            "top5": accuracy.top5,
            "trained_macs": count(trainer.model, self.images.size, self.images.channels).macs,
            "seconds": time.monotonic() - started,
        }
        return Outcome(accuracy.top1, facts)


def allocation_facts(found: Allocation) -> dict[str, Any]:
    """What the study keeps of an allocation."""
    facts: dict[str, Any] = {
        "feasible": found.feasible,
        "latency_us": found.latency_us,
        "budget_us": found.budget_us,
        "idle_share": found.idle_share,
    }
    if found.config is not None:
        counts = count(BranchedModel(found.config))
        facts |= {"macs": counts.macs, "parameters": counts.parameters}
        facts["config"] = config_to_json(found.config)
    return facts


def cost_model(target: Target, measurements: Sequence[Path] = ()) -> CostModel:
    """TopHub's logs where some are given, else what ``compile`` predicts the target with: its learned
    models; its roofline where it has none (``host``, whose kernels ``compile`` measures)."""
    return read_tophub(measurements, target) if measurements else cost_model_of(target)
