"""Errors of many networks with the weights of one supernet, as a file and as a predictor.

The file is JSON: `space`, the name of the space; `errors`, a list of [op indices, share of
images classified wrong]; and what else whoever wrote it wants to tell.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.files import read_json
from dance_tf.search.accuracy.predictor import ErrorPredictor, FittedPredictor
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["SupernetAccuracy", "read_inherited", "shipped_inherited_path"]


class SupernetAccuracy:
    """Source of accuracy that asks a trained supernet; an AccuracySource.

    Args:
        inherited: Accuracies with the supernet's weights.
        weights_sha256: Hash of the weights.
    """

    kind = "supernet"

    def __init__(self, inherited: InheritedAccuracy, weights_sha256: str) -> None:
        self._inherited, self.weights_sha256 = inherited, weights_sha256
        self.num_images = inherited.num_images
        self._known: dict[tuple[int, ...], float] = {}

    def errors(self, op_indices: ArrayLike) -> np.ndarray:
        """Return the shares of images classified wrong, float64 [B], of networks int [B, D]."""
        return np.asarray([self._error(tuple(row)) for row in np.asarray(op_indices).tolist()])

    def _error(self, ops: tuple[int, ...]) -> float:
        if ops not in self._known:
            self._known[ops] = 1.0 - float(self._inherited(np.asarray([ops]))[0])
        return self._known[ops]


@functools.lru_cache(maxsize=2)
def read_inherited(space: NetworkSpace, path: str) -> FittedPredictor:
    """Return a predictor that is fitted to the inherited errors in a file.

    Raises:
        UserError: If the file is damaged or of another space.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.get("space") != space.name:
        raise UserError(f"{path}: has no inherited errors of networks of {space.name}")
    try:
        networks = np.asarray([ops for ops, _ in record["errors"]], np.int32)
        errors = np.asarray([error for _, error in record["errors"]], np.float64)
        for row in networks:
            space.from_indices(row)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: is no list of networks and errors: {error}") from None
    return ErrorPredictor(space).fit(networks, errors)


def shipped_inherited_path(space_name: str) -> str | None:
    """Return the path of the shipped inherited errors of a space, None if there are none."""
    path = pathlib.Path(__file__).with_name(f"{space_name}_inherited.json")
    return str(path) if path.exists() else None
