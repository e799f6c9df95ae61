"""What a training is of: base, data, recipe; and the models that it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from syncnas_tvm.errors import ConfigError
from syncnas_tvm.nas.branched import BranchedConfig
from syncnas_tvm.nas.branched_model import BranchedModel
from syncnas_tvm.nas.data import Data, DataOptions, DataSpec
from syncnas_tvm.nas.description import MULTIPLE, STEM_STRIDE, Network, check_width
from syncnas_tvm.nas.digest import digest_of
from syncnas_tvm.nas.inherit import inherit
from syncnas_tvm.nas.model import Mobile
from syncnas_tvm.nas.settings import TrainSettings
from syncnas_tvm.nas.trainer import Trainer
from syncnas_tvm.nas.weights import Weights
from syncnas_tvm.nas.zoo import network


@dataclass(frozen=True)
class TrainTask:
    """Trainings of a base network, or of branched configurations, with the same data and recipe.

    ``width`` scales what is trained, to channels that are multiples of ``multiple``, and
    ``options.size`` its images. ``weights`` are the base's, which models start from.
    """

    base: str
    data: DataSpec
    options: DataOptions
    settings: TrainSettings
    width: float = 1.0
    multiple: int = MULTIPLE
    weights: Weights | None = None
    device: str = field(default="cpu", compare=False)

    def __post_init__(self) -> None:
        check_width(self.width, self.base)

    @cached_property
    def network(self) -> Network:
        """The base network at width 1."""
        return network(self.base)

    @cached_property
    def images(self) -> Data:
        """The data set."""
        return self.data.load(self.options)

    def trained(self, config: BranchedConfig) -> BranchedConfig:
        """The configuration that is trained in the place of ``config``."""
        data = self.images
        return config.scaled(self.width, data.size, data.stem_stride, self.multiple)

    def base_model(self) -> Mobile:
        """The base network as it is trained, with its weights where there are some."""
        data = self.images
        model = Mobile(
            self.network.scaled(self.width, self.multiple),
            data.classes,
            inputs=data.channels,
            stem_stride=data.stem_stride or STEM_STRIDE,
            dropout=self.settings.dropout,
        )
        if self.weights is not None:
            self.weights.load(model)
        return model

    def branched_model(self, config: BranchedConfig) -> BranchedModel:
        """A fresh model of ``config``, scaled; it starts from the base's weights where there are some.

        Raises ConfigError where there are, and ``config`` is of another base.
        """
        data = self.images
        model = BranchedModel(
            self.trained(config), data.classes, inputs=data.channels, dropout=self.settings.dropout
        )
        if self.weights is not None:
            if not config.is_of(self.network):
                raise ConfigError(
                    f"'{config.name}' is not of '{self.base}', so it cannot start from"
                    f" {self.weights.path}; name its own base and that one's weights"
                )
            inherit(model, self.base_model())
        return model

    def trainer(self, config: BranchedConfig | None, path: Path | None) -> Trainer:
        """The training of ``config``, or of the base; what was interrupted goes on from ``path``."""
        torch.manual_seed(self.settings.seed)
        model: nn.Module
        if config is not None:
            name, model = config.name, self.branched_model(config)
            described = digest_of(model.config)
        else:
            name, model = self.base, self.base_model()
            described = digest_of(model.network)
        return Trainer(
            model,
            self.images,
            self.settings,
            path=path,
            device=self.device,
            teacher=self.base_model() if self.settings.distil and self.weights else None,
            origin={
                "model": f"{name} ({described})",
                "base weights": None if self.weights is None else self.weights.digest,
            },
        )
