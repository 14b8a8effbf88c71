"""`intvit.load`: any artifact by its suffix."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from intvit.errors import IntvitError

if TYPE_CHECKING:
    from intvit.cuda.runtime import CudaModel
    from intvit.integer_model import IntegerModel
    from intvit.onnx_model import OnnxModel
    from intvit.runtime import CompiledModel


def load(
    path: str | Path, threads: int | None = None, device: int = 0
) -> "IntegerModel | CompiledModel | CudaModel | OnnxModel":
    """The model in `path`: a compiled module (`.so`), an integer model (`.intvit`) or an exported one (`.onnx`).

    `.so` and `.onnx` need no torch. A module for GPUs is put on `device`. `threads` is for what runs on CPUs: how many
    cores it uses, by default all that this process may run on. Raises `IntvitError` for any other file.
    """
    suffix = Path(path).suffix
    if suffix == ".so" and (cuda := import_module("intvit.cuda.runtime")).is_cuda_module(Path(path)):
        if threads is not None:
            raise IntvitError(f"{path}: compiled for GPUs, where threads are not chosen: leave them out")
        return cuda.CudaModel.load(path, device)  # type: ignore[no-any-return]
    if suffix == ".so":
        return import_module("intvit.runtime").CompiledModel.load(path, threads)  # type: ignore[no-any-return]
    if suffix == ".intvit":
        return import_module("intvit.integer_model").IntegerModel.load(path)  # type: ignore[no-any-return]
    if suffix == ".onnx":
        return import_module("intvit.onnx_model").OnnxModel.load(path, threads)  # type: ignore[no-any-return]
    raise IntvitError(f"{path}: the suffix must be .so (compiled module), .intvit (integer model) or .onnx (exported)")
