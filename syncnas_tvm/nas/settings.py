"""How a model is trained: SyncNAS's recipe, and proxies of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from syncnas_tvm.errors import InputError

LEARNING_RATES = {"mobilenet_v2": 0.256}
"""Initial learning rates of SyncNAS's readme; :data:`OTHERS` is FBNet's and MnasNet's."""
OTHERS = 0.512
REFERENCE_BATCH = 256
"""The batch that the initial learning rates are for; others scale them in proportion."""


@dataclass(frozen=True)
class TrainSettings:
    """The recipe: SGD with cosine annealing and warm restarts after a linear warm-up.

    ``learning_rate`` is that of a batch of 256. ``restart_epochs`` is the length of a cosine cycle (0:
    one cycle to the end). ``distil`` is the weight of the base's predictions against the labels, at
    temperature ``temperature``. ``ema`` is the decay of the averaged weights that are evaluated, 0 for
    none; it grows with the updates, so that short trainings are not averaged with their beginning.
    Raises InputError where a number is out of range.
    """

    epochs: int = 350
    batch: int = 256
    learning_rate: float = 0.256
    warmup_epochs: float = 10.0
    restart_epochs: float = 0.0
    weight_decay: float = 1e-5
    momentum: float = 0.9
    label_smoothing: float = 0.1
    ema: float = 0.9999
    distil: float = 0.0
    temperature: float = 2.0
    dropout: float = 0.2
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("epochs", self.epochs, 1, 100_000),
            ("batch", self.batch, 2, 1_000_000),
            ("learning rate", self.learning_rate, 1e-9, 1e3),
            ("warm-up", self.warmup_epochs, 0, self.epochs),
            ("restart", self.restart_epochs, 0, 1e6),
            ("label smoothing", self.label_smoothing, 0, 0.999),
            ("EMA decay", self.ema, 0, 0.999999),
            ("distillation", self.distil, 0, 1),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} {value:g} is not between {low:g} and {high:g}")

    @property
    def scaled_learning_rate(self) -> float:
        """The learning rate for the batch."""
        return self.learning_rate * self.batch / REFERENCE_BATCH

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a field per attribute."""
        return asdict(self)


def learning_rate(base: str) -> float:
    """The readme's initial learning rate of a base network, for a batch of 256."""
    return LEARNING_RATES.get(base, OTHERS)
