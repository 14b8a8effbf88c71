"""A compiled module as a file: what is asked of it before anything of it runs, and a name to load it by."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from intvit.errors import IntvitError
from intvit.seal import check_seal
from intvit.verify.machine.elf import foreign_processor


def require_library(path: Path, what: str, remedy: str) -> None:
    """Raises `IntvitError` where there is no file, where it is damaged, and where it is for another processor.

    Of the last the line says that the file is `what` for that processor, and the remedy.
    """
    if not path.is_file():
        raise IntvitError(f"{path}: no such file")
    check_seal(path)
    processor = foreign_processor(path)
    if processor is not None:
        raise IntvitError(f"{path}: {what} for {processor}, which this machine is not: {remedy}")


@contextlib.contextmanager
def own_name(path: Path) -> Iterator[Path]:
    """Another name of a shared library, to load it by: the system knows a loaded library by its name alone.

    Under its own name a file that was replaced since would be taken for the one that is loaded already.
    """
    with tempfile.TemporaryDirectory(prefix="intvit-") as folder:
        link = Path(folder) / path.name
        link.symlink_to(path.resolve())
        yield link
