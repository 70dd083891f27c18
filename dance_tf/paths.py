"""Paths that a user gives, and paths that TensorFlow reads: checked in one place.

A path comes from a flag, a field of the configuration or the environment, and what a shell
would have made of it may not have been done: `~` is expanded here, and what can only be a
mistake is refused before a folder of that name is made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator

from dance_tf.errors import UserError

__all__ = ["local_path", "naming_path", "path_problem", "pattern_free", "system_error"]

_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_VARIABLE = re.compile(r"\$(\w|\{)")
_QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}"

#: What TensorFlow's file systems take for a pattern when they look for a checkpoint.
_PATTERN = re.compile(r"[*?\[\\]" if os.sep == "/" else r"[*?\[]")

#: How TensorFlow words an error of the system: "PATH; No space left on device [Op:SaveV2]".
_SYSTEM_ERROR = re.compile(r"(?:\{\{.*?\}\} )?(.*); ([^;]+?)(?: \[Op:\w+\].*)?", re.DOTALL)
_ERRNO = {os.strerror(number): number for number in errno.errorcode}


def path_problem(path: str) -> str:
    """Return why a path is none of this machine, in a few words and with the mend, or ""."""
    if _URL.match(path):
        return "is not a local one: name a path on this machine"
    if path[:1] and path[0] in _QUOTES:
        return (
            "begins with a quote, which a file of flags or a config takes literally: leave it out"
        )
    if _VARIABLE.match(path):
        return "begins with a variable that no shell has replaced: write the path in full"
    if "\0" in path or not path.isprintable():  # bytes that are not UTF-8, line ends
        return "holds characters that cannot be printed: name another"
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        whose = "there is no such user" if path[1:2] not in ("", os.sep) else "HOME is not set"
        return f"{whose}: write the path in full"
    try:
        absolute = os.path.abspath(expanded)
    except FileNotFoundError:
        return "is relative to the working directory, which has been deleted: go to another"
    while absolute != os.path.dirname(absolute):
        if os.path.islink(absolute) and not os.path.exists(absolute):
            target = os.readlink(absolute)
            return f"leads through the link {absolute} to {target}, which is not there"
        absolute = os.path.dirname(absolute)
    return ""


def local_path(path: str | os.PathLike, where: str) -> str:
    """Return a path as an absolute one, a leading `~` expanded whatever a shell left of it.

    Args:
        path: As the user gave it.
        where: The flag or field it came from, such as "--output_dir".
    Raises:
        UserError: If it can be none of this machine; see `path_problem`.
    """
    path = os.fspath(path)
    problem = path_problem(path)
    if problem:
        raise UserError(f"{where} {path!r} {problem}")
    return os.path.abspath(os.path.expanduser(path))


@contextlib.contextmanager
def pattern_free(folder: str | os.PathLike) -> Iterator[str]:
    """Give a name of a folder under which TensorFlow finds what is in it.

    TensorFlow reads the paths of checkpoints and SavedModels as patterns, and escapes do
    not help: a folder `exp[1]` can be written to and not be read from. Where a name is such
    a pattern, the other one is a link to the folder, gone at the end. An error of the system
    that TensorFlow reports inside becomes an OSError of the folder, as in `naming_path`.

    Args:
        folder: The folder; need not be there yet.
    """
    folder = os.path.abspath(folder)
    with naming_path(folder):
        if not _PATTERN.search(folder):
            yield folder
            return
        plain = (path for path in (tempfile.gettempdir(), "/tmp") if not _PATTERN.search(path))
        with tempfile.TemporaryDirectory(prefix="dance_tf_", dir=next(plain)) as parent:
            link = os.path.join(parent, "folder")
            os.symlink(folder, link)
            yield link


@contextlib.contextmanager
def naming_path(path: str | os.PathLike) -> Iterator[None]:
    """Give errors of the system that name no file the path that was written or read.

    Such as a full disk, of which a write says only that there is no space. TensorFlow reports
    them in errors and words of its own; those become an OSError too.
    """
    try:
        yield
    except Exception as error:
        found = system_error(error)
        if found is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(found.errno, found.strerror, os.fspath(path)) from error


def system_error(error: Exception) -> OSError | None:
    """Return the error of the system that an exception tells of, with its path if that is known.

    Returns:
        An OSError with `errno` and `strerror`, or None if the exception is of another kind.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if not isinstance(error, OSError) and not type(error).__module__.startswith("tensorflow."):
        return None
    found = _SYSTEM_ERROR.fullmatch(str(error))
    if not found or found[2] not in _ERRNO:
        return None
    return OSError(_ERRNO[found[2]], found[2], found[1])
