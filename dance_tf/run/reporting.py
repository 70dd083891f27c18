"""Output of a run: history, TensorBoard logs, tables as text and as CSV files.

Every file is written aside and then renamed, except the history, which grows line by line.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dance_tf.errors import UserError, first_few
from dance_tf.files import (
    Json,
    naming_path,
    parse_json,
    read_text,
    strict_data,
    write_text,
)
from dance_tf.run.terminal import show_value

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "HistoryWriter",
    "TensorBoardLog",
    "format_table",
    "read_csv",
    "read_history",
    "write_csv",
]


# History: one JSON object per line, appended and flushed


class HistoryWriter:
    """Append records to a JSONL file, each flushed as it is written.

    Without `resume_step` the file starts anew. With it, records are kept up to the
    first whose `step` is greater (of `phase`, where given), and the rest, written
    between the last checkpoint and the end of the interrupted run, is dropped; so is
    a last line that was only half written.
    """

    def __init__(
        self, path: str | os.PathLike, *, resume_step: int | None = None, phase: str | None = None
    ) -> None:
        kept: list[dict[str, Json]] = []
        if resume_step is not None and os.path.exists(path):
            for record in read_history(path):
                is_of_phase = phase is None or record.get("phase") == phase
                if is_of_phase and record.get("step", 0) > resume_step:
                    break
                kept.append(record)
        write_text(path, "".join(map(_history_line, kept)))
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def write(self, record: Mapping[str, Json]) -> None:
        """Append one record."""
        with naming_path(self._file.name):
            self._file.write(_history_line(record))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with naming_path(self._file.name):
            self._file.close()

    def __enter__(self) -> HistoryWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _history_line(record: Mapping[str, Json]) -> str:
    return json.dumps(strict_data(record), ensure_ascii=False, allow_nan=False) + "\n"


def read_history(path: str | os.PathLike) -> list[dict[str, Json]]:
    """Return the records of a history file; a half-written last line is passed over.

    Raises:
        UserError: If any other line is not a JSON object.
    """
    lines = read_text(path).split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last "\n" is no line
        record = parse_json(line, f"{os.fspath(path)} line {number}")
        if not isinstance(record, dict):
            raise UserError(f"{os.fspath(path)} line {number}: not a JSON object")
        records.append(record)
    return records


# TensorBoard


class TensorBoardLog:
    """Write scalars, images and texts for TensorBoard."""

    def __init__(self, log_dir: str | os.PathLike) -> None:
        import tensorflow as tf  # late: reading results needs no TensorFlow

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(os.fspath(log_dir))

    def write(self, step: int, values: Mapping[str, Json]) -> None:
        """Write the numbers among `values` at a step; what is not a number is left out."""
        with self._writer.as_default():
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._summary.scalar(name, value, step=step)
        self._writer.flush()

    def write_image(self, step: int, name: str, pixels: np.ndarray, description: str) -> None:
        """Write one image, uint8 [H, W, 3], at a step; `description` stands beside it."""
        with self._writer.as_default():
            self._summary.image(name, pixels[None], step=step, description=description)

    def write_text(self, step: int, name: str, text: str) -> None:
        """Write a text at a step."""
        with self._writer.as_default():
            self._summary.text(name, text, step=step)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


# Tables


def format_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a plain-text table: columns of numbers to the right, others to the left."""
    body = [list(row) for row in rows]
    for row in body:
        if len(row) != len(headers):
            raise ValueError(f"a row has {len(row)} cells, the header {len(headers)}: {row!r}")
    cells = [list(headers), *([show_value(v) for v in row] for row in body)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    is_right = [
        bool(body) and all(v is None or _is_number(v) for v in column)
        for column in zip(*body, strict=True)
    ] or [False] * len(headers)
    lines = [
        "  ".join(
            c.rjust(w) if right else c.ljust(w)
            for c, w, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or hasattr(value, "item") or hasattr(value, "numpy")


def write_csv(
    path: str | os.PathLike, headers: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Write a CSV file: comma, one newline per row on every system, no blank lines."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: str | os.PathLike, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header; a spreadsheet's BOM, CRLF and blank lines do no harm.

    Args:
        path: File, comma separated.
        columns: Columns that must be there.
    Returns:
        One dict per row, values as text without blanks around.
    Raises:
        UserError: If a column is missing or there twice, a row has another number of
            cells, or cells are separated by ";".
    """
    where = os.fspath(path)
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        rows = [(reader.line_num, [c.strip() for c in row]) for row in reader]
    except csv.Error as error:  # such as a quote that is never closed
        raise UserError(f"{where} line {reader.line_num}: not CSV: {error}") from None
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        raise UserError(f"{where}: empty; expected a header with {', '.join(columns)}")
    _, header = rows[0]
    for separator, name in ((";", "';'"), ("\t", "tabs")):
        if any(separator in cell for cell in header):
            raise UserError(
                f"{where}: cells are separated by {name}, not by commas;"
                " save it as comma-separated CSV"
            )
    for name in header:
        if name and header.count(name) > 1:
            raise UserError(f"{where}: two columns are called {name!r}")
    missing = [name for name in columns if name not in header]
    if missing:
        names = ", ".join(map(repr, missing))
        raise UserError(f"{where}: no column {names}; the header has {', '.join(header)}")
    uneven = [f"line {number}: {len(row)} cells" for number, row in rows if len(row) != len(header)]
    if uneven:
        raise UserError(f"{where} {first_few(uneven)}, but the header has {len(header)}")
    records = [dict(zip(header, row, strict=True)) for _, row in rows[1:]]
    return records
