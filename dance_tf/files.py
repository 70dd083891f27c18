"""Files of this program: local paths, whole or absent files, JSON that any reader accepts.

Paths are checked before they are used, and errors of the system name them. A file is written
aside and renamed, so that it is there whole or not at all. JSON holds no NaN and no
Infinity: such a float becomes null, and its reason stands beside it under `<key>_reason`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from dance_tf.errors import UserError

__all__ = [
    "Json",
    "is_partial",
    "local_path",
    "naming_path",
    "parse_json",
    "path_problem",
    "pattern_free",
    "read_json",
    "read_text",
    "strict_data",
    "system_error",
    "write_folder",
    "write_json",
    "write_text",
    "written_aside",
]

#: Data as the parser of JSON returns them: objects, lists, strings, numbers, booleans, None.
Json: TypeAlias = Any

_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_VARIABLE = re.compile(r"\$(\w|\{)")
_QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}"

#: Characters that TensorFlow's file systems take for a pattern when they look for a checkpoint.
_PATTERN = re.compile(r"[*?\[\\]" if os.sep == "/" else r"[*?\[]")

#: Error of the system in TensorFlow's words: "PATH; No space left on device [Op:SaveV2]".
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
        path: Path as the user gave it.
        where: Flag or field that it came from, such as "--output_dir".
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
        folder: Folder, which need not be there yet.
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


def _reason(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "infinite" if value > 0 else "minus infinite"


def strict_data(data: object) -> Json:
    """Return plain JSON data: no NaN, no Infinity, no records, arrays or tensors.

    A float that JSON cannot hold becomes None, and its object gains the entry
    `<key>_reason` (kept if the caller has given one). Inside a list, the reason names
    the position: ``{"losses": [1.0, nan]}`` gives ``"losses_reason": "[1] is not a number"``.

    Args:
        data: Dicts, lists, tuples, dataclasses, NamedTuples, numbers, numpy arrays,
            tensors, strings, None; an object or a list of objects on top.
    Raises:
        ValueError: If a non-finite float has no key that could carry the reason.
        TypeError: If a value is none of the above.
    """
    plain, reasons = _plain(data)
    if reasons:
        raise ValueError(f"{reasons[0]}, and no key there can carry the reason")
    return plain


def _plain(value: object) -> tuple[Json, list[str]]:
    """Return plain data and the reasons that the enclosing object has to carry."""
    if value is None or isinstance(value, bool | int | str):
        return value, []
    if isinstance(value, float):  # numpy's float64 too
        return (float(value), []) if math.isfinite(value) else (None, [_reason(value)])
    if isinstance(value, os.PathLike):
        return os.fspath(value), []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        plain: dict[str, Json] = {}
        reasons_of: dict[str, str] = {}
        for key, item in value.items():
            plain[str(key)], reasons = _plain(item)
            if reasons:
                reasons_of[f"{key}_reason"] = "; ".join(reasons)
        for key, reason in reasons_of.items():
            if plain.get(key) is None:
                plain[key] = reason
        return plain, []
    if isinstance(value, list | tuple):
        items, all_reasons = [], []
        for index, item in enumerate(value):
            plain_item, reasons = _plain(item)
            items.append(plain_item)
            all_reasons += [f"[{index}]{'' if r[0] == '[' else ' is '}{r}" for r in reasons]
        return items, all_reasons
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise TypeError(f"JSON cannot hold a {type(value).__name__}: {value!r}")


def is_partial(name: str) -> bool:
    """Return whether a name is that of a file that `write_text` has not finished."""
    return re.search(r"\.\d+\.partial$", name) is not None


@contextlib.contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[str]:
    """Give the name of a file to write that takes the place of `path` once it is whole.

    If the writing fails, `path` is as it was. What a kill leaves is `is_partial`.
    """
    path = os.fspath(path)
    aside = f"{path}.{os.getpid()}.partial"
    try:
        with naming_path(path):
            yield aside
            with open(aside, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.remove(aside)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a file so that it is there whole or not at all: aside, synced, then renamed."""
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path: str | os.PathLike, data: object) -> None:
    """Write `strict_data(data)` whole or not at all."""
    text = json.dumps(strict_data(data), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_folder(folder: str, files: Mapping[str, object]) -> None:
    """Write a folder that is there whole or not at all.

    Args:
        folder: Path of a new or an empty folder.
        files: Path in the folder to content: a text, or an argument of `write_json`.
    """
    aside = f"{folder}.{os.getpid()}.partial"
    try:
        for path, content in files.items():
            target = os.path.join(aside, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if isinstance(content, str):
                write_text(target, content)
            else:
                write_json(target, content)
        os.replace(aside, folder)  # takes the place of an empty folder, of no other
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def read_json(path: str | os.PathLike) -> Json:
    """Read a JSON file.

    Raises:
        UserError: If the file is missing, is not JSON, or holds NaN, Infinity or a
            number too large for a float; the message names the file and the key.
    """
    return parse_json(read_text(path), os.fspath(path))


def read_text(path: str | os.PathLike) -> str:
    """Return a UTF-8 file without a BOM, line ends as they are; UserError if that fails."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # -sig: drops a BOM
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{os.fspath(path)}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{os.fspath(path)}: cannot read it: {reason}") from None


def parse_json(text: str, where: str) -> Json:
    """Return the data of a JSON text; `where` names it in a UserError."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: not JSON that this program writes: nested too deeply") from None
    _refuse_non_finite(data, where, "")
    return data


def _refuse_non_finite(data: Json, where: str, key: str) -> None:
    if isinstance(data, float) and not math.isfinite(data):
        raise UserError(
            f"{where}: {key or 'the value'} is {_reason(data)}, which JSON cannot hold;"
            " write null in its place"
        )
    if isinstance(data, dict):
        for name, value in data.items():
            _refuse_non_finite(value, where, f"{key}.{name}" if key else name)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            _refuse_non_finite(value, where, f"{key}[{index}]")
