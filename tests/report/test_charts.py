"""Axes with round numbers, and lines where the numbers are."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dance_tf.report.charts import (
    Series,
    Tick,
    line_chart,
    line_path,
    nice_ticks,
    points_path,
    scale_of,
)
from dance_tf.report.texts import duration, number

FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 4))


@settings(max_examples=200, deadline=None)
@given(FINITE, FINITE)
def test_ticks_are_few_even_and_enclose(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    steps = [right - left for left, right in itertools.pairwise(ticks)]
    assert 2 <= len(ticks) <= 8
    assert steps == pytest.approx([steps[0]] * len(steps)) and steps[0] > 0
    tolerance = 1e-6 * steps[0]
    assert ticks[0] <= low + tolerance and ticks[-1] >= high - tolerance
    mantissa = float(f"{steps[0]:.6e}".partition("e")[0])
    assert mantissa == pytest.approx(1) or mantissa in (2, 5) or mantissa == pytest.approx(10)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1, 1e9), st.booleans())
def test_a_scale_holds_its_values_and_few_round_ticks(low, ratio, is_log):
    scale = scale_of([low, low * ratio], is_log=is_log)
    ends = [scale.at(low), scale.at(low * ratio)]
    assert 0 <= ends[0] <= ends[1] <= 100 and (ends[1] - ends[0] > 90 or ratio < 1.01)
    assert 1 <= len(scale.ticks) <= 8
    assert all(0 <= tick.at <= 100 for tick in scale.ticks)
    assert [tick.at for tick in scale.ticks] == sorted({tick.at for tick in scale.ticks})


def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_scale():
    scale = scale_of([0.01, 100.0], is_log=True)
    places = [scale.at(value) for value in (0.01, 0.1, 1.0, 10.0, 100.0)]
    steps = [right - left for left, right in itertools.pairwise(places)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.02)
    assert {tick.text for tick in scale.ticks} == {"0.01", "0.1", "1", "10", "100"}


def test_points_of_one_place_are_drawn_once_and_lines_may_step():
    x, y = scale_of([1.0, 100.0], is_log=True, margin=0), scale_of([0.0, 10.0], margin=0)
    assert points_path([(1, 0), (10, 5), (10.00001, 5), (100, 10)], x, y) == (
        "M0 100h0M50 50h0M100 0h0"
    )
    assert line_path([(1, 0), (100, 10)], x, y) == "M0 100L100 0"
    assert line_path([(1, 10), (10, 5)], x, y, is_stepped=True) == "M0 0H50V50"
    assert points_path([], x, y) == line_path([], x, y) == ""


def _points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_a_line_goes_through_its_points():
    chart = line_chart(
        "Loss",
        "nats",
        [Series("a", [(10, 4.0), (20, 0.0), (30, 3.0)])],
        x_label="steps",
        band_until=15,
    )
    assert [tick.text for tick in chart.y_ticks] == ["0", "1", "2", "3", "4"]
    assert chart.x_ticks == (Tick(0, "10"), Tick(25, "15"), Tick(50, "20"), *chart.x_ticks[3:])
    assert _points(chart.lines[0].path) == [(0, 0), (50, 100), (100, 25)]
    assert (chart.lines[0].first, chart.lines[0].last) == ("4.000", "3.000")
    assert chart.band == 25 and chart.unit == "nats"


def test_small_numbers_have_their_power_of_ten_in_the_unit():
    chart = line_chart("EDAP", "ms", [Series("a", [(1, 2e-5), (2, 4e-5)])], x_label="steps")
    assert chart.unit == "10⁻⁶ ms"
    assert [tick.text for tick in chart.y_ticks] == ["20", "25", "30", "35", "40"]
    assert _points(chart.lines[0].path) == [(0, 100), (100, 0)]


def test_a_step_holds_until_the_next_and_a_point_is_drawn():
    line = Series("a", [(0, 1), (10, 2)], is_stepped=True)
    point = Series("b", [(5, 1.5)])
    chart = line_chart("PEs", "", [line, point, Series("none", [])], x_label="steps")
    assert chart.lines[0].path == "M0.00 100.00H100.00L100.00 0.00"
    assert chart.lines[1].path == "M50.00 50.00h0"
    assert [line.is_point for line in chart.lines] == [False, True]
    assert [line.name for line in chart.lines] == ["a", "b"]


def test_a_flat_line_and_a_single_record_have_axes():
    chart = line_chart("a", "", [Series("a", [(7, 3.0)])], x_label="steps", is_from_zero=True)
    assert chart.y_ticks[0].text == "0" and [tick.text for tick in chart.x_ticks] == ["6", "7", "8"]
    assert len(line_chart("a", "", [Series("a", [(1, 0.0), (2, 0.0)])], x_label="x").y_ticks) > 1
    assert line_chart("a", "", [Series("a", [])], x_label="steps") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4836450219, "0.4836"),
        (0.10099, "0.1010"),
        (0.06, "0.06000"),
        (96729.0, "96,729"),
        (300774272, "300,774,272"),
        (1.14e-5, "11.40 x 10⁻⁶"),
        (2.5e9, "2.500 x 10⁹"),
        (0, "0"),
        (0.0, "0"),
        (-0.5, "-0.5000"),
        (None, "not a number"),
    ],
)
def test_numbers_as_a_reader_sees_them(value, text):
    assert number(value) == text


def test_durations():
    assert duration(7.25) == "7.2 s"
    assert duration(76.9) == "1 min 17 s" and duration(3725.25) == "1 h 02 min"
