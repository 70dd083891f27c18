"""Geometry of a sweep's charts: fronts with a label at each point, and parallel coordinates.

Places are in per cent of the plot, as in charts.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Sequence

from dance_tf.report.charts import Scale, line_path, scale_of
from dance_tf.report.sweep_folder import Pair, Sweep
from dance_tf.report.texts import number
from dance_tf.search.sweep.fronts import front_rows
from dance_tf.supernet.candidate_ops import LEFT_OUT
from dance_tf.supernet.op_names import op_kernel_expansion

__all__ = ["Axis", "Dot", "FrontChart", "Thread", "axes", "front_chart", "threads"]

#: Plot in pixels for which labels are placed: on a desk and on a telephone.
_WIDE, _NARROW = (1080.0, 440.0), (290.0, 300.0)

# Sides of a dot, those first that the line of a front, from above and to the right, leaves free.
_SIDES = ("left", "below", "right", "above")

# Width of a character and height of a line of a label, in pixels.
_CHARACTER, _LINE = 7.8, 14.0


@dataclasses.dataclass(frozen=True)
class Label:
    """A text beside a dot.

    Attributes:
        text: Text of the label.
        side: Side of the dot: right, left, above or below.
    """

    text: str
    side: str


@dataclasses.dataclass(frozen=True)
class Dot:
    """A pair in a chart; x and y in per cent, y from the bottom."""

    pair: Pair
    x: float
    y: float
    series: str
    is_on_front: bool
    wide: Label | None = None  # None: there is no room for it
    narrow: Label | None = None


@dataclasses.dataclass(frozen=True)
class FrontChart:
    """Error against one cost.

    Attributes:
        title: Error and cost in words.
        x_label: Name of the cost, with its unit.
        x, y: Axes; y is in per cent of images.
        front: Path of an SVG of 100 x 100 through the pairs that no other beats in the two.
        dots: All pairs that have the error; those on the front of all costs come last.
    """

    title: str
    x_label: str
    x: Scale
    y: Scale
    front: str
    dots: tuple[Dot, ...]


def front_chart(
    sweep: Sweep, kind: str, cost: str, x_label: str, *, is_labelled: bool
) -> FrontChart:
    """Return the chart of an error against a cost.

    Args:
        sweep: Sweep, of which some pair has the error.
        kind: Error on the y axis, one of sweep.errors.
        cost: Cost on the x axis, one of COSTS.
        x_label: Name of the cost in words, with its unit.
        is_labelled: True if dots have labels beside them.
    """
    known = [(pair, error) for pair in sweep.pairs if (error := pair.error(kind)) is not None]
    costs = [pair.costs[cost] for pair, _ in known]
    errors = [100 * error for _, error in known]
    x, y = scale_of(costs, is_log=True), scale_of(errors)
    front = [(costs[row], errors[row]) for row in front_rows(list(zip(costs, errors, strict=True)))]
    path = line_path(front, x, y, is_stepped=True)
    dots = [
        Dot(pair, x.at(c), y.at(e), pair.series, kind in pair.fronts)
        for (pair, _), c, e in zip(known, costs, errors, strict=True)
    ]
    if is_labelled:
        # Labels of the front are placed first, so that they have the room that there is.
        order = sorted(range(len(dots)), key=lambda row: not dots[row].is_on_front)
        wide = _place_labels(dots, order, _WIDE, is_long=True)
        narrow = _place_labels(dots, order, _NARROW, is_long=False)
        dots = [
            dataclasses.replace(dot, wide=large, narrow=small)
            for dot, large, small in zip(dots, wide, narrow, strict=True)
        ]
    title = f"{kind.replace('_', ' ').capitalize()} against {x_label.partition(',')[0]}"
    return FrontChart(
        title, x_label, x, y, path, tuple(sorted(dots, key=lambda dot: dot.is_on_front))
    )


def _place_labels(
    dots: Sequence[Dot], order: Sequence[int], size: tuple[float, float], *, is_long: bool
) -> list[Label | None]:
    """Return a label for each dot that covers no dot and no other label, None without room."""
    width, height = size
    centres = [(dot.x / 100 * width, dot.y / 100 * height) for dot in dots]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in centres]
    labels: list[Label | None] = [None] * len(dots)
    for row in order:
        pair, (x, y) = dots[row].pair, centres[row]
        texts = [str(pair.number)]
        if is_long:
            texts.insert(0, f"{pair.number}: {pair.name}")
        for text, side in itertools.product(texts, _SIDES):
            box = _box(x, y, len(text) * _CHARACTER, side)
            is_inside = box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height
            if is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels[row] = Label(text, side)
                break
    return labels


def _box(x: float, y: float, width: float, side: str) -> tuple[float, float, float, float]:
    """Return left, bottom, right and top of a label beside (x, y)."""
    gap, half = 8.0, _LINE / 2
    if side in ("right", "left"):
        left = x + gap if side == "right" else x - gap - width
        return left, y - half, left + width, y + half
    bottom = y + gap if side == "above" else y - gap - _LINE
    return x - width / 2, bottom, x + width / 2, bottom + _LINE


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# Parallel coordinates, one axis below the other


@dataclasses.dataclass(frozen=True)
class Axis:
    """One quantity, drawn from left (low) to right (high).

    Attributes:
        title: Name of the quantity, with its unit.
        low, high: Texts at the ends.
        at: Place of each pair, in per cent; None where the pair has no value.
    """

    title: str
    low: str
    high: str
    at: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class Thread:
    """One pair through all axes."""

    pair: Pair
    series: str
    path: str  # of an SVG of 100 x 100, one row for each axis


def axes(sweep: Sweep) -> list[Axis]:
    """Return the axes on which pairs are compared; those that tell nothing apart are kept."""

    def percent(value: float) -> str:
        return f"{100 * value:.2f} %"

    def plain(value: float) -> str:
        return f"{value:.3g}"

    specs: list[tuple[str, Callable[[Pair], float | None], Callable[[float], str], bool]] = [
        (kind.replace("_", " "), operator.methodcaller("error", kind), percent, False)
        for kind in sweep.errors
    ]
    specs += [
        ("latency, ms", lambda p: p.costs["latency_ms"], number, True),
        ("energy, mJ", lambda p: p.costs["energy_mj"], number, True),
        ("area, mm²", lambda p: p.costs["area_mm2"], number, True),
        ("mean kernel of the MBConvs", lambda p: _mean_of_op(p, 0), plain, False),
        ("mean expansion of the MBConvs", lambda p: _mean_of_op(p, 1), plain, False),
        ("blocks of Zero or identity", lambda p: float(_num_without_mbconv(p)), plain, False),
        ("PE columns (pe_x)", lambda p: float(p.accelerator.pe_x), plain, False),
        ("PE rows (pe_y)", lambda p: float(p.accelerator.pe_y), plain, False),
        ("register file, bytes per PE", lambda p: float(p.accelerator.rf_bytes), plain, True),
    ]
    found = [
        _axis(title, [value_of(pair) for pair in sweep.pairs], text, math.log if is_log else float)
        for title, value_of, text, is_log in specs
    ]
    found.append(_dataflow_axis(sweep))
    return [axis for axis in found if any(place is not None for place in axis.at)]


def _axis(
    title: str,
    values: Sequence[float | None],
    text: Callable[[float], str],
    scale: Callable[[float], float],
) -> Axis:
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)

    def place(value: float | None) -> float | None:
        if value is None:
            return None
        if high == low:
            return 50.0
        return round(100 * (scale(value) - scale(low)) / (scale(high) - scale(low)), 2)

    is_varied = high > low
    return Axis(
        title if is_varied or not known else f"{title}: {text(low)}",
        text(low) if is_varied else "",
        text(high) if is_varied else "",
        tuple(map(place, values)),
    )


def _dataflow_axis(sweep: Sweep) -> Axis:
    names = tuple(pair.accelerator.dataflow.replace("_", " ") for pair in sweep.pairs)
    first, *others = sorted(set(names))
    if not others:
        return Axis(f"dataflow: {first}", "", "", (50.0,) * len(names))
    *middle, last = others
    places = {first: 0.0, last: 100.0} | dict.fromkeys(middle, 50.0)
    title = f"dataflow (middle: {middle[0]})" if middle else "dataflow"
    return Axis(title, first, last, tuple(places[name] for name in names))


def _num_without_mbconv(pair: Pair) -> int:
    return sum(op in LEFT_OUT for op in pair.ops)


def _mean_of_op(pair: Pair, part: int) -> float | None:
    """Return the mean kernel (part 0) or expansion (1) of a pair's MBConvs, None without one."""
    known = [op_kernel_expansion(op) for op in pair.ops]
    values = [each[part] for each in known if each is not None]
    return sum(values) / len(values) if values else None


def threads(sweep: Sweep, found: Sequence[Axis]) -> list[Thread]:
    """Return a line for each pair; those on a front come last, so that they lie on top.

    Args:
        found: The axes, evenly spaced from the top.
    """
    drawn = []
    for row, pair in enumerate(sweep.pairs):
        path, is_down = "", False
        for number_of_axis, axis in enumerate(found):
            at = axis.at[row]
            if at is None:
                is_down = False
                continue
            y = 100 * (number_of_axis + 0.5) / len(found)
            path += f"{'L' if is_down else 'M'}{at:.2f} {y:.2f}"
            is_down = True
        drawn.append(Thread(pair, pair.series, path))
    return sorted(drawn, key=lambda thread: bool(thread.pair.fronts))
