"""intvit: integer-only Vision Transformers, lowered without training and compiled with Apache TVM.

    model = intvit.quantize("timm:deit_tiny_patch16_224", "images/", weights="deit.safetensors")
    compiled = intvit.compile(model)
    logits = compiled(images)
    intvit.export(model).save("deit.onnx")

Everything is imported on first use: running a compiled module needs neither torch nor TVM's compiler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intvit._version import __version__
from intvit.errors import IntvitError, UnsupportedOp, VerifyError

if TYPE_CHECKING:
    from intvit.compilation import compile_model as compile
    from intvit.integer_model import IntegerModel
    from intvit.loading import load
    from intvit.onnx_model import OnnxModel
    from intvit.passes.pipeline import PASSES
    from intvit.preprocess import Preprocessing
    from intvit.quantization import quantize
    from intvit.runtime import CompiledModel
    from intvit.to_onnx.file import export_onnx as export

__all__ = [
    "PASSES",
    "CompiledModel",
    "IntegerModel",
    "IntvitError",
    "OnnxModel",
    "Preprocessing",
    "UnsupportedOp",
    "VerifyError",
    "__version__",
    "compile",
    "export",
    "load",
    "quantize",
]

_LAZY = {
    "quantize": ("intvit.quantization", "quantize"),
    "compile": ("intvit.compilation", "compile_model"),
    "export": ("intvit.to_onnx.file", "export_onnx"),
    "load": ("intvit.loading", "load"),
    "IntegerModel": ("intvit.integer_model", "IntegerModel"),
    "CompiledModel": ("intvit.runtime", "CompiledModel"),
    "OnnxModel": ("intvit.onnx_model", "OnnxModel"),
    "Preprocessing": ("intvit.preprocess", "Preprocessing"),
    "PASSES": ("intvit.passes.pipeline", "PASSES"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'intvit' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
