"""JSON files that any reader accepts: no NaN, no Infinity, whole or not there at all.

A float that JSON cannot hold becomes null, and its reason stands beside it under
`<key>_reason`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from dance_tf.errors import UserError
from dance_tf.paths import naming_path

__all__ = [
    "is_partial",
    "parse_json",
    "read_json",
    "read_text",
    "strict_data",
    "write_folder",
    "write_json",
    "write_text",
    "written_aside",
]


def _reason(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "infinite" if value > 0 else "minus infinite"


def strict_data(data: Any) -> Any:
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


def _plain(value: Any) -> tuple[Any, list[str]]:
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
        plain: dict[str, Any] = {}
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
    """Whether a file's name is that of one that `write_text` has not finished."""
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


def write_json(path: str | os.PathLike, data: Any) -> None:
    """Write `strict_data(data)` whole or not at all."""
    text = json.dumps(strict_data(data), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_folder(folder: str, files: Mapping[str, Any]) -> None:
    """Write a folder that is there whole or not at all.

    Args:
        folder: Path of a new or an empty folder.
        files: Path in it to content: a text, or what `write_json` takes.
    """
    aside = f"{folder}.{os.getpid()}.partial"
    try:
        for path, content in files.items():
            target = os.path.join(aside, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            (write_text if isinstance(content, str) else write_json)(target, content)
        os.replace(aside, folder)  # takes the place of an empty folder, of no other
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def read_json(path: str | os.PathLike) -> Any:
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


def parse_json(text: str, where: str) -> Any:
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


def _refuse_non_finite(data: Any, where: str, key: str) -> None:
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
