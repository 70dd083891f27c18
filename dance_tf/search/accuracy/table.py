"""Accuracies of networks that have been trained, read from a table.

A table is a CSV file with a column `architecture` and one column
`accuracy_percent_1`, `accuracy_percent_2`, ... for each training of the networks, in %.
An architecture is the names of its ops with blanks between them, or, in a space of at most
ten ops, one digit per block: the index of the op.

Shipped: `nas_bench_macro`, all networks of that space, each trained twice on CIFAR-10
(Su et al., 2021; see LICENSE.nas_bench_macro beside it).
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pandas
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.structs import Architecture
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["AccuracyTable", "TableAccuracy", "shipped_table_path"]

_COLUMN = "accuracy_percent_"


def shipped_table_path(space_name: str) -> str | None:
    """Return the path of the shipped table of a space, None if there is none."""
    path = pathlib.Path(__file__).with_name(f"{space_name}.csv")
    return str(path) if path.exists() else None


class AccuracyTable:
    """Accuracies of some or all networks of a space, each trained once or more.

    >>> import dance_tf
    >>> from dance_tf.config import SpaceConfig
    >>> space = dance_tf.make_space(SpaceConfig("nas_bench_macro"))
    >>> table = AccuracyTable.read(space, shipped_table_path("nas_bench_macro"))
    >>> len(table), table.num_trainings
    (6561, 2)
    >>> table.errors([[0, 2, 0, 1, 2, 1, 0, 0]], training=0).round(4)
    array([0.1053])

    Args:
        space: Network space.
        op_indices: Networks, int [N, D], all different.
        accuracies: Shares of images classified right, float [N, T], one column per training.
        name: Name or path of the table, for messages.
    Raises:
        UserError: If a network is not of the space or is there twice, or an accuracy is not
            between 0 and 1.
    """

    def __init__(
        self, space: NetworkSpace, op_indices: ArrayLike, accuracies: ArrayLike, name: str
    ) -> None:
        self.space, self.name = space, name
        self.op_indices = np.asarray(op_indices, np.int32)
        self.accuracies = np.asarray(accuracies, np.float64)
        if not ((self.accuracies >= 0) & (self.accuracies <= 1)).all():
            raise UserError(f"{name}: an accuracy is not between 0 and 100 %")
        self._rows: dict[bytes, int] = {}
        for row, ops in enumerate(self.op_indices):
            if self._rows.setdefault(ops.tobytes(), row) != row:
                raise UserError(f"{name}: network {_words(space, ops)} is there twice")

    @classmethod
    def read(cls, space: NetworkSpace, path: str | os.PathLike[str]) -> AccuracyTable:
        """Read a table of a space.

        Raises:
            UserError: If the file cannot be read or is not such a table.
        """
        name = os.fspath(path)
        try:
            frame = pandas.read_csv(name, dtype={"architecture": str}, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{name}: cannot be read as a table of accuracies: {error}") from None
        columns = [column for column in frame.columns if column.startswith(_COLUMN)]
        if "architecture" not in frame or not columns or frame.empty:
            raise UserError(
                f"{name}: is no table of accuracies, with a column architecture, one or more"
                f" columns {_COLUMN}1, ..., and a row for each network"
            )
        networks = [
            _parsed(space, text, f"{name}, row {row}")
            for row, text in enumerate(frame["architecture"], start=1)
        ]
        try:
            accuracies = frame[columns].to_numpy(np.float64) / 100.0
        except ValueError as error:
            raise UserError(f"{name}: an accuracy is not a number: {error}") from None
        return cls(space, np.stack(networks), accuracies, name)

    def __len__(self) -> int:
        """Return the number of networks."""
        return len(self.op_indices)

    @property
    def num_trainings(self) -> int:
        """Number of trainings of each network, T."""
        return int(self.accuracies.shape[1])

    def rows(self, op_indices: ArrayLike) -> np.ndarray:
        """Return the rows, int64 [B], of networks int [B, D].

        Raises:
            UserError: If the table does not have one of them.
        """
        found = []
        for ops in np.asarray(op_indices, np.int32):
            row = self._rows.get(ops.tobytes())
            if row is None:
                raise UserError(f"{self.name}: has no network {_words(self.space, ops)}")
            found.append(row)
        return np.asarray(found, np.int64)

    def errors(self, op_indices: ArrayLike, training: int | None = None) -> np.ndarray:
        """Return the shares of images classified wrong, float64 [B], of networks int [B, D].

        Args:
            op_indices: Networks.
            training: Number of the training, from 0; None: the mean of all.
        Raises:
            UserError: If the table does not have one of them.
        """
        accuracies = self.accuracies[self.rows(op_indices)]
        return 1.0 - (accuracies.mean(axis=1) if training is None else accuracies[:, training])


class TableAccuracy:
    """Source of accuracy that looks one training of each network up; an AccuracySource.

    Args:
        table: Accuracies.
        training: Number of the training, from 0; None: the mean of all.
    """

    kind = "table"

    def __init__(self, table: AccuracyTable, training: int | None = 0) -> None:
        if training is not None and not 0 <= training < table.num_trainings:
            raise UserError(f"{table.name}: has {table.num_trainings} trainings, no {training + 1}")
        self.table, self._training = table, training

    def errors(self, op_indices: ArrayLike) -> np.ndarray:
        """Return the shares of images classified wrong, float64 [B], of networks int [B, D]."""
        return self.table.errors(op_indices, self._training)


def _words(space: NetworkSpace, ops: np.ndarray) -> str:
    return " ".join(space.op_names[op] for op in ops)


def _parsed(space: NetworkSpace, text: str, where: str) -> np.ndarray:
    """Return the op indices, int32 [D], that a cell of the table names."""
    words: list[str] = text.split()
    if len(words) == 1 and text.isdigit() and len(text) == space.num_blocks:
        if max(map(int, text)) >= space.num_ops:
            raise UserError(f"{where}: {text} names an op beyond the {space.num_ops} of the space")
        words = [space.op_names[int(digit)] for digit in text]
    try:
        return space.to_indices(Architecture(space.name, tuple(words)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
