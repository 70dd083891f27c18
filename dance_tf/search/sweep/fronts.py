"""Fronts of points that are to be small in every coordinate, and the points of a sweep.

A point is beaten by another that is no worse in all coordinates and better in one. Points
of a sweep are what its searches found, by error and exact cost.

Source of ranks and crowding: Deb et al. (2002), NSGA-II, sections III-A and III-B.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from dance_tf.config import ExperimentConfig
from dance_tf.files import Json
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.search.result import SearchResult
from dance_tf.structs import METRICS

__all__ = [
    "Point",
    "SweepSearch",
    "coordinates",
    "crowding_distances",
    "front_ranks",
    "front_rows",
    "hypervolume",
    "point_of",
    "summary",
    "worth_retraining",
]


def front_rows(points: ArrayLike) -> np.ndarray:
    """Return the rows of the points that no other beats, int64 [F], by the first coordinate.

    The first of equal points is on the front.

    Args:
        points: Finite, [N, M].
    """
    points = _checked(points)
    if not len(points):
        return np.zeros(0, np.int64)
    rows = np.flatnonzero(moocore.is_nondominated(points))
    return rows[np.lexsort(points[rows].T[::-1])]


def front_ranks(points: ArrayLike) -> np.ndarray:
    """Return the rank of each point, int64 [N]: 0 on the front, 1 on that of the rest, ...

    Args:
        points: Finite, [N, M]; equal points have one rank.
    """
    points = _checked(points)
    if not len(points):
        return np.zeros(0, np.int64)
    return np.asarray(moocore.pareto_rank(points), np.int64)


def crowding_distances(points: ArrayLike, ranks: ArrayLike) -> np.ndarray:
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


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
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


def _checked(points: ArrayLike) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"points have shape {points.shape}, not [N, M], or are not finite")
    return points


@dataclasses.dataclass(frozen=True)
class SweepSearch:
    """One search of a sweep."""

    objective: str  # as search.objective
    lambda_2: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the search's folder."""
        return f"{self.objective}_lambda{self.lambda_2:g}_seed{self.seed}"

    def config(self, base: ExperimentConfig) -> ExperimentConfig:
        """Return the config of this search."""
        search = dataclasses.replace(
            base.search,
            objective=self.objective,
            lambda_2=self.lambda_2,
        )
        if search.accuracy == "supernet":
            search = dataclasses.replace(search, supernet_weights="frozen")
        return dataclasses.replace(base, search=search, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class Point:
    """Network and accelerator that one search found; costs are exact unless named otherwise."""

    search: SweepSearch
    ops: tuple[str, ...]
    accelerator: dict[str, Json]
    latency_ms: float
    energy_mj: float
    area_mm2: float
    edap_ms_mj_mm2: float
    objective: float  # of its search, on metrics normalised by the table's reference
    predicted_edap_ms_mj_mm2: float  # by the evaluator, on the accelerator that it chose
    evaluator_edap_ms_mj_mm2: float  # exact, on that accelerator
    zero_share: float  # of the skippable blocks
    num_architecture_steps: int  # that the search took; 0: its accelerator alone was looked up
    inherited_error: float  # share of held-out images (`architecture`)
    retrained_error: float | None = None  # share of `test`; None: not retrained

    @property
    def costs(self) -> tuple[float, ...]:
        """Exact metrics in the order of METRICS."""
        return tuple(getattr(self, name) for name in METRICS)

    @property
    def training(self) -> tuple[tuple[str, ...], int]:
        """Network and seed, which the retraining depends on.

        Searches of one seed that found one network share it.
        """
        return self.ops, self.search.seed

    def to_json(self) -> dict[str, Json]:
        """Return the point as plain JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def point_of(search: SweepSearch, result: SearchResult, inherited_error: float) -> Point:
    """Return the point of a search's result."""
    exact = result.exact_cost
    return Point(
        search=search,
        ops=result.architecture.ops,
        accelerator=accelerator_to_json(result.accelerator),
        **{name: getattr(exact, name) for name in (*METRICS, "edap_ms_mj_mm2", "objective")},
        predicted_edap_ms_mj_mm2=result.predicted_cost.edap_ms_mj_mm2,
        evaluator_edap_ms_mj_mm2=result.evaluator_accelerator_exact_cost.edap_ms_mj_mm2,
        zero_share=result.zero_share,
        num_architecture_steps=result.num_architecture_steps,
        inherited_error=inherited_error,
    )


def coordinates(
    errors: Sequence[float],
    points: Sequence[Point],
    reachable: Mapping[str, tuple[float, float]],
) -> np.ndarray:
    """Return error and costs of points, each in 0..1, float64 [N, 4].

    A cost is its place between the least and the largest within reach, on a logarithmic
    scale; the hypervolume is taken of these coordinates.

    Args:
        errors: Share of wrongly classified images, one for each point.
        points: Points whose costs are used.
        reachable: (least, largest) of each metric, see limits.reachable_costs. A metric that
            cannot vary has the coordinate 0.
    """
    costs = np.asarray([point.costs for point in points], np.float64).reshape(-1, len(METRICS))
    least, largest = np.asarray([reachable[name] for name in METRICS], np.float64).T
    extent = np.log(largest / least)
    # Reached costs are rounded to float32: the least of all may be below its own bound.
    shares = np.clip(np.log(costs / least) / np.where(extent > 0, extent, 1.0), 0.0, 1.0)
    return np.concatenate([np.asarray(errors, np.float64)[:, None], shares], axis=1)


def summary(
    points: Sequence[Point], reachable: Mapping[str, tuple[float, float]]
) -> dict[str, Json]:
    """Return the points, their fronts and the hypervolume as JSON data.

    Points are given by their number in `points`. `retrained` is None where nothing has been
    retrained; there, `front_by_inherited` and its hypervolume are of the same points.
    """
    inherited = coordinates([p.inherited_error for p in points], points, reachable)
    return {
        "reachable": {name: list(pair) for name, pair in reachable.items()},
        "points": [point.to_json() for point in points],
        "front": front_rows(inherited).tolist(),
        "hypervolume": hypervolume(inherited, np.ones(4)),
        "retrained": _retrained(points, inherited, reachable),
    }


def _retrained(
    points: Sequence[Point], inherited: np.ndarray, reachable: Mapping[str, tuple[float, float]]
) -> dict[str, Json] | None:
    rows = [i for i, point in enumerate(points) if point.retrained_error is not None]
    if not rows:
        return None
    chosen = [points[i] for i in rows]
    true = coordinates([p.retrained_error or 0.0 for p in chosen], chosen, reachable)
    before = [rows[i] for i in front_rows(inherited[rows])]
    after = [rows[i] for i in front_rows(true)]
    once = list({point.training: i for i, point in enumerate(chosen)}.values())
    return {
        "num_points": len(rows),
        "num_trainings": len(once),
        "front_by_inherited": before,
        "front": after,
        "left": sorted(set(before) - set(after)),
        "entered": sorted(set(after) - set(before)),
        "hypervolume_by_inherited": hypervolume(inherited[rows], np.ones(4)),
        "hypervolume": hypervolume(true, np.ones(4)),
        "spearman": _spearman(inherited[rows, 0][once], true[once, 0]),
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the rank correlation; None where one of them does not vary."""
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    return float(scipy.stats.spearmanr(a, b).statistic)


def worth_retraining(
    points: Sequence[Point], reachable: Mapping[str, tuple[float, float]], num: int
) -> list[int]:
    """Return the points to retrain, by number: those of the front first, then the others.

    Within both the order spreads them: first the ends in EDAP, then again and again the one
    that is furthest in log EDAP from those already taken. A network that several searches of
    a seed found is there once, for it has one training.
    """
    inherited = coordinates([p.inherited_error for p in points], points, reachable)
    front = front_rows(inherited).tolist()
    trainings: dict[tuple[tuple[str, ...], int], int] = {}
    for i in (*front, *range(len(points))):
        trainings.setdefault(points[i].training, i)
    on_front = [i for i in trainings.values() if i in front]
    others = [i for i in trainings.values() if i not in front]
    log_edap = np.log([point.edap_ms_mj_mm2 for point in points])
    taken: list[int] = []
    for group in (on_front, others):
        left = list(group)
        while left and len(taken) < num:
            distances = [
                min((abs(log_edap[i] - log_edap[j]) for j in taken), default=0.0) for i in left
            ]
            best = int(np.argmax(distances)) if taken else int(np.argmax(log_edap[left]))
            taken.append(left.pop(best))
    return taken
