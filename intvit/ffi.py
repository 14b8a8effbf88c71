"""TVM's foreign function interface, without torch.

`import tvm_ffi` imports torch wherever it is installed, for conversions that are not used here: some seconds and 300 MB
for a process that only runs a compiled module. A process that has torch already keeps it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["tvm_ffi"]


@contextmanager
def _without_torch() -> Iterator[None]:
    """Makes `import torch` fail inside, unless it was imported before."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


with _without_torch():
    import tvm_ffi
