"""Owner of a folder: the one process that writes it.

An owner holds a lock on a file in the folder. The system lets go of it when the process
ends, however it ends: what a kill leaves is a file that keeps nobody out. At an orderly end
the file is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from dance_tf.errors import UserError
from dance_tf.run import terminal

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

__all__ = ["names_in", "owned"]

_NAME = ".lock"

_POLL_S = 0.2

# More often than this no folder is removed by others between its making and its locking.
_NUM_ATTEMPTS = 100

# Folders owned by this process, and the threads that own them.
_owners: dict[str, int] = {}


@contextlib.contextmanager
def owned(
    folder: str | os.PathLike,
    *,
    is_waiting: bool = False,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Own a folder, made if missing, while the body runs.

    Inside the body, the same thread may own it again. A folder that was made here and is
    empty at the end is removed. A folder that may not be written, and one whose file system
    has no locks, has no owner; the second is told of on stderr.

    Args:
        folder: Folder to own.
        is_waiting: Whether to wait where another process owns the folder.
        on_wait: Function called again and again while waiting; without it one line says so.
    Raises:
        UserError: If another process owns the folder, unless `is_waiting`.
        OSError: If the folder cannot be made.
    """
    path, me = os.path.abspath(folder), threading.get_ident()
    key = os.path.realpath(path)
    if _owners.get(key) == me:
        yield
        return
    made: list[str] = []
    file = None
    try:
        file = _lock(path, made, is_waiting, on_wait)
        _owners[key] = me
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):  # The body may have removed the folder.
                os.remove(file.name)
            file.close()
        if _owners.get(key) == me:
            del _owners[key]
        with contextlib.suppress(OSError):  # The first that holds something, and those above.
            for empty in made:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(empty)


def names_in(folder: str | os.PathLike) -> list[str]:
    """Return the names in a folder, but for that of the lock."""
    return [name for name in os.listdir(folder) if name != _NAME]


def _lock(
    path: str, made: list[str], is_waiting: bool, on_wait: Callable[[], None] | None
) -> TextIO | None:
    """Return the locked file of a folder, None where it cannot be written; note what was made."""
    has_waited = False
    for num_left in reversed(range(_NUM_ATTEMPTS)):
        made[:] = [*_make(path), *made]
        try:
            file = open(os.path.join(path, _NAME), "a+", encoding="utf-8")  # noqa: SIM115
        except FileNotFoundError:
            if num_left:  # The folder was removed since.
                continue
            raise
        except OSError as error:
            if isinstance(error, PermissionError) or error.errno == errno.EROFS:
                return None
            raise
        while (owner := _take(file)) is not None:
            if not is_waiting:
                file.close()
                raise UserError(
                    f"{path} is in use by {owner}: wait until that has ended, or name another"
                    " folder"
                )
            if on_wait is not None:
                on_wait()
            elif not has_waited:
                terminal.note(f"waiting for {owner}, which is writing {path}")
            has_waited = True
            time.sleep(_POLL_S)
        if _is_at(file):
            with contextlib.suppress(OSError):  # A full disk keeps nobody from the lock.
                os.truncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            return file
        file.close()  # Its owner removed it at its end.
    raise UserError(f"{path}: the folder is removed again and again by another process")


def _make(path: str) -> list[str]:
    """Make a folder and those above it; return which, the innermost first."""
    missing = []
    above = path
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    os.makedirs(path, exist_ok=True)
    return missing


def _take(file: TextIO) -> str | None:
    """Lock a file; return who has it if that is somebody else."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read(200) or "another process"
    except OSError as error:  # Network file systems may have no locks.
        folder = os.path.dirname(file.name)
        terminal.warn(
            f"{folder} cannot be locked ({error.strerror}): see to it that no other process"
            " writes there"
        )
    return None


def _is_at(file: TextIO) -> bool:
    """Return whether an open file still is the one of its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False
