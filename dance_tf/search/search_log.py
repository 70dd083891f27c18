"""Log of a search while it runs: its history, TensorBoard logs and the progress line.

TensorBoard shows losses, costs, mixture weights, and the accelerator.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from dance_tf.run.reporting import HistoryWriter, TensorBoardLog
from dance_tf.search.result import SearchRecord
from dance_tf.structs import DATAFLOWS, METRICS, Accelerator
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.supernet import Supernet

__all__ = ["SearchLog", "heat_map", "open_writers", "shown_costs"]

# Pixels of a cell's side: TensorBoard shows an image in its own size.
_CELL = 24

# Colours of the weights 0, 1/4, 1/2, 3/4 and 1, RGB (viridis, which prints well in grey).
_COLOURS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_NOT_ALLOWED = (200, 200, 200)


def heat_map(mixture_weights: np.ndarray, op_mask: np.ndarray) -> np.ndarray:
    """Return mixture weights as an image, uint8 [24 D, 24 O, 3].

    Args:
        mixture_weights: float [D, O], in 0..1: dark for 0, bright for 1.
        op_mask: bool [D, O]; what a block does not have is grey.
    """
    at = np.linspace(0.0, 1.0, len(_COLOURS))
    channels = [np.interp(mixture_weights, at, colours) for colours in zip(*_COLOURS, strict=True)]
    cells = np.where(op_mask[..., None], np.stack(channels, axis=-1), _NOT_ALLOWED)
    return np.kron(np.rint(cells), np.ones((_CELL, _CELL, 1))).astype(np.uint8)


class SearchLog:
    """Write the records of a search, and the mixture weights beside them.

    Args:
        log_dir: Folder of the event files.
        space: Network space.
        mixture_weights: Function that returns the mixture weights as of now, [D, O].
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        space: NetworkSpace,
        mixture_weights: Callable[[], tf.Tensor],
    ) -> None:
        self._log, self._space, self._mixture_weights = (
            TensorBoardLog(log_dir),
            space,
            mixture_weights,
        )
        self._accelerator: Accelerator | None = None  # the last one that was written as text

    def write(self, record: SearchRecord) -> None:
        """Write one record: scalars, the heat map, and the accelerator where it is another."""
        values = record.to_json()
        accelerator = values.pop("accelerator")
        values["mixture_entropy"] = float(np.mean(record.mixture_entropy))
        scalars = {f"search/{name}": value for name, value in values.items()}
        accelerator["dataflow"] = DATAFLOWS.index(record.accelerator.dataflow)
        scalars |= {f"accelerator/{name}": value for name, value in accelerator.items()}
        self._log.write(record.step, scalars)
        self._log.write_image(
            record.step,
            "mixture_weights",
            heat_map(np.asarray(self._mixture_weights()), self._space.op_mask),
            "A row for each block, first on top; columns: "
            + ", ".join(self._space.op_names)
            + ". Dark is 0, bright is 1, grey an op that the block does not have.",
        )
        if record.accelerator != self._accelerator:
            self._accelerator = record.accelerator
            self._log.write_text(record.step, "accelerator/choice", _describe(record))

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def _describe(record: SearchRecord) -> str:
    array = record.accelerator
    return f"{array.pe_x} x {array.pe_y} PEs, {array.rf_bytes} B per PE, {array.dataflow}"


@contextlib.contextmanager
def open_writers(
    output_dir: str, supernet: Supernet, resume_step: int | None
) -> Iterator[list[Callable[[SearchRecord], None]]]:
    """Give the functions that write a record to history.jsonl and to TensorBoard logs.

    Args:
        output_dir: Folder of the run; made if it is not there.
        supernet: Supernet whose mixture weights are shown.
        resume_step: Records after this step are dropped from an old history; None: all are.
    """
    path, folder = (os.path.join(output_dir, name) for name in ("history.jsonl", "tensorboard"))
    os.makedirs(output_dir, exist_ok=True)
    with HistoryWriter(path, resume_step=resume_step) as history:
        log = SearchLog(folder, supernet.space, supernet.mixture_weights)
        with contextlib.closing(log):
            yield [lambda record: history.write(record.to_json()), log.write]


def shown_costs(record: SearchRecord | None) -> dict[str, float]:
    """Return EDAP of the last record's architecture, predicted beside exact, for progress."""
    if record is None:
        return {}
    data = record.to_json()
    return {
        f"{source}_edap": math.prod(data[f"{source}_{metric}"] for metric in METRICS)
        for source in ("predicted", "exact")
    }
