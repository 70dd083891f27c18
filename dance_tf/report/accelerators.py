"""All accelerators for the network of a run: a scatter of their costs, and their front."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.report.charts import Mark, Plot, points_path, scale_of
from dance_tf.report.exact import ExactParts
from dance_tf.report.run_folder import Run
from dance_tf.report.texts import accelerator_name, number
from dance_tf.structs import DATAFLOWS

__all__ = ["accelerator_scatter", "front_rows"]

# Sizes of dots, by area.
_NUM_SIZES = 4


def accelerator_scatter(run: Run, exact: ExactParts) -> Plot | None:
    """Return latency against energy of the network on every accelerator; None of a cost of 0.

    Colours are dataflows, sizes areas. Dark dots are the front of latency, energy and area.
    """
    metrics = exact.metrics
    runs = np.isfinite(metrics).all(axis=1)
    dataflows = np.asarray(exact.accelerators.all().dataflow)
    if (metrics[runs] <= 0).any():  # a measured table may say so; a logarithm cannot show it
        return None
    given = {} if run.limits is None else dataclasses.asdict(run.limits)
    limits = [given.get("max_latency_ms"), given.get("max_energy_mj")]
    scales = [
        scale_of([*metrics[runs, i].tolist(), *([limit] if limit else [])], is_log=True)
        for i, limit in enumerate(limits)
    ]
    x, y = scales
    edges = np.geomspace(metrics[runs, 2].min(), metrics[runs, 2].max(), _NUM_SIZES + 1)[1:]
    sizes = np.minimum(np.searchsorted(edges, metrics[:, 2]), _NUM_SIZES - 1)
    marks = []
    for size in range(_NUM_SIZES - 1, -1, -1):  # the small ones on top, so that they are seen
        for code in range(len(DATAFLOWS)):
            points = metrics[runs & (sizes == size) & (dataflows == code), :2]
            if len(points):
                path = points_path(points.tolist(), x, y)
                marks.append(Mark(path, f"dot cloud d{code} z{size}"))
    marks.append(Mark(points_path(metrics[exact.front, :2].tolist(), x, y), "dot on-front"))
    key = [
        (f"dot d{code}", dataflow.replace("_", " "))
        for code, dataflow in enumerate(DATAFLOWS)
        if (runs & (dataflows == code)).any()
    ]
    key += [
        (f"dot z{size}", f"up to {number(float(edge), 3)} mm²")
        for size, edge in enumerate(edges)
        if (runs & (sizes == size)).any()
    ]
    key.append(("dot on-front", "beaten by no other in latency, energy and area"))
    if limits[0]:
        marks.append(Mark(f"M{x.at(limits[0]):g} 0V100", "limit"))
    if limits[1]:
        marks.append(Mark(f"M0 {100 - y.at(limits[1]):.5g}H100", "limit"))
    if any(limits):
        key.append(("line-limit", "limit"))
    own = metrics[exact.row, :2].tolist()
    name = accelerator_name(run.result["accelerator"])
    path = points_path([own], x, y)
    marks += [Mark(path, "dot ring"), Mark(path, "dot hole"), Mark(path, "dot core", name)]
    key.append(("dot ring+dot hole+dot core", "this run"))
    share = np.mean((metrics[runs, :2] >= metrics[exact.row, :2]).all(axis=1))
    return Plot(
        title="Latency and energy on every accelerator",
        description=(
            f"{runs.sum():,} accelerators, from {_range(metrics[runs, 0])} ms and"
            f" {_range(metrics[runs, 1])} mJ. This run's, {name}, has {number(own[0])} ms and"
            f" {number(own[1])} mJ; {100 * share:.0f} % of all are no better in either."
        ),
        x_label="latency, ms",
        y_label="energy, mJ",
        x=x,
        y=y,
        marks=tuple(marks),
        key=tuple(key),
    )


def front_rows(run: Run, exact: ExactParts) -> list[dict[str, Any]]:
    """Return the accelerators on the front, as texts for a table."""
    return [
        {
            "name": accelerator_name(accelerator_to_json(exact.accelerators.decode(row))),
            "values": [number(value) for value in exact.metrics[row].tolist()],
            "objective": number(float(run.objective(exact.metrics[row], run.reference))),
            "is_chosen": row == exact.row,
        }
        for row in exact.front.tolist()
    ]


def _range(values: np.ndarray) -> str:
    return f"{number(float(values.min()))} to {number(float(values.max()))}"
