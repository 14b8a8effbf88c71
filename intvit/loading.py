"""`intvit.load`: any artifact by its suffix."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from intvit.errors import IntvitError

if TYPE_CHECKING:
    from intvit.integer_model import IntegerModel
    from intvit.runtime import CompiledModel


def load(path: str | Path, threads: int | None = None) -> "IntegerModel | CompiledModel":
    """The model in `path`: a compiled module (`.so`, which needs no torch) or an integer model (`.intvit`).

    `threads` is for a compiled module: how many it uses, by default all cores this process may run on.
    """
    suffix = Path(path).suffix
    if suffix == ".so":
        return import_module("intvit.runtime").CompiledModel.load(path, threads)  # type: ignore[no-any-return]
    if suffix == ".intvit":
        return import_module("intvit.integer_model").IntegerModel.load(path)  # type: ignore[no-any-return]
    raise IntvitError(f"{path}: the suffix must be .so (compiled module) or .intvit (integer model)")
