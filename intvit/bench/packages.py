"""Imports of the peers' packages, which are optional."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from intvit.errors import IntvitError

TELEMETRY = "openvino_telemetry"


def import_package(name: str, peer: str) -> Any:
    """The module `name`, or a line that says how to install what `peer` needs."""
    try:
        with _without_telemetry():
            return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        raise IntvitError(f"{peer} needs the package {missing}: pip install 'intvit[bench]'") from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Makes OpenVINO and NNCF take their stubs of telemetry.

    It forks a process for each report, which never ends where a thread of this one held a lock at that time.
    """
    if TELEMETRY in sys.modules:
        yield
        return
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]


@contextmanager
def silenced() -> Iterator[None]:
    """Sends what libraries print on stdout, from Python or C++, nowhere: stdout belongs to the command's results."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
