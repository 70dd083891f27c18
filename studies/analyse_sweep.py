"""Claims of DANCE in the light of a sweep, held against the exact table.

    python -m studies.analyse_sweep --sweep_dir=runs/sweep --output=findings.json

Reads pareto.json of `tools.pareto`; trains nothing. Its parts:

- `against_the_baseline`: the points found with a hardware cost beside those found for
  accuracy alone and given their exact best accelerator, at equal accuracy of real trainings.
- `one_accelerator`: every network on its own best accelerator beside all on the one that is
  best for them together.
- `found`: kernels, expansions, Zero and accelerators by objective.
- `uniform_networks`: networks of one op everywhere on the exact best accelerator of each
  dataflow, by objective: what there was to be found.
- `beside`, with `--beside=FOLDER`, by the name of that folder: the same searches of another
  sweep, such as one with the exact evaluator or for a fixed accelerator.
- `of_the_exact_front`, with `--exact_front=FILE` of `studies.exact_front`: the hypervolume of
  the points found as a share of that front's, and what each has cost in images run.
- `of_the_exact_front_judged`, with `--judged=FILE` of `studies.judge_again` as well: the
  same by errors on images that neither was chosen by.
- `trained`, with `--trained=FILE` of `studies.pytorch.train_side_by_side`: the points beside the
  baseline by the errors of these trainings, and what is saved at most by how much is lost, by
  the points and by all networks in the file on their exact best accelerators; `trend` is how
  error follows EDAP over all of them.

`--picture=FILE.svg` draws error against EDAP: every point, and the exact front; retrained
errors are those of `--trained` where it is given.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dance_tf.config import ExperimentConfig, config_from_json
from dance_tf.errors import UserError
from dance_tf.files import read_json, write_json
from dance_tf.structs import DATAFLOWS, METRICS, OBJECTIVES, Architecture
from studies.found_networks import read_trained
from studies.sweep_comparisons import (
    COSTS,
    against_the_baseline,
    beside,
    by_objective_and_lambda,
    edap_trend,
    errors_of_trained,
    judged_again,
    log_mean,
    mean,
    of_the_exact_front,
    saved,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Analyse what the arguments name and write the file."""
    parser = argparse.ArgumentParser(
        prog="analyse_sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweep_dir", required=True, help="folder of a `tools.pareto`")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument(
        "--tolerance", type=float, default=0.007, help="what accuracies may differ by as equal"
    )
    parser.add_argument(
        "--beside", action="append", default=[], help="folder of another sweep; repeatable"
    )
    parser.add_argument("--exact_front", help="JSON file of studies.exact_front")
    parser.add_argument("--judged", help="JSON file of studies.judge_again")
    parser.add_argument("--trained", help="JSON file of studies.pytorch.train_side_by_side")
    parser.add_argument("--picture", help="SVG file to write")
    options = parser.parse_args(argv)
    try:
        config = config_from_json(read_json(os.path.join(options.sweep_dir, "config.json")))
        sweep = read_json(os.path.join(options.sweep_dir, "pareto.json"))
        trained = read_trained(options.trained) if options.trained else None
        report = analyse(config, sweep, options.tolerance, trained)
        others = {os.path.basename(os.path.normpath(path)): path for path in options.beside}
        if len(others) < len(options.beside):
            raise UserError("--beside: folders of one name cannot be told apart in the report")
        report["beside"] = {
            name: beside(sweep["points"], read_json(os.path.join(path, "pareto.json"))["points"])
            for name, path in others.items()
        }
        front = read_json(options.exact_front) if options.exact_front else None
        if front:
            report["of_the_exact_front"] = of_the_exact_front(config, sweep, front)
        if front and options.judged:
            judged = read_json(options.judged)
            report["of_the_exact_front_judged"] = {
                "num_images": judged["supernet"]["num_images"],
                **of_the_exact_front(config, *judged_again(sweep, front, judged)),
            }
        if options.picture:
            draw_sweep(sweep, front, options.picture, trained)
    except UserError as error:
        print(f"analyse_sweep: {error}", file=sys.stderr)
        return 1
    write_json(options.output, report)
    print(f"wrote {options.output}")
    return 0


def analyse(
    config: ExperimentConfig,
    sweep: dict[str, Any],
    tolerance: float,
    trained: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of a sweep as JSON data.

    Args:
        config: Of the sweep: its space and hardware.
        sweep: Content of pareto.json.
        tolerance: Shares of images by which two accuracies may differ and count as equal.
        trained: Content of a file of studies.pytorch.train_side_by_side.
    """
    # Late: a mistake is told before TensorFlow is waited for.
    from dance_tf.hardware.cost_table import load_or_build_table
    from dance_tf.supernet.space_files import make_space

    table = load_or_build_table(make_space(config.space), config.hardware)
    if table.content_hash != sweep["cost_table_sha256"]:
        raise UserError("the costs of this space and hardware are not those of the sweep")
    points = sweep["points"]
    report = {
        "tolerance": tolerance,
        "against_the_baseline": against_the_baseline(points, tolerance),
        "one_accelerator": {
            name: one_accelerator(table, name, _networks(table, points, name))
            for name in _objectives(points)
        },
        "found": found(points),
        "uniform_networks": uniform_networks(table, _objectives(points)),
    }
    if trained:
        report["trained"] = of_trained(table, points, trained, tolerance)
    return report


def of_trained(
    table: Any, points: list[dict[str, Any]], trained: dict[str, Any], tolerance: float
) -> dict[str, Any]:
    """Judge points by other trainings, and what is saved by all the networks of these."""
    space, rows = table.space, trained["networks"]
    networks = np.stack(
        [space.to_indices(Architecture(space.name, tuple(row["ops"]))) for row in rows]
    )
    error_of = errors_of_trained(trained)
    errors = [error_of[tuple(row["ops"])] for row in rows]
    known = _with_trained(points, trained)
    ratios: dict[str, Any] = {}
    for objective in _objectives(points):
        costs = _values(table, objective, networks).min(axis=1)
        ratios[objective] = saved(
            [
                point | {"inherited_error": point["retrained_error"]}
                for point in known
                if point["search"]["objective"] == objective
                and point["retrained_error"] is not None
            ],
            [
                {"error": error, "objective": cost}
                for error, cost in zip(errors, costs, strict=True)
            ],
        )
    metrics = np.asarray(table.metrics_of(networks), np.float64)
    edaps = metrics.prod(axis=-1).min(axis=1).tolist()
    return {
        "epochs": trained["config"]["retrain"]["epochs"],
        "networks": [
            {
                "ops": row["ops"],
                "is_spread": row["is_spread"],
                "error": error,
                "edap_ms_mj_mm2": edap,
            }
            for row, error, edap in zip(rows, errors, edaps, strict=True)
        ],
        "trend": edap_trend(errors, edaps, tolerance),
        "against_the_baseline": against_the_baseline(known, tolerance),
        "saved": ratios,
    }


def _with_trained(points: list[dict[str, Any]], trained: dict[str, Any]) -> list[dict[str, Any]]:
    """Return points with the errors of other trainings, None where there is none."""
    errors = errors_of_trained(trained)
    return [point | {"retrained_error": errors.get(tuple(point["ops"]))} for point in points]


def one_accelerator(table: Any, objective: str, networks: np.ndarray) -> dict[str, Any]:
    """Hold each network on its own best accelerator against all on one.

    Args:
        table: hardware.cost_table.CostTable.
        objective: Name of one with weights of its own.
        networks: Op indices, int32 [B, D].
    Returns:
        The accelerator with the least geometric mean of the objective over the networks, and
        what the objective is on it, as a multiple of that on each network's own best.
    """
    values = _values(table, objective, networks)  # [B, A]
    ratios = values / values.min(axis=1, keepdims=True)
    means = np.log(ratios).mean(axis=0)
    best = int(np.argmin(means))
    own = {int(index) for index in np.argmin(values, axis=1)}
    return {
        "num_networks": len(networks),
        "num_own_accelerators": len(own),
        "accelerator": _fields(table, best),
        "mean_ratio": float(np.exp(means[best])),
        "largest_ratio": float(ratios[:, best].max()),
    }


def found(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Describe what was found, by objective and lambda_2, as means over seeds."""
    rows = []
    for (objective, lambda_2), group in by_objective_and_lambda(points).items():
        accelerators = [point["accelerator"] for point in group]
        shapes = [shape for point in group for shape in map(_shape, point["ops"]) if shape]
        rows.append(
            {
                "objective": objective,
                "lambda_2": lambda_2,
                "num_seeds": len(group),
                "kernel": statistics.mean(kernel for kernel, _ in shapes) if shapes else None,
                "expansion": statistics.mean(e for _, e in shapes) if shapes else None,
                "zero_share": mean(group, "zero_share"),
                "num_pes": statistics.mean(a["pe_x"] * a["pe_y"] for a in accelerators),
                "rf_bytes": statistics.mean(a["rf_bytes"] for a in accelerators),
                "dataflows": dict(collections.Counter(a["dataflow"] for a in accelerators)),
                "inherited_error": mean(group, "inherited_error"),
                **{name: float(np.exp(log_mean(group, name))) for name in COSTS},
            }
        )
    return rows


def uniform_networks(table: Any, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Cost networks of one op in every block on the best accelerator of each dataflow."""
    space = table.space
    names = [name for name in space.op_names if _shape(name)]
    networks = np.asarray([[space.op_names.index(name)] * space.num_blocks for name in names])
    metrics = np.asarray(table.metrics_of(networks), np.float64)
    dataflows = [table.accelerators.decode(i).dataflow for i in range(len(table.accelerators))]
    rows = []
    for objective in objectives:
        values = _values(table, objective, networks)
        for (row, name), dataflow in itertools.product(enumerate(names), DATAFLOWS):
            is_of = np.asarray([own == dataflow for own in dataflows])
            if not is_of.any():
                continue
            best = int(np.argmin(np.where(is_of, values[row], np.inf)))
            rows.append(
                {
                    "objective": objective,
                    "op": name,
                    "accelerator": _fields(table, best),
                    "is_best": bool(values[row, best] == values[row].min()),
                    "times_the_best": float(values[row, best] / values[row].min()),
                    **dict(zip(METRICS, metrics[row, best].tolist(), strict=True)),
                }
            )
    return rows


def _values(table: Any, objective: str, networks: np.ndarray) -> np.ndarray:
    """Return the objective of networks on all accelerators, float64 [B, A]; inf: cannot run."""
    from dance_tf.hardware.objective import Objective, objective_values

    kind, weights = OBJECTIVES[objective]
    if weights is None:
        raise UserError(f"objective {objective} has no weights of its own")
    vector = Objective(kind, weights).vector
    values = objective_values(vector, table.metrics_of(networks), table.reference)
    return np.asarray(values, np.float64)


def _networks(table: Any, points: list[dict[str, Any]], objective: str) -> np.ndarray:
    """Return the different networks that searches of an objective found, [B, D]."""
    names = list(table.space.op_names)
    rows = {
        tuple(names.index(op) for op in point["ops"])
        for point in points
        if point["search"]["objective"] == objective
    }
    return np.asarray(sorted(rows), np.int32)


def draw_sweep(
    sweep: dict[str, Any],
    front: dict[str, Any] | None,
    path: str,
    trained: dict[str, Any] | None = None,
) -> None:
    """Draw error against EDAP.

    Args:
        sweep: Content of pareto.json.
        front: Content of a file of studies.exact_front, whose front of EDAP is drawn too.
        path: SVG file to write.
        trained: Content of a file of studies.pytorch.train_side_by_side, whose errors are then
            the retrained ones.
    """
    from dance_tf.search.sweep.plot import plot_sweep

    if trained:
        sweep = sweep | {"points": _with_trained(sweep["points"], trained), "retrained": True}
    exact = front["objectives"].get("EDAP", {"front": []})["front"] if front else []
    spots = [(point["edap_ms_mj_mm2"], point["error"]) for point in exact]
    plot_sweep(sweep, path, {"evolution": spots} if spots else None)


def _objectives(points: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(point["search"]["objective"] for point in points))


def _fields(table: Any, index: int) -> dict[str, Any]:
    from dance_tf.hardware.accelerator import accelerator_to_json

    return accelerator_to_json(table.accelerators.decode(index))


def _shape(op_name: str) -> tuple[int, int] | None:
    from dance_tf.supernet.op_names import op_kernel_expansion

    return op_kernel_expansion(op_name)


if __name__ == "__main__":
    sys.exit(main())
