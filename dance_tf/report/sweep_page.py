"""Page of a sweep, pareto.html: its fronts, what each search found, what it saves."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import urllib.parse

from dance_tf.errors import UserError
from dance_tf.files import write_text
from dance_tf.hardware.cost_table import CostTable
from dance_tf.report.page import REPORT_NAME, environment, table_of, write_report
from dance_tf.report.run_folder import read_run
from dance_tf.report.sweep_charts import FrontChart, axes, front_chart, threads
from dance_tf.report.sweep_folder import ERRORS, Pair, Sweep, read_sweep
from dance_tf.report.texts import number
from dance_tf.run import terminal
from dance_tf.supernet.candidate_ops import LEFT_OUT
from dance_tf.supernet.op_names import op_kernel_expansion

__all__ = ["PAGE_NAME", "Saving", "render_sweep", "savings", "verdict", "write_sweep_page"]

#: Name of the page in its folder.
PAGE_NAME = "pareto.html"

# Costs against which the error is drawn: their fields, and in words with their units.
_DRAWN = {
    "edap_ms_mj_mm2": "EDAP, ms mJ mm²",
    "latency_ms": "latency, ms",
    "energy_mj": "energy, mJ",
    "area_mm2": "area, mm²",
}

#: Points of accuracy that a reader may want to give up.
_POINTS_GIVEN_UP = (0.0, 0.5, 1.0, 2.0, 5.0)


@dataclasses.dataclass(frozen=True)
class Saving:
    """The pair of least EDAP within some points of the baseline's error.

    Attributes:
        points: Points of accuracy given up at most.
        pair: Network and accelerator.
        error: Error of the pair, share of images.
        ratios: Cost of the baseline over that of the pair, by the names of COSTS.
    """

    points: float
    pair: Pair
    error: float
    ratios: dict[str, float]


def baseline_of(sweep: Sweep, kind: str) -> Pair | None:
    """Return the most accurate pair that was searched for accuracy alone, None without one.

    Args:
        kind: Error to compare by, one of ERRORS.
    """
    pairs = [
        pair
        for pair in sweep.pairs
        if any(point.is_baseline for point in pair.points) and pair.error(kind) is not None
    ]
    return min(pairs, key=lambda pair: (pair.error(kind), pair.number), default=None)


def savings(sweep: Sweep, kind: str) -> list[Saving]:
    """Return what giving up accuracy saves, as far as it saves more than the row before.

    Args:
        kind: Error to compare by, one of ERRORS; pairs without it are left out.
    """
    baseline = baseline_of(sweep, kind)
    if baseline is None:
        return []
    base_error = baseline.error(kind) or 0.0
    rows: list[Saving] = []
    for points in _POINTS_GIVEN_UP:
        # Pairs are ordered by EDAP. The bound is loosened by the rounding of the errors.
        pair = next(
            pair
            for pair in sweep.pairs
            if (error := pair.error(kind)) is not None and error <= base_error + points / 100 + 1e-9
        )
        if not rows or pair is not rows[-1].pair:
            ratios = {name: baseline.costs[name] / pair.costs[name] for name in pair.costs}
            rows.append(Saving(points, pair, pair.error(kind) or 0.0, ratios))
    return rows


def verdict(sweep: Sweep) -> list[str]:
    """Return the first sentences of the page: what was found, what it saves, what to try."""
    kind = sweep.errors[-1]
    num_points, num_pairs = len(sweep.points), len(sweep.pairs)
    num_front = sum(ERRORS[0] in pair.fronts for pair in sweep.pairs)
    sentences = [
        f"{num_points} {_plural('search', num_points)} found {num_pairs} different"
        f" {_plural('pair', num_pairs)} of network and accelerator, {num_front} of them on the"
        " front of inherited error, latency, energy and area."
    ]
    rows = savings(sweep, kind)
    baseline = baseline_of(sweep, kind)
    word = kind.removesuffix("_error")
    if baseline is None:
        sentences.append(
            "There is no search for accuracy alone to compare with: add one with lambda_2 0."
        )
    else:
        sentences.append(
            f"Searched for accuracy alone, the network has {_percent(baseline.error(kind))}"
            f" {word} error at an EDAP of {number(baseline.costs['edap_ms_mj_mm2'])} ms mJ mm²"
            f" (pair {baseline.number})."
        )
        cheaper = [row for row in rows if row.pair is not baseline]
        if cheaper:
            sentences.append(_saves(cheaper[0]))
            if len(cheaper) > 1:
                sentences.append(_saves(cheaper[-1]))
        else:
            sentences.append(
                f"Nothing that was found costs less within {_POINTS_GIVEN_UP[-1]:g} points of it."
            )
    spread = _seed_spread(sweep)
    if spread:
        sentences.append(
            "Seeds of one objective and lambda_2 end"
            f" {number(spread[0], 3)}x apart in EDAP in the median,"
            f" {number(spread[1], 3)}x at most."
        )
    return sentences + _advice(sweep)


def _saves(row: Saving) -> str:
    lost = "At no more error" if row.points == 0 else f"Within {row.points:g} points of it"
    return (
        f"{lost}, EDAP falls {number(row.ratios['edap_ms_mj_mm2'], 3)}x"
        f" (latency {number(row.ratios['latency_ms'], 3)}x,"
        f" energy {number(row.ratios['energy_mj'], 3)}x,"
        f" area {number(row.ratios['area_mm2'], 3)}x; pair {row.pair.number})."
    )


def _seed_spread(sweep: Sweep) -> tuple[float, float] | None:
    """Return the median and the largest ratio of EDAP between seeds; None with one seed."""
    groups: dict[tuple[str, float], list[float]] = {}
    for pair in sweep.pairs:
        for point in pair.points:
            key = (point.search.objective, point.search.lambda_2)
            groups.setdefault(key, []).append(pair.costs["edap_ms_mj_mm2"])
    ratios = [max(edaps) / min(edaps) for edaps in groups.values() if len(edaps) > 1]
    return (statistics.median(ratios), max(ratios)) if ratios else None


def _advice(sweep: Sweep) -> list[str]:
    """Return what the numbers suggest to do next."""
    advice = []
    if len(sweep.errors) == 1:
        advice.append(
            "All errors are those of inherited weights, which need not rank networks as their"
            " training does: retrain the front with --num_retrained before choosing."
        )
    elif any(point.retrained_error is None for point in sweep.points):
        advice.append(
            "Some pairs have not been retrained; sentences and savings are of those that have."
        )
    searched = [point for point in sweep.points if not point.is_baseline]
    if searched and len({point.search.seed for point in sweep.points}) == 1:
        advice.append("There is one seed: --num_seeds=3 says how much of this is luck.")
    largest = max((point.search.lambda_2 for point in searched), default=0.0)
    at_largest = [
        pair
        for pair in sweep.pairs
        if any(point.search.lambda_2 == largest > 0 for point in pair.points)
    ]
    if at_largest and all(pair.zero_share == 1 for pair in at_largest):
        advice.append(
            f"At lambda_2 {largest:g} every block that can be is Zero: larger values find"
            " nothing else."
        )
    return advice


def _percent(share: float | None) -> str:
    return "no" if share is None else f"{100 * share:.2f} %"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}es" if word.endswith("ch") else f"{word}s"


# The page


def write_sweep_page(
    sweep_dir: str,
    path: str | None = None,
    *,
    table: CostTable | None = None,
    cache_dir: str | None = None,
) -> str:
    """Write the page of a sweep, and the report of each search that has none yet.

    Args:
        sweep_dir: Folder of the sweep, finished or interrupted.
        path: File to write; None: pareto.html in the folder.
        table: The sweep's table; None: the one that its config asks for.
        cache_dir: Folder of cached tables; a table that is not there is built.
    Returns:
        The path of the page.
    Raises:
        UserError: If the folder holds no sweep, or a damaged one.
    """
    sweep = read_sweep(sweep_dir)
    _write_reports(sweep, table, cache_dir)
    path = path or os.path.join(sweep.folder, PAGE_NAME)
    write_text(path, render_sweep(sweep, os.path.dirname(os.path.abspath(path))))
    return path


def _write_reports(sweep: Sweep, table: CostTable | None, cache_dir: str | None) -> None:
    folders = [os.path.join(sweep.folder, point.folder) for point in sweep.points]
    missing = [
        folder
        for folder in folders
        if os.path.exists(os.path.join(folder, "result.json"))
        and not os.path.exists(os.path.join(folder, REPORT_NAME))
    ]
    if missing and table is None and (run := read_run(missing[0])).is_space_known:
        # Each report says why where there is none.
        with contextlib.suppress(UserError):
            table = table_of(run, cache_dir)
    with terminal.progress("reports") as report:
        for done, folder in enumerate(missing, start=1):
            write_report(folder, table=table, cache_dir=cache_dir)
            report(done, len(missing))


def render_sweep(sweep: Sweep, page_dir: str) -> str:
    """Return the page.

    Args:
        sweep: Sweep to show.
        page_dir: Folder in which the page will lie, from which its links start.
    """
    found = axes(sweep)
    series = dict.fromkeys(point.series for point in sweep.points)
    context: dict[str, object] = {
        "sweep": sweep,
        "verdict": verdict(sweep),
        "savings": [(kind, savings(sweep, kind)) for kind in sweep.errors],
        "fronts": [
            front_chart(sweep, kind, "edap_ms_mj_mm2", _DRAWN["edap_ms_mj_mm2"], is_labelled=True)
            for kind in sweep.errors
        ],
        "small_fronts": _small_fronts(sweep),
        "axes": found,
        "threads": threads(sweep, found),
        "colour": {name: f"c{row}" for row, name in enumerate(series)},
        "link": {point: _link(sweep, point.folder, page_dir) for point in sweep.points},
        "errors": {kind: kind.replace("_", " ") for kind in ERRORS},
    }
    templates = environment()
    templates.filters["bar_class"] = _bar_class
    return templates.get_template("sweep.html.jinja").render(context)


def _bar_class(op: str) -> str:
    """Return the classes of an op's bar: its kernel, and whether it expands much; or zero."""
    if op in LEFT_OUT:
        return "zero"
    kernel, expansion = op_kernel_expansion(op) or (3, 3)
    return f"k{min(kernel, 7)} e{6 if expansion > 3 else 3}"


def _small_fronts(sweep: Sweep) -> list[FrontChart]:
    return [
        front_chart(sweep, sweep.errors[-1], cost, label, is_labelled=False)
        for cost, label in _DRAWN.items()
        if cost != "edap_ms_mj_mm2"
    ]


def _link(sweep: Sweep, folder: str, page_dir: str) -> str | None:
    """Return where a search's report lies, from the page; None where it is missing."""
    path = os.path.join(sweep.folder, folder, REPORT_NAME)
    if not os.path.exists(path):
        return None
    return urllib.parse.quote(os.path.relpath(path, page_dir).replace(os.sep, "/"))
