"""Picture of a sweep: error against EDAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dance_tf.files import Json, written_aside
from dance_tf.search.sweep.fronts import front_rows

__all__ = ["SVG_STYLE", "plot_sweep", "save_svg"]

# No date and no random names, so that equal data give equal files.
_METADATA = {"Date": None, "Creator": None}
#: Settings of matplotlib under which pictures are drawn.
SVG_STYLE: Any = {"svg.hashsalt": "dance_tf", "svg.fonttype": "none", "font.size": 9}
_BASELINE = "accuracy alone"

Spots = Sequence[tuple[float, float]]  # (EDAP in ms mJ mm2, error as a share)


def plot_sweep(
    found: Mapping[str, Json], path: str, references: Mapping[str, Spots] | None = None
) -> None:
    """Draw pareto.json as an SVG: inherited errors, and beside them what has been retrained.

    Each objective has a colour, which is the same in both, and a line through its front.

    Args:
        found: Content of pareto.json.
        path: File to write.
        references: Name to points by inherited error that are drawn as a line, such as a
            front found by other means.
    """
    points = found["points"]
    errors = ["inherited_error", *(["retrained_error"] if found["retrained"] else [])]
    names = dict.fromkeys(map(_series, points))
    with matplotlib.rc_context(SVG_STYLE):
        figure = Figure(figsize=(6.4 + 4.2 * (len(errors) - 1), 4.0), layout="constrained")
        all_axes = figure.subplots(1, len(errors), squeeze=False)[0]
        for axes, error in zip(all_axes, errors, strict=True):
            for number, name in enumerate(names):
                spots = [
                    (point["edap_ms_mj_mm2"], point[error])
                    for point in points
                    if _series(point) == name and point[error] is not None
                ]
                _draw(axes, spots, name, f"C{number}")
            axes.set_xscale("log")
            axes.set_xlabel("EDAP, ms mJ mm²")
            axes.set_ylabel(f"{error.replace('_', ' ').capitalize()}, %")
            axes.grid(alpha=0.3)
        for name, reference in (references or {}).items():
            _draw_front(all_axes[0], reference, color="0.4", label=name)
        all_axes[0].legend(frameon=False)
        save_svg(figure, path)


def save_svg(figure: Figure, path: str) -> None:
    """Write a figure, drawn under SVG_STYLE, so that equal data give equal files."""
    with written_aside(path) as aside:
        figure.savefig(aside, format="svg", metadata=_METADATA)


def _series(point: Mapping[str, Json]) -> str:
    search = point["search"]
    return search["objective"] if search["lambda_2"] else _BASELINE


def _draw(axes: Axes, spots: Spots, name: str, color: str) -> None:
    if spots:
        _draw_front(axes, spots, color=color)
        axes.scatter(
            [x for x, _ in spots], [100 * y for _, y in spots], s=16, color=color, label=name
        )


def _draw_front(axes: Axes, spots: Spots, color: str, label: str | None = None) -> None:
    front = [spots[i] for i in front_rows(spots)]
    xs, ys = [x for x, _ in front], [100 * y for _, y in front]
    axes.plot(xs, ys, drawstyle="steps-post", lw=1, color=color, label=label)
