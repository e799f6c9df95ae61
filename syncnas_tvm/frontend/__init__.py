"""From an ONNX file to a Relax module in canonical form.

from syncnas_tvm.frontend import import_onnx

model = import_onnx("mobilenet_v2.onnx", {"input": (1, 3, 224, 224)})
model.mod.show()
"""

from syncnas_tvm.frontend.importer import ImportedModel, OriginalModel, TensorSpec, import_onnx
from syncnas_tvm.frontend.input_shapes import parse_input_shapes

__all__ = [
    "ImportedModel",
    "OriginalModel",
    "TensorSpec",
    "import_onnx",
    "normalize",
    "parse_input_shapes",
]


def __getattr__(name: str) -> object:
    # `normalize` needs TVM, which takes seconds to import: only when it is asked for.
    if name == "normalize":
        from syncnas_tvm.frontend.normalize import normalize

        return normalize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
