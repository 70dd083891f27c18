"""The networks in the files that searches, evolution and trainings side by side write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dance_tf.errors import UserError
from dance_tf.files import read_json

__all__ = ["Network", "networks_in", "read_trained"]


class Network(NamedTuple):
    """A network, and the seed of the search that found it."""

    ops: tuple[str, ...]
    seed: int


def networks_in(
    path: str,
    *,
    objectives: Sequence[str] = (),
    lambdas: Sequence[float] = (),
    max_error: float = 1.0,
    seed: int = 0,
) -> list[Network]:
    """Return the networks of a pareto.json, or on the fronts of an exact_front.

    Args:
        path: The file.
        objectives: Only what these found, where there are any.
        lambdas: Of a sweep, only what these values of lambda_2 found, where there are any.
        max_error: Only networks with an inherited error up to it.
        seed: Of the networks of evolution.
    Raises:
        UserError: If the file is neither.
    """
    data: Any = read_json(path)
    try:
        if "points" in data:
            rows = [
                (point["search"]["objective"], point["search"], point["inherited_error"], point)
                for point in data["points"]
                if not lambdas or point["search"]["lambda_2"] in lambdas
            ]
        else:
            rows = [
                (name, {"seed": seed}, point["error"], point)
                for name, found in data["objectives"].items()
                for point in found["front"]
            ]
        return [
            Network(tuple(point["ops"]), search["seed"])
            for objective, search, error, point in rows
            if error <= max_error and (not objectives or objective in objectives)
        ]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not of pareto or exact_front") from None


def read_trained(path: str) -> dict[str, Any]:
    """Return a file of studies.pytorch.train_side_by_side.

    Raises:
        UserError: If it is not one, or holds no network.
    """
    data: Any = read_json(path)
    try:
        of_trainings = [data["config"][name] for name in ("space", "data", "seed")]
        rows = [
            (row["ops"], row["macs"], row["is_spread"], float(row["accuracy"]["value"]))
            for row in data["networks"]
        ]
        if of_trainings and rows and data["config"]["retrain"]["epochs"]:
            return data
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f"{path} is not of train_side_by_side, or holds no network")
