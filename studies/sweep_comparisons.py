"""Comparisons of a sweep with its baseline, other sweeps and the exact front, for analyse_sweep."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError

COSTS = ("edap_ms_mj_mm2", "latency_ms", "energy_mj")
_LOSSES = (0.0, 0.007, 0.01, 0.02, 0.03, 0.05)  # of accuracy, in shares of images


def against_the_baseline(points: list[dict[str, Any]], tolerance: float) -> list[dict[str, Any]]:
    """Compare means over seeds, for each objective and lambda_2, with those of lambda_2 = 0.

    Ratios are of geometric means, baseline / found: above 1, what was found costs less.
    """
    groups = by_objective_and_lambda(points)
    rows = []
    for (objective, lambda_2), group in groups.items():
        baseline = groups.get((objective, 0.0))
        if not lambda_2 or baseline is None:
            continue
        row: dict[str, Any] = {
            "objective": objective,
            "lambda_2": lambda_2,
            "num_seeds": len(group),
            "inherited_error": mean(group, "inherited_error"),
            "baseline_inherited_error": mean(baseline, "inherited_error"),
            "retrained_error": mean(group, "retrained_error"),
            "baseline_retrained_error": mean(baseline, "retrained_error"),
        }
        errors = row["retrained_error"], row["baseline_retrained_error"]
        is_measured = None not in errors
        row["is_equally_accurate"] = errors[0] <= errors[1] + tolerance if is_measured else None
        for cost in COSTS:
            ratio = log_mean(baseline, cost) - log_mean(group, cost)
            row[f"{cost}_ratio"] = float(np.exp(ratio))
        rows.append(row)
    return rows


def by_objective_and_lambda(
    points: list[dict[str, Any]],
) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """Return points by what was searched for, all seeds together, in the order of the points."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = collections.defaultdict(list)
    for point in points:
        groups[point["search"]["objective"], point["search"]["lambda_2"]].append(point)
    return dict(groups)


def beside(points: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare searches with those of the same objective, lambda_2 and seed in another sweep.

    Ratios are other / this. The hypervolume is of error and log EDAP, up to the largest of
    each that any point has.
    """
    of_other = {_key(point): point for point in others}
    pairs = [(point, of_other[_key(point)]) for point in points if _key(point) in of_other]
    if not pairs:
        raise UserError("the sweeps have no search in common")
    rows = [
        {
            **this["search"],
            "edap_ms_mj_mm2_ratio": other["edap_ms_mj_mm2"] / this["edap_ms_mj_mm2"],
            "objective_ratio": other["objective"] / this["objective"],
            "inherited_error": this["inherited_error"],
            "other_inherited_error": other["inherited_error"],
            "is_same_network": this["ops"] == other["ops"],
        }
        for this, other in pairs
    ]
    logs = np.log([row["edap_ms_mj_mm2_ratio"] for row in rows])
    spots = [np.asarray([_spot(pair[i], "edap_ms_mj_mm2") for pair in pairs]) for i in (0, 1)]
    corner = np.concatenate(spots).max(axis=0)
    return {
        "num_searches": len(rows),
        "num_same_networks": sum(row["is_same_network"] for row in rows),
        "mean_edap_ratio": float(np.exp(logs.mean())),
        "mean_inherited_error_difference": statistics.mean(
            row["other_inherited_error"] - row["inherited_error"] for row in rows
        ),
        "hypervolume_ratio": _volume(spots[1], corner) / _volume(spots[0], corner),
        "searches": rows,
    }


def of_the_exact_front(
    config: ExperimentConfig, sweep: dict[str, Any], front: dict[str, Any]
) -> dict[str, Any]:
    """Return, by objective, the share of the exact front's hypervolume that a sweep found.

    Of error and log objective, within the box of the exact front: up to its largest error
    and its largest objective, both of which only its ends have. `saved` says how many times
    less than the baseline (mean error, geometric mean objective) a network costs that is
    worse than it by no more than `loss`: the best that the sweep found and that there is.
    """
    from dance_tf.supernet.inherited import NUM_CALIBRATION_IMAGES

    if front["supernet"]["supernet_sha256"] != sweep["supernet_sha256"]:
        raise UserError("the exact front is of another supernet than the sweep")
    if front["supernet"]["num_images"] != sweep["num_images"]:
        raise UserError("the exact front and the sweep are judged on other numbers of images")
    found_by: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for point in sweep["points"]:
        found_by[point["search"]["objective"]].append(point)
    rows: dict[str, Any] = {}
    for name, exact in front["objectives"].items():
        if name not in found_by:
            continue
        best = np.asarray([[p["error"], np.log(p["objective"])] for p in exact["front"]])
        spots = np.asarray([_spot(point, "objective") for point in found_by[name]])
        corner = best.max(axis=0)
        rows[name] = {
            "share": _volume(spots, corner) / _volume(best, corner),
            "num_found": len(spots),
            "num_on_exact_front": len(best),
            "num_exact_evaluations": exact["num_evaluations"],
            "saved": saved(found_by[name], exact["front"]),
        }
    evaluations = sum(row["num_exact_evaluations"] for row in rows.values())
    images = sweep["num_images"] + NUM_CALIBRATION_IMAGES
    steps = sum(point["num_architecture_steps"] for point in sweep["points"])
    return {
        "objectives": rows,
        "sweep_images": steps * config.search.arch_paths * config.search.batch_size,
        "exact_images": evaluations * images,
    }


def judged_again(
    sweep: dict[str, Any], front: dict[str, Any], judged: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a sweep and an exact front with the errors of `studies.judge_again`.

    Raises:
        UserError: If these are of another supernet, or lack a network.
    """
    if judged["supernet"]["supernet_sha256"] != sweep["supernet_sha256"]:
        raise UserError("the networks were judged again with another supernet than the sweep's")
    errors = {tuple(network["ops"]): network["error"] for network in judged["networks"]}
    try:
        points = [p | {"inherited_error": errors[tuple(p["ops"])]} for p in sweep["points"]]
        objectives = {
            name: found
            | {"front": [p | {"error": errors[tuple(p["ops"])]} for p in found["front"]]}
            for name, found in front["objectives"].items()
        }
    except KeyError as error:
        raise UserError(f"{','.join(error.args[0])} was not judged again") from None
    return sweep | {"points": points}, front | {"objectives": objectives}


def errors_of_trained(trained: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """Return the test errors in a file of studies.pytorch.train_side_by_side, by ops."""
    return {tuple(row["ops"]): 1.0 - row["accuracy"]["value"] for row in trained["networks"]}


def saved(points: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a network costs less than the baseline by how much worse it may be.

    Args:
        points: Of one objective, with those of lambda_2 = 0, the baseline.
        others: Found by other means, with `error` and `objective`.
    """
    baseline = [point for point in points if point["search"]["lambda_2"] == 0]
    if not baseline:
        return []
    error, log = mean(baseline, "inherited_error"), log_mean(baseline, "objective")
    rows = []
    for loss in _LOSSES:
        row: dict[str, Any] = {"loss": loss}
        for who, group, name in (
            ("sweep", points, "inherited_error"),
            ("others", others, "error"),
        ):
            within = [np.log(p["objective"]) for p in group if p[name] <= error + loss]
            row[f"{who}_ratio"] = float(np.exp(log - min(within))) if within else None
        rows.append(row)
    return rows


def edap_trend(
    errors: Sequence[float], edaps: Sequence[float], tolerance: float
) -> dict[str, Any] | None:
    """Return what EDAP alone says of the errors of trained networks; None below three networks.

    A line through error against log EDAP, with the 95 % interval of its slope, and the ratio of
    EDAPs at which it loses `tolerance`: what is saved there without choosing networks well.
    """
    if len(errors) < 3 or len(set(edaps)) < 2:
        return None
    line = scipy.stats.linregress(np.log(edaps), errors)
    margin = scipy.stats.t.ppf(0.975, len(errors) - 2) * line.stderr
    residuals = errors - (line.intercept + line.slope * np.log(edaps))

    def ratio(slope: float) -> float | None:
        return float(np.exp(-tolerance / slope)) if slope < 0 else None

    return {
        "loss_for_a_third": float(-line.slope * np.log(3)),
        "loss_for_a_third_95": [float((-line.slope + m) * np.log(3)) for m in (-margin, margin)],
        "tolerance": tolerance,
        "ratio_at_tolerance": ratio(line.slope),
        "ratio_at_tolerance_95": [ratio(line.slope + m) for m in (-margin, margin)],
        "residual_error": float(np.sqrt(np.sum(residuals**2) / (len(errors) - 2))),
    }


def mean(group: list[dict[str, Any]], name: str) -> float | None:
    """Return the mean; None where some have not been measured."""
    values = [point[name] for point in group]
    return None if None in values else statistics.mean(values)


def log_mean(group: list[dict[str, Any]], name: str) -> float:
    return float(np.mean(np.log([point[name] for point in group])))


def _key(point: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(point["search"].values())


def _spot(point: dict[str, Any], cost: str) -> tuple[float, float]:
    return point["inherited_error"], float(np.log(point[cost]))


def _volume(spots: np.ndarray, corner: np.ndarray) -> float:
    from dance_tf.search.sweep.fronts import hypervolume

    return hypervolume(spots, corner)
