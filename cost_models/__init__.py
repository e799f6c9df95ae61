"""Cost models: how long kernels take, behind one abstract class."""

from syncnas_tvm.cost_models.base import CostModel, FittedModel, kind_of
from syncnas_tvm.cost_models.in_network import InNetwork
from syncnas_tvm.cost_models.kernel_json import kernel_from_json, kernel_to_json
from syncnas_tvm.cost_models.learned import LearnedModel
from syncnas_tvm.cost_models.measured import MeasuredTable, Measurement
from syncnas_tvm.cost_models.roofline import Roofline
from syncnas_tvm.cost_models.table_file import TableFile, machine_key
from syncnas_tvm.cost_models.target_model import TargetModel, cost_model_of
from syncnas_tvm.cost_models.tophub import TopHubTable, read_tophub

__all__ = [
    "CostModel",
    "FittedModel",
    "InNetwork",
    "LearnedModel",
    "MeasuredTable",
    "Measurement",
    "Roofline",
    "TableFile",
    "TargetModel",
    "TopHubTable",
    "cost_model_of",
    "kernel_from_json",
    "kernel_to_json",
    "kind_of",
    "machine_key",
    "read_tophub",
]
