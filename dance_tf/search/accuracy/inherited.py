"""Errors of many networks with the weights of one supernet, as a file and as a predictor.

The file is JSON: `space`, the name of the space; `errors`, a list of [op indices, share of
images classified wrong]; and what else whoever wrote it wants to tell.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from dance_tf.errors import UserError
from dance_tf.files import read_json
from dance_tf.search.accuracy.predictor import ErrorPredictor, FittedPredictor
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["read_inherited", "shipped_inherited_path"]


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
