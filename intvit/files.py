"""Writing an artifact so that its path holds the whole file or what it held before, never a half.

The file is written in a hidden folder beside its destination (same file system; side files of a linker land there too),
flushed to disk, and renamed in one step. On any failure, Ctrl-C and SIGTERM included, the folder is removed.
"""

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from intvit.errors import IntvitError

_DESTINATION_AT_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Give a temporary path with the name of `path` to write to; on success it becomes `path`."""
    path = Path(path)
    target = Path(os.path.realpath(path))  # a link stays a link
    folder = target.parent
    if not folder.is_dir():
        raise IntvitError(f"{path}: the folder {folder} does not exist; create it or choose another path")
    if target.is_dir():
        raise IntvitError(f"{path}: is a folder; give the path of a file")
    if target.exists() and not target.is_file():
        raise IntvitError(f"{path}: is a device or pipe, not a file; give the path of a file")
    with _sigterm_as_exit():
        try:
            temporary_folder = Path(tempfile.mkdtemp(prefix=".intvit-", dir=folder))
        except OSError as error:
            raise _explained(path, error) from error
        try:
            temporary = temporary_folder / path.name
            yield temporary
            temporary.chmod(_mode(target, temporary_folder))
            _flush(temporary)
            temporary.replace(target)
        except Exception as error:
            if _is_about_writing(error, temporary_folder):
                raise _explained(path, error) from error
            raise
        finally:
            shutil.rmtree(temporary_folder, ignore_errors=True)
        _flush(folder, required=False)


def check_folder(path: Path) -> None:
    """Files can be written to the folder `path`, which need not be there yet. Creates nothing; raises `IntvitError`."""
    nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise IntvitError(f"{path}: {nearest.name} is a file; give a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise IntvitError(f"{path}: no permission to write in {nearest}; choose another path")


def write_text(folder: Path, name: str, text: str) -> None:
    """Writes a file into `folder`, which is made where it is not there. Raises `IntvitError`."""
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(folder, error) from error
    with write_atomically(folder / name) as temporary:
        temporary.write_text(text)


def _mode(path: Path, folder: Path) -> int:
    """The permissions that `open(path, "w")` would leave: those of the file, or of a new one by the umask.

    Some writers make a temporary file of their own and keep it private.
    """
    if path.is_file():
        return path.stat().st_mode
    probe = folder / ".intvit-mode"
    probe.touch()
    return probe.stat().st_mode


def _flush(path: Path, required: bool = True) -> None:
    """fsync a file, or the folder that holds its new name (which some file systems refuse)."""
    with contextlib.nullcontext() if required else contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_about_writing(error: Exception, temporary_folder: Path) -> bool:
    """Whether the destination is at fault; safetensors and linkers wrap the system's error in their own text."""
    if isinstance(error, IntvitError):
        return False
    if isinstance(error, OSError):
        named = str(error.filename or "")
        return error.errno in _DESTINATION_AT_FAULT or named.startswith(str(temporary_folder))
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def _explained(path: Path, error: Exception) -> IntvitError:
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT) or (code is None and os.strerror(errno.ENOSPC) in str(error)):
        return IntvitError(f"{path}: the disk is full; free some space or choose another path (nothing was written)")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return IntvitError(f"{path}: no permission to write in {path.parent}; choose another path")
    reason = (error.strerror if isinstance(error, OSError) else None) or next(iter(str(error).splitlines()), "")
    return IntvitError(f"{path}: cannot be written ({reason}); choose another path (nothing was written)")


@contextlib.contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack while a file is being written, where nobody else has claimed it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
