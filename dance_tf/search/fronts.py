"""Points of which less is better in every coordinate: who is beaten, where there is room, how much.

A point is beaten by another that is no worse in all coordinates and better in one.

Source of ranks and crowding: Deb et al. (2002), NSGA-II, sections III-A and III-B.
"""

from __future__ import annotations

from typing import Any

import moocore
import numpy as np

__all__ = ["crowding_distances", "front_ranks", "front_rows", "hypervolume"]


def front_rows(points: Any) -> np.ndarray:
    """Return which points no other one beats, int64 [F], by the first coordinate.

    Of equal points the first is on the front.

    Args:
        points: Finite, [N, M].
    """
    points = _checked(points)
    if not len(points):
        return np.zeros(0, np.int64)
    rows = np.flatnonzero(moocore.is_nondominated(points))
    return rows[np.lexsort(points[rows].T[::-1])]


def front_ranks(points: Any) -> np.ndarray:
    """Return the rank of each point, int64 [N]: 0 on the front, 1 on that of the rest, ...

    Args:
        points: Finite, [N, M]; equal points have one rank.
    """
    points = _checked(points)
    if not len(points):
        return np.zeros(0, np.int64)
    return np.asarray(moocore.pareto_rank(points), np.int64)


def crowding_distances(points: Any, ranks: Any) -> np.ndarray:
    """Return how far the neighbours of each point of the same rank are apart, float64 [N].

    The sum over the coordinates, each as a share of its extent; infinite at both ends.

    Args:
        points: Finite, [N, M].
        ranks: int [N].
    """
    points, ranks = _checked(points), np.asarray(ranks)
    distances = np.zeros(len(points))
    for rank in np.unique(ranks):
        rows = np.flatnonzero(ranks == rank)
        for column in points[rows].T:
            order = np.argsort(column, kind="stable")
            values, at = column[order], rows[order]
            distances[at[[0, -1]]] = np.inf
            extent = values[-1] - values[0]
            if extent > 0:
                distances[at[1:-1]] += (values[2:] - values[:-2]) / extent
    return distances


def hypervolume(points: Any, reference: Any) -> float:
    """Return the volume that some point beats or equals, up to a reference point.

    Args:
        points: Finite, [N, M]. Those that do not beat the reference in every coordinate add
            nothing.
        reference: Finite, [M].
    """
    points = _checked(points)
    reference = np.asarray(reference, np.float64)
    points = points[(points < reference).all(axis=1)]
    return float(moocore.hypervolume(points, ref=reference)) if len(points) else 0.0


def _checked(points: Any) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"points have shape {points.shape}, not [N, M], or are not finite")
    return points
