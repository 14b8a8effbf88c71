"""Imports of the model libraries, which are optional, and what torchvision needs beside a CPU torch.

PyPI's torchvision is built for CUDA. Beside a CPU torch its compiled extension does not load, and then its own import
stops, because it attaches shapes to operators (`nms`, `qnms`) that nobody has defined. Their schemas are defined here
in that case only: where the extension loads, it defines them, and a second definition would be an error.
"""

import importlib
import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from intvit.errors import IntvitError

_SCHEMAS = ("nms", "qnms")
_kept: list[torch.library.Library] = []  # a library's definitions last as long as the object


def prepare_imports() -> None:
    """Make `import torchvision` work here; call it before timm and transformers, too. Twice does nothing."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or _defined() or not spec.submodule_search_locations:
        return
    for folder in spec.submodule_search_locations:
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            extension = Path(folder) / f"_C{suffix}"
            if extension.exists():
                try:
                    # torchvision loads the same file again, which does nothing
                    torch.ops.load_library(extension)
                except (OSError, ImportError):
                    continue  # built for another torch, or CUDA's libraries are not there
    if not _defined():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _SCHEMAS:
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)
        _kept.append(library)


def import_library(name: str) -> ModuleType:
    """timm, torchvision or transformers, or a line that says how to install it."""
    prepare_imports()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise IntvitError(f"{name} needs the package {error.name}: pip install {error.name}") from error
        raise IntvitError(f"{name} is not installed: pip install {name}, or pip install 'intvit[test]'") from None


def _defined() -> bool:
    return all(hasattr(torch.ops.torchvision, name) for name in _SCHEMAS)
