"""Cost models: how long kernels take, behind one abstract class."""

from syncnas_tvm.cost_models.base import CostModel, kind_of
from syncnas_tvm.cost_models.roofline import Roofline

__all__ = ["CostModel", "Roofline", "kind_of"]
