"""Charts as geometry in per cent of the plot, for a template to draw.

Lines and points are drawn in a square of 100 x 100 that a browser stretches to whatever width
there is; texts are HTML beside it and keep their size. A plotting library would give
pictures whose texts shrink on a narrow screen, in the colours of one background.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from dance_tf.report.texts import number, power_of_ten, ten_to

__all__ = [
    "Chart",
    "Mark",
    "Plot",
    "Scale",
    "Series",
    "Tick",
    "line_chart",
    "line_path",
    "nice_ticks",
    "points_path",
    "scale_of",
]

_MAX_TICKS = 5


@dataclasses.dataclass(frozen=True)
class Scale:
    """An axis: where values lie, in per cent of its length.

    Attributes:
        low, high: Values at the ends.
        is_log: True if equal ratios are equally far apart.
        ticks: Labels.
    """

    low: float
    high: float
    is_log: bool
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Return the place of a value, in per cent with two decimals."""
        return _place(value, self.low, self.high, self.is_log)


@dataclasses.dataclass(frozen=True)
class Series:
    """A named line: points (x, y) in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    is_stepped: bool = False  # a value holds until the next one


@dataclasses.dataclass(frozen=True)
class Tick:
    """A label at a place of an axis, in per cent of its length."""

    at: float
    text: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A series as it is drawn and named."""

    name: str
    path: str  # of an SVG in which y points down
    is_point: bool
    first: str
    last: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart that can be drawn."""

    title: str
    unit: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    band: float | None  # what is left of this is marked, per cent


@dataclasses.dataclass(frozen=True)
class Mark:
    """Part of a plot that is drawn in one style.

    Attributes:
        path: Path of an SVG of 100 x 100 in which y points down.
        style: CSS classes.
        title: Text that is shown when a pointer rests on it; "" shows nothing.
    """

    path: str
    style: str
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Points and lines between two axes.

    Attributes:
        title: Title above the plot.
        description: Content of the plot in a sentence or two, for readers who do not see it.
        x_label, y_label: Quantities with their units.
        x, y: Axes.
        marks: Marks to draw, the last on top.
        key: CSS classes and meaning of each style; `+` stands between what lies on one place.
    """

    title: str
    description: str
    x_label: str
    y_label: str
    x: Scale
    y: Scale
    marks: tuple[Mark, ...]
    key: tuple[tuple[str, str], ...]


def nice_ticks(low: float, high: float, max_ticks: int = _MAX_TICKS) -> list[float]:
    """Return round numbers, at most `max_ticks` + 1, of which the outer two enclose low..high."""
    if high <= low:
        width = abs(low) * 0.1 or 1.0
        low, high = low - width / 2, high + width / 2
    rough = (high - low) / max_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def scale_of(values: Sequence[float], *, is_log: bool = False, margin: float = 0.04) -> Scale:
    """Return an axis that holds some values, with a margin at both ends.

    Args:
        values: Values to hold, at least one; above 0 on a logarithmic axis.
        is_log: True if equal ratios are equally far apart.
        margin: Share of the axis that is left free at each end.
    """
    low, high = min(values), max(values)
    if high - low <= 1e-3 * abs(high):  # what labels cannot tell apart lies in the middle
        middle, half = (low + high) / 2, 0.1 * abs(high) or 0.5
        low, high = middle - half, middle + half
    if is_log:
        extent = math.log(high / low)
        low, high = low * math.exp(-margin * extent), high * math.exp(margin * extent)
        marks = _log_ticks(low, high)
    else:
        extent = high - low
        low, high = low - margin * extent, high + margin * extent
        marks = [tick for tick in nice_ticks(low, high) if low <= tick <= high]
    ticks = tuple(Tick(_place(mark, low, high, is_log), f"{mark:,.6g}") for mark in marks)
    return Scale(low, high, is_log, ticks)


def _place(value: float, low: float, high: float, is_log: bool) -> float:
    if is_log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return round(100 * (value - low) / (high - low), 2)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return the 1, 2 and 5 of each power of ten in low..high, or fewer where they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        marks = [float(f"{step}e{power}") for power in powers for step in steps]
        marks = [mark for mark in marks if low <= mark <= high]
        if len(marks) <= _MAX_TICKS + 1:
            break
    if len(marks) > 2:
        return marks[:: math.ceil(len(marks) / (_MAX_TICKS + 1))]
    # Within a factor of about five, round numbers lie almost evenly.
    return [tick for tick in nice_ticks(low, high) if low <= tick <= high]


def points_path(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return values as dots: lines of no length, which round ends make visible.

    Dots that fall on one place are drawn once.
    """
    places = dict.fromkeys((x.at(a), y.at(b)) for a, b in points)
    return "".join(f"M{left:g} {100 - up:.5g}h0" for left, up in places)


def line_path(
    points: Iterable[tuple[float, float]], x: Scale, y: Scale, *, is_stepped: bool = False
) -> str:
    """Return values as a line; stepped, each y holds until the next x."""
    path = ""
    for left, up in ((x.at(a), y.at(b)) for a, b in points):
        if not path:
            path = f"M{left:g} {100 - up:.5g}"
        elif is_stepped:
            path += f"H{left:g}V{100 - up:.5g}"
        else:
            path += f"L{left:g} {100 - up:.5g}"
    return path


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    is_from_zero: bool = False,
    band_until: float | None = None,
) -> Chart | None:
    """Return the chart of some series, None where none has a point.

    Args:
        title: Title above the chart.
        unit: Unit of y; "" where it has none.
        series: Lines to draw; those without a point are left out.
        x_label: Quantity of x, with its unit.
        x_range: Values that the x axis holds at least.
        is_from_zero: True if the y axis has to hold 0.
        band_until: Value of x up to which the background is marked.
    """
    series = [line for line in series if line.points]
    if not series:
        return None
    xs = [x for line in series for x, _ in line.points] + list(x_range or ())
    ys = [y for line in series for _, y in line.points] + [0.0] * is_from_zero
    power = power_of_ten(max(map(abs, ys)))
    scale = 10.0**-power
    y_values = nice_ticks(min(ys) * scale, max(ys) * scale)
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    x_values = [x for x in nice_ticks(x_low, x_high) if x_low <= x <= x_high and x == int(x)]

    def x_at(x: float) -> float:
        return 100 * (x - x_low) / (x_high - x_low)

    def y_at(y: float) -> float:
        return 100 * (y * scale - y_values[0]) / (y_values[-1] - y_values[0])

    lines = []
    for line in series:
        (x, y), *rest = line.points
        path = [f"M{x_at(x):.2f} {100 - y_at(y):.2f}"]
        for x, y in rest:
            path += [f"H{x_at(x):.2f}"] * line.is_stepped
            path.append(f"L{x_at(x):.2f} {100 - y_at(y):.2f}")
        path += ["h0"] * (not rest)  # round line ends make a point of it
        first, last = (number(p[1]) for p in (line.points[0], line.points[-1]))
        lines.append(Line(line.name, "".join(path), not rest, first, last))
    return Chart(
        title=title,
        unit=f"{ten_to(power)} {unit}".strip() if power else unit,
        x_label=x_label,
        lines=tuple(lines),
        x_ticks=tuple(Tick(round(x_at(x), 2), f"{int(x):,}") for x in x_values),
        y_ticks=tuple(Tick(round(y_at(y / scale), 2), f"{y:,.6g}") for y in y_values),
        band=None if band_until is None else round(min(max(x_at(band_until), 0.0), 100.0), 2),
    )
