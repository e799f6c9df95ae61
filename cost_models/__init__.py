"""Cost models: how long kernels take, behind one abstract class."""

from syncnas_tvm.cost_models.base import CostModel, kind_of
from syncnas_tvm.cost_models.kernel_json import kernel_from_json, kernel_to_json
from syncnas_tvm.cost_models.measured import MeasuredTable, Measurement
from syncnas_tvm.cost_models.roofline import Roofline
from syncnas_tvm.cost_models.table_file import TableFile, machine_key
from syncnas_tvm.cost_models.tophub import TopHubTable, read_tophub

__all__ = [
    "CostModel",
    "MeasuredTable",
    "Measurement",
    "Roofline",
    "TableFile",
    "TopHubTable",
    "kernel_from_json",
    "kernel_to_json",
    "kind_of",
    "machine_key",
    "read_tophub",
]
