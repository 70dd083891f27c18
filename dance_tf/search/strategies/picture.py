"""Picture of a comparison: hypervolume against networks trained, and cost at equal accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dance_tf.files import Json
from dance_tf.search.sweep.plot import SVG_STYLE, save_svg

__all__ = ["plot_comparison"]

_OURS = "dance"


def plot_comparison(found: Mapping[str, Json], path: str) -> None:
    """Draw comparison.json as an SVG.

    On the left what is missing to the exact front's hypervolume against networks trained,
    medians and quartiles; on the right how many times less cost there is at equal accuracy, of
    the exact front and of each strategy at the last budget.

    Args:
        found: Content of comparison.json.
        path: File to write.
    """
    names = list(dict.fromkeys(entry["strategy"] for entry in found["strategies"]))
    with matplotlib.rc_context(SVG_STYLE):
        figure = Figure(figsize=(10.5, 5.0), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, name in enumerate(names):
            entries = [entry for entry in found["strategies"] if entry["strategy"] == name]
            _draw(left, entries, name, f"C{number % 10}", "-" if number < 10 else "--")
        left.set_xscale("log")
        left.set_yscale("log")
        left.invert_yaxis()
        left.set_xticks(found["budgets"], [str(budget) for budget in found["budgets"]])
        left.minorticks_off()
        left.set_xlabel("networks trained")
        left.set_ylabel("missing to the exact front's hypervolume, %")
        left.grid(alpha=0.3)
        left.legend(frameon=False, fontsize=7, ncols=2)
        _draw_ratios(right, found)
        save_svg(figure, path)


def _draw(
    axes: Axes, entries: Sequence[Mapping[str, Json]], name: str, color: str, style: str
) -> None:
    budgets = [entry["budget"] for entry in entries]
    missing = {
        part: [100 * max(1 - entry[f"hypervolume_{part}"], 1e-4) for entry in entries]
        for part in ("q25", "median", "q75")
    }
    width = 2.2 if name.startswith(_OURS) else 1.0
    axes.plot(budgets, missing["median"], style, color=color, lw=width, label=name, marker=".")
    axes.fill_between(budgets, missing["q75"], missing["q25"], color=color, alpha=0.1, lw=0)


def _draw_ratios(axes: Axes, found: Mapping[str, Json]) -> None:
    """Draw cost ratios at equal accuracy, of the exact front and of each strategy at the end."""
    points = list(found["exact"]["cost_ratio"])
    last = max(found["budgets"])
    shown = [entry for entry in found["strategies"] if entry["budget"] == last]
    at = range(len(points))
    exact = found["exact"]["cost_ratio"]
    axes.plot(at, [exact[p] for p in points], color="0.2", lw=2.2, label="exact front", marker=".")
    for number, entry in enumerate(shown):
        ratios = entry["cost_ratio_median"]
        style = "-" if number < 10 else "--"
        axes.plot(at, [ratios[p] for p in points], style, color=f"C{number % 10}", lw=1.0)
    axes.set_yscale("log")
    axes.set_xticks(list(at), [f"{p}" for p in points])
    axes.set_xlabel("points of error above the most accurate network")
    axes.set_ylabel(f"times less cost than it, after {last} networks")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
