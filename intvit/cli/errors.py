"""What a user can mend becomes `error: ...` on stderr and an exit code; everything else keeps its traceback."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from intvit.errors import IntvitError

INTERRUPTED = 130
_ADVICE = {
    errno.ENOSPC: "free some space or choose another path",
    errno.EDQUOT: "free some space or choose another path",
    errno.EACCES: "check the permissions or choose another path",
    errno.EPERM: "check the permissions or choose another path",
    errno.EROFS: "choose another path",
}
"""Errors of the system that are about the user's paths and disks, wherever they come up."""


class Commands(TyperGroup):
    """The group of commands, with intvit's exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; `IntvitError`, a full disk, Ctrl-C and SIGTERM end it without a traceback."""
        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except IntvitError as error:
            raise _ended(f"error: {error}", error.exit_code) from error
        except OSError as error:
            if error.errno not in _ADVICE:
                raise
            where = "" if error.filename is None else f"{error.filename}: "
            reason = os.strerror(error.errno).lower()
            raise _ended(f"error: {where}{reason}; {_ADVICE[error.errno]}", IntvitError.exit_code) from error
        except KeyboardInterrupt as error:
            raise _ended("interrupted", INTERRUPTED) from error


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that temporary files are removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ended(message: str, code: int) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(code)
