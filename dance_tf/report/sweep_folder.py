"""Folder of a sweep, read and checked for its page."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

from dance_tf.errors import UserError
from dance_tf.files import Json, local_path, read_json
from dance_tf.search.sweep.fronts import SweepSearch
from dance_tf.search.sweep.sweep import PARETO, SCHEMA_VERSION
from dance_tf.structs import METRICS, Accelerator

__all__ = ["BASELINE", "COSTS", "ERRORS", "Pair", "Sweep", "SweptPoint", "is_sweep", "read_sweep"]

#: Name of the searches without a cost in their loss.
BASELINE = "accuracy alone"

#: Exact costs of a point, as pareto.json names them.
COSTS = ("edap_ms_mj_mm2", *METRICS)

#: Errors of a point: with the supernet's weights on held-out images, and retrained on test
#: images.
ERRORS = ("inherited_error", "retrained_error")


@dataclasses.dataclass(frozen=True)
class SweptPoint:
    """One search of a sweep and its errors.

    Attributes:
        search: Objective, lambda_2 and seed.
        inherited_error: Share of held-out images, with the supernet's weights.
        retrained_error: Share of test images; None where the network was not retrained.
        predicted_edap: By the evaluator on the accelerator that it chose, ms mJ mm2.
    """

    search: SweepSearch
    inherited_error: float
    retrained_error: float | None
    predicted_edap: float

    @property
    def is_baseline(self) -> bool:
        """Whether the search was for accuracy alone."""
        return self.search.lambda_2 == 0

    @property
    def folder(self) -> str:
        """Folder of the search, from that of the sweep."""
        return os.path.join("searches", self.search.name)

    @property
    def series(self) -> str:
        """Objective, or BASELINE of a search for accuracy alone."""
        return BASELINE if self.is_baseline else self.search.objective


@dataclasses.dataclass(frozen=True)
class Pair:
    """A network and its accelerator, found by one search or by several.

    Attributes:
        number: Place in the order of EDAP, from 1.
        ops: Op of each block.
        accelerator: Exact best accelerator for the network.
        costs: Exact costs, by the names of COSTS.
        zero_share: Share of the skippable blocks that are Zero.
        points: Searches that found it.
        fronts: Those of ERRORS by which no other pair beats it in error, latency, energy and
            area.
    """

    number: int
    ops: tuple[str, ...]
    accelerator: Accelerator
    costs: dict[str, float]
    zero_share: float
    points: tuple[SweptPoint, ...]
    fronts: tuple[str, ...]

    @property
    def series(self) -> str:
        """Objective of the first search that found it, or BASELINE."""
        return self.points[0].series

    @property
    def name(self) -> str:
        """Objective, lambda_2 and seed of the first search, and how many others found it."""
        search = self.points[0].search
        others = f" +{len(self.points) - 1}" if len(self.points) > 1 else ""
        return f"{search.objective} {search.lambda_2:g} s{search.seed}{others}"

    def error(self, kind: str) -> float | None:
        """Return the mean error of its searches, share of images; None where none has one.

        Args:
            kind: One of ERRORS.
        """
        errors = [getattr(point, kind) for point in self.points]
        known = [error for error in errors if error is not None]
        return sum(known) / len(known) if known else None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as its pareto.json has it.

    Attributes:
        folder: Absolute path.
        data: pareto.json, as it is.
        pairs: Pairs that were found, each once, by EDAP.
    """

    folder: str
    data: dict[str, Json]
    pairs: tuple[Pair, ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return os.path.basename(self.folder) or self.folder

    @property
    def points(self) -> list[SweptPoint]:
        """The searches of all pairs."""
        return [point for pair in self.pairs for point in pair.points]

    @property
    def errors(self) -> tuple[str, ...]:
        """Errors that some point has, of ERRORS."""
        return ERRORS if any(p.retrained_error is not None for p in self.points) else ERRORS[:1]


def is_sweep(folder: str) -> bool:
    """Return whether a folder is that of a sweep."""
    return os.path.exists(os.path.join(local_path(folder, "sweep folder"), PARETO))


def read_sweep(sweep_dir: str) -> Sweep:
    """Read the folder of a sweep, finished or not.

    Raises:
        UserError: If there is no sweep, or its pareto.json is damaged.
    """
    folder = local_path(sweep_dir, "sweep folder")
    path = os.path.join(folder, PARETO)
    if not is_sweep(folder):
        raise UserError(f"{folder}: no {PARETO}, so it is not the folder of a sweep")
    data = read_json(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version is {version!r}, this reads {SCHEMA_VERSION}")
    try:
        points = data["points"]
        retrained = data["retrained"] or {"front": ()}
        pairs = _pairs(points, (set(data["front"]), set(retrained["front"])))
        for name in ("space", "dataset", "num_images", "num_searches", "hypervolume"):
            data[name]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: holds what no sweep writes ({error!r})") from None
    if not pairs:
        raise UserError(f"{path}: no search of the sweep is finished yet")
    return Sweep(folder, data, pairs)


def _pairs(
    points: Sequence[Mapping[str, Json]], fronts: tuple[set[int], set[int]]
) -> tuple[Pair, ...]:
    rows: dict[tuple[tuple[str, ...], Accelerator], list[int]] = {}
    for row, point in enumerate(points):
        accelerator = Accelerator.from_json(point["accelerator"], f"point {row}")
        rows.setdefault((tuple(map(str, point["ops"])), accelerator), []).append(row)
    by_edap = sorted(rows.items(), key=lambda item: _cost(points[item[1][0]], "edap_ms_mj_mm2"))
    return tuple(
        Pair(
            number=number,
            ops=ops,
            accelerator=accelerator,
            costs={name: _cost(points[found[0]], name) for name in COSTS},
            zero_share=float(points[found[0]]["zero_share"]),
            points=tuple(_swept(points[row]) for row in found),
            fronts=tuple(
                kind
                for kind, front in zip(ERRORS, fronts, strict=True)
                if not front.isdisjoint(found)
            ),
        )
        for number, ((ops, accelerator), found) in enumerate(by_edap, start=1)
    )


def _swept(point: Mapping[str, Json]) -> SweptPoint:
    search = point["search"]
    retrained = point["retrained_error"]
    return SweptPoint(
        SweepSearch(str(search["objective"]), float(search["lambda_2"]), int(search["seed"])),
        float(point["inherited_error"]),
        None if retrained is None else float(retrained),
        float(point["predicted_edap_ms_mj_mm2"]),
    )


def _cost(point: Mapping[str, Json], name: str) -> float:
    value = point[name]
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{name} is {value!r}, not a positive number")
    return float(value)
