"""Accuracies of networks with inherited weights, kept in a file so that none is measured twice.

One JSON object per line: first what the accuracies are of, then a line for each network,
flushed when it is measured. After a SIGKILL the last line may be torn; it is dropped. One
process at a time writes a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.files import Json, strict_data
from dance_tf.protocols import ImageDataset
from dance_tf.run.reporting import HistoryWriter, read_history
from dance_tf.search.supernet_training import load_supernet, read_supernet_record
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["AccuracyMemo", "supernet_memo"]

_SCHEMA_VERSION = 1


class AccuracyMemo:
    """Accuracies that are measured when they are first asked for; `with` closes the file.

    Args:
        path: File to go on with, or to begin.
        measure: Function from op indices, int32 [B, D], to accuracies [B].
        identity: Weights and images that the accuracies are of, as JSON data; that of the
            file must be equal.
    Attributes:
        identity: The first line of the file: `identity` and its schema version.
        num_measured: Number of networks that this object has measured.
    Raises:
        UserError: If the file is of something else, or is damaged before its last line.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        measure: Callable[[np.ndarray], np.ndarray],
        identity: Mapping[str, Json],
    ) -> None:
        self.identity = strict_data({"schema_version": _SCHEMA_VERSION, **identity})
        self.num_measured = 0
        self._measure = measure
        records = read_history(path) if os.path.exists(path) else []
        if records and records[0] != self.identity:
            name = next(n for n in self.identity if self.identity[n] != records[0].get(n))
            raise UserError(
                f"{os.fspath(path)} holds accuracies of another {name}: {records[0].get(name)!r}"
                f" instead of {self.identity[name]!r}; name another file"
            )
        try:
            self._known = {tuple(line["op_indices"]): line["accuracy"] for line in records[1:]}
        except (KeyError, TypeError):
            raise UserError(f"{os.fspath(path)}: a line holds no op_indices and accuracy") from None
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        # Keeps all lines that are whole, for they have no step.
        self._file = HistoryWriter(path, resume_step=0)
        if not records:
            self._file.write(self.identity)

    def __len__(self) -> int:
        return len(self._known)

    def accuracies(self, op_indices: ArrayLike) -> np.ndarray:
        """Return accuracies, float64 [B], measuring those that are not known.

        Args:
            op_indices: Networks by the index of their ops, int [B, D].
        """
        keys = [tuple(row) for row in np.asarray(op_indices).tolist()]
        for key in keys:
            if key not in self._known:
                (accuracy,) = self._measure(np.asarray([key], np.int32))
                self._file.write({"op_indices": key, "accuracy": float(accuracy)})
                self._known[key] = float(accuracy)
                self.num_measured += 1
        return np.asarray([self._known[key] for key in keys], np.float64)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AccuracyMemo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def supernet_memo(
    path: str | os.PathLike,
    supernet_dir: str,
    space: NetworkSpace,
    dataset: ImageDataset,
    config: ExperimentConfig,
    num_images: int,
    split: str = "architecture",
) -> AccuracyMemo:
    """Return the memo of a trained supernet, whose weights are loaded for it.

    Args:
        path: File of the memo.
        supernet_dir: Folder of a finished training of a supernet.
        space, dataset, config: Arguments of `load_supernet`.
        num_images: Number of images to judge on; at most all of the split are used.
        split: Split of the data set to judge on.
    Raises:
        UserError: If the supernet does not fit, or the file is of another one.
    """
    num_images = min(num_images, dataset.num_images(split))
    if num_images < 1:
        raise UserError(f"{num_images} held-out images judge nothing")
    record = read_supernet_record(supernet_dir, space, dataset, config)
    identity = {
        "supernet_sha256": record["weights_sha256"],
        "data": record["data"],
        "split": split,
        "num_images": num_images,
    }
    supernet = load_supernet(supernet_dir, space, dataset, config)
    return AccuracyMemo(path, InheritedAccuracy(supernet, dataset, num_images, split), identity)
