"""A checkpoint's weights, in our own names or another library's: what they are of, and loading them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from syncnas_tvm.errors import CheckpointError, InputError
from syncnas_tvm.nas import checkpoint
from syncnas_tvm.nas.digest import digest_of
from syncnas_tvm.nas.model import Mobile
from syncnas_tvm.nas.names import load_named, name_map
from syncnas_tvm.nas.zoo import network


@dataclass(frozen=True)
class Weights:
    """The weights in the file ``path``, whose names are those of ``scheme``; raises CheckpointError
    naming the file."""

    path: Path
    scheme: str = "own"

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Each weight by its name in the file."""
        return checkpoint.weights_of(checkpoint.read(self.path))

    @cached_property
    def digest(self) -> str:
        """Tells these weights from others, whatever the file is called."""
        return digest_of(*(part for item in sorted(self.state.items()) for part in item))

    def load(self, model: nn.Module) -> None:
        """Put the weights into ``model``; raises InputError where the scheme has no such model."""
        if self.scheme == "own":
            checkpoint.load_weights(model, self.state, self.path)
            return
        if not isinstance(model, Mobile):
            raise InputError(f"{self.scheme} has no branched networks; its names are for a base's")
        try:
            load_named(model, model.network, self.state, self.scheme)
        except InputError as error:
            raise CheckpointError(f"checkpoint {self.path}: {error}") from error

    def classes(self, base: str | None) -> int | None:
        """How many classes the classifier tells apart; ``base`` is the network, None a branched one."""
        found = self._weight(base, "classifier.1")
        return len(found) if found is not None and found.ndim == 2 else None

    def channels(self, base: str | None) -> int | None:
        """The channels of the images that the stem takes; see :meth:`classes`."""
        found = self._weight(base, "stem_conv.0")
        return found.shape[1] if found is not None and found.ndim == 4 else None

    def _weight(self, base: str | None, own: str) -> Tensor | None:
        name = own
        if base is not None and self.scheme != "own":
            name = dict(name_map(network(base), self.scheme))[own]
        return self.state.get(f"{name}.weight")
