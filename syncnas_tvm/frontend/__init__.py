"""From an ONNX file to a Relax module in canonical form.

from syncnas_tvm.frontend import import_onnx

model = import_onnx("mobilenet_v2.onnx", {"input": (1, 3, 224, 224)})
model.mod.show()
"""

from syncnas_tvm.frontend.importer import (
    ImportedModel,
    OriginalModel,
    TensorSpec,
    import_onnx,
    normalize,
)
from syncnas_tvm.frontend.input_shapes import parse_input_shapes

__all__ = [
    "ImportedModel",
    "OriginalModel",
    "TensorSpec",
    "import_onnx",
    "normalize",
    "parse_input_shapes",
]
