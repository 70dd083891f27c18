"""Files of evaluate_cost --draw: the mappings of a network's layers as pictures or text."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence

from dance_tf.errors import UserError
from dance_tf.files import local_path, write_folder, write_text
from dance_tf.hardware.loopnest.drawing import LayerDrawing, drawing_page
from dance_tf.structs import Layer

__all__ = ["check_drawable", "drawing_target", "write_drawings"]

_SUFFIXES = (".html", ".svg", ".txt")
_FORMS = (
    "a folder (FOLDER/: one SVG a layer, and index.html), or a file FILE.html (all layers),"
    " FILE.svg (one layer) or FILE.txt (loop nests)"
)


def drawing_target(text: str) -> str:
    """Return the absolute path that --draw asks for; nothing is created.

    Raises:
        UserError: If it does not say whether it is a folder or which kind of file, is the
            other kind already, or lies in no folder.
    """
    path = local_path(text, "--draw")
    is_folder = os.path.isdir(path)
    if text and (text.endswith(os.sep) or is_folder):
        if os.path.exists(path) and not is_folder:
            raise UserError(f"--draw={text} is a file: name a folder, or a file without the /")
        if is_folder and os.listdir(path):
            raise UserError(f"--draw={text} is a folder with files in it: name a new folder")
    elif _suffix(path) not in _SUFFIXES:
        raise UserError(f"--draw={text} is none of what can be drawn to: name {_FORMS}")
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise UserError(f"--draw={text}: there is no folder {parent}")
    return path


def check_drawable(path: str, layers: Sequence[Layer]) -> None:
    """Raise UserError if one picture is to show layers of different shapes."""
    num = len({dataclasses.replace(layer, name="") for layer in layers})
    if num > 1 and _suffix(path) == ".svg" and not os.path.isdir(path):
        raise UserError(
            f"--draw={path}: a picture is of one mapping, and {num} layers differ:"
            " name a folder (FOLDER/) or a page (FILE.html)"
        )


def write_drawings(path: str, heading: str, drawings: Sequence[LayerDrawing]) -> None:
    """Write drawings to a path of `drawing_target`, as its form says."""
    suffix = _suffix(path)
    if os.path.isdir(path) or suffix not in _SUFFIXES:
        width = len(str(len(drawings)))
        files = {
            f"{number:0{width}}_{_file_name(drawing.names[0])}.svg": drawing.svg
            for number, drawing in enumerate(drawings, 1)
        }
        write_folder(path, files | {"index.html": drawing_page(heading, drawings, list(files))})
    elif suffix == ".html":
        write_text(path, drawing_page(heading, drawings))
    elif suffix == ".txt":
        parts = [f"{', '.join(d.names)}\n\n{d.loop_nest}" for d in drawings]
        write_text(path, "\n\n\n".join([heading, *parts]) + "\n")
    else:
        write_text(path, drawings[0].svg)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _file_name(layer: str) -> str:
    """Return what is left of a layer's name in the name of a file; it may be anything."""
    return re.sub(r"[^\w.-]+", "_", layer, flags=re.ASCII)[:60].strip("._") or "layer"
