"""The picture of a sweep: error against EDAP."""

from __future__ import annotations

import os
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from dance_tf.search.fronts import front_rows

__all__ = ["plot_points", "plot_sweep"]

# The same data give the same file: no date, no random names.
_METADATA = {"Date": None, "Creator": None}
_RC: Any = {"svg.hashsalt": "dance_tf", "svg.fonttype": "none", "font.size": 9}


def plot_points(series: dict[str, list[tuple[float, float]]], path: str, *, y_label: str) -> None:
    """Draw points (EDAP, error) as an SVG, a colour for each series and a line through its front.

    Args:
        series: Name to points (EDAP in ms mJ mm2, error as a share). Empty ones are left out.
        path: File to write.
        y_label: What the error is of.
    """
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for name, points in series.items():
            if not points:
                continue
            front = [points[i] for i in front_rows(points)]
            (line,) = axes.plot(
                [x for x, _ in front], [100 * y for _, y in front], drawstyle="steps-post", lw=1
            )
            axes.scatter(
                [x for x, _ in points],
                [100 * y for _, y in points],
                s=16,
                color=line.get_color(),
                label=name,
            )
        axes.set_xscale("log")
        axes.set_xlabel("EDAP, ms mJ mm²")
        axes.set_ylabel(f"{y_label}, %")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        aside = f"{path}.tmp"
        figure.savefig(aside, format="svg", metadata=_METADATA)
    os.replace(aside, path)


def plot_sweep(found: dict[str, Any], path: str) -> None:
    """Draw pareto.json: the retrained errors, where there are any, else the inherited ones."""
    name = "inherited_error" if found["retrained"] is None else "retrained_error"
    series: dict[str, list[tuple[float, float]]] = {}
    for point in found["points"]:
        if point[name] is not None:
            search = point["search"]
            kind = search["objective"] if search["lambda_2"] else "accuracy alone"
            series.setdefault(kind, []).append((point["edap_ms_mj_mm2"], point[name]))
    plot_points(series, path, y_label=name.replace("_", " ").capitalize())
