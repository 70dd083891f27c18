"""Places of the tools and of the trained models: beside the package in a clone, else within."""

from __future__ import annotations

import os
import pathlib

__all__ = ["folder", "or_shipped", "tool_command"]

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_MODELS = "saved_models"


def folder(name: str) -> pathlib.Path:
    """Return the folder `tools` or `saved_models` of this dance_tf."""
    within = _PACKAGE / name
    return within if within.is_dir() else _PACKAGE.parent / name


def or_shipped(path: str) -> str:
    """Return a path, or that of the trained model which `saved_models/NAME` names.

    A folder of that name in the working folder comes first.
    """
    parts = pathlib.PurePath(path).parts
    if parts[:1] != (_MODELS,) or os.path.exists(path):
        return path
    shipped = folder(_MODELS).joinpath(*parts[1:])
    return str(shipped) if shipped.exists() else path


def tool_command(name: str) -> str:
    """Return the command that runs a tool from the working folder.

    `python -m tools.NAME` in the folder of a clone, `dance-tf NAME` anywhere else.
    """
    is_clone = folder("tools").parent == _PACKAGE.parent
    if is_clone and os.path.isdir("dance_tf") and os.path.samefile("dance_tf", _PACKAGE):
        return f"python -m tools.{name}"
    return f"dance-tf {name.replace('_', '-')}"
