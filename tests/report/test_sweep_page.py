"""The page of a sweep: what it reads, says, draws and refuses."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest

from dance_tf.errors import UserError
from dance_tf.report.sweep_charts import axes, front_chart, threads
from dance_tf.report.sweep_folder import BASELINE, ERRORS, read_sweep
from dance_tf.report.sweep_page import savings, verdict, write_sweep_page
from dance_tf.search.sweep.fronts import Point, SweepSearch, summary

REACHABLE = {"latency_ms": (0.5, 100.0), "energy_mj": (0.5, 10.0), "area_mm2": (0.5, 3.0)}
FACTS = {
    "schema_version": 1,
    "space": "tiny_mbconv",
    "dataset": "dig<i>ts",
    "cost_table_sha256": "0" * 64,
    "supernet_sha256": "1" * 64,
    "num_images": 100,
}


def _point(lambda_2, error, latency_ms, ops, seed=0, retrained=None, objective="EDAP"):
    return Point(
        search=SweepSearch(objective, lambda_2, seed),
        ops=ops,
        accelerator={"pe_x": 8, "pe_y": 8 + 8 * seed, "rf_bytes": 16, "dataflow": "row_stationary"},
        latency_ms=latency_ms,
        energy_mj=1.0,
        area_mm2=2.0,
        edap_ms_mj_mm2=2.0 * latency_ms,
        objective=1.0,
        predicted_edap_ms_mj_mm2=2.1 * latency_ms,
        evaluator_edap_ms_mj_mm2=2.0 * latency_ms,
        zero_share=float(ops.count("zero")) / len(ops),
        num_architecture_steps=3,
        inherited_error=error,
        retrained_error=retrained,
    )


LARGE, MIDDLE, SMALL = ("mbconv7_e6", "mbconv5_e6"), ("mbconv5_e3", "zero"), ("zero", "zero")
POINTS = [
    _point(0.0, 0.10, 40.0, LARGE),
    _point(0.1, 0.105, 20.0, MIDDLE),
    _point(0.3, 0.105, 20.0, MIDDLE),
    _point(1.0, 0.30, 1.0, SMALL),
    _point(0.1, 0.40, 10.0, MIDDLE, seed=1),
]


def _write(folder, points, /, **changes):
    folder.mkdir(exist_ok=True)
    counts = {"planned": len(points), "done": len(points)}
    data = FACTS | {"num_searches": counts, "num_retrained": {"planned": 0, "done": 0}}
    data |= summary(points, REACHABLE)
    (folder / "pareto.json").write_text(json.dumps(data | changes))
    return str(folder)


@pytest.fixture
def sweep(tmp_path):
    return read_sweep(_write(tmp_path / "sweep", POINTS))


def test_a_pair_that_several_searches_found_is_there_once(sweep):
    assert [pair.number for pair in sweep.pairs] == [1, 2, 3, 4]
    edaps = [pair.costs["edap_ms_mj_mm2"] for pair in sweep.pairs]
    assert edaps == sorted(edaps)
    twice = sweep.pairs[2]
    assert [point.search.lambda_2 for point in twice.points] == [0.1, 0.3]
    assert twice.name.endswith("+1") and twice.ops == MIDDLE
    assert [ERRORS[0] in pair.fronts for pair in sweep.pairs] == [True, False, True, True]
    assert sweep.pairs[3].series == BASELINE


def test_savings_are_beside_the_baseline_and_each_row_saves_more(sweep):
    rows = savings(sweep, "inherited_error")
    assert [(row.points, row.pair.number) for row in rows] == [(0.0, 4), (0.5, 3)]
    assert rows[1].ratios == {
        "edap_ms_mj_mm2": pytest.approx(2.0),
        "latency_ms": pytest.approx(2.0),
        "energy_mj": 1.0,
        "area_mm2": 1.0,
    }
    assert savings(sweep, "retrained_error") == []


def test_savings_are_by_real_trainings_where_there_are_any(tmp_path):
    trained = zip(POINTS[:2], (0.2, 0.19), strict=True)
    points = [dataclasses.replace(point, retrained_error=error) for point, error in trained]
    sweep = read_sweep(_write(tmp_path / "sweep", [*points, *POINTS[3:]]))
    assert sweep.errors == ERRORS
    rows = savings(sweep, "retrained_error")
    assert [(row.points, row.pair.ops, row.error) for row in rows] == [(0.0, MIDDLE, 0.19)]
    words = " ".join(verdict(sweep))
    assert "retrained error" in words and "At no more error" in words


def test_the_verdict_says_what_is_missing(tmp_path, sweep):
    words = " ".join(verdict(sweep))
    assert "5 searches found 4 different pairs" in words and "3 of them on the front" in words
    assert "Within 0.5 points of it, EDAP falls 2.00x" in words
    assert "2.00x apart in EDAP" in words, "seeds 0 and 1 at lambda_2 0.1"
    assert "--num_retrained" in words and "--num_seeds" not in words
    assert "At lambda_2 1 every block that can be is Zero" in words
    without = read_sweep(_write(tmp_path / "other", POINTS[1:4]))
    words = " ".join(verdict(without))
    assert "no search for accuracy alone" in words and "--num_seeds" in words


def test_dots_lie_where_the_numbers_are_and_labels_apart(sweep):
    chart = front_chart(sweep, "inherited_error", "latency_ms", "latency, ms", is_labelled=True)
    by_number = {dot.pair.number: dot for dot in chart.dots}
    xs = [by_number[n].x for n in (1, 2, 3, 4)]
    assert xs[2] - xs[1] == pytest.approx(xs[3] - xs[2], abs=0.02), "10, 20, 40 on a log scale"
    assert by_number[2].y > by_number[1].y > by_number[3].y > by_number[4].y
    moves = re.findall(r"[MHV]", chart.front)
    assert moves == ["M", "H", "V", "H", "V"], "through the three that no other beats"
    assert all(dot.wide and dot.narrow for dot in chart.dots)
    assert by_number[3].wide.text == "3: EDAP 0.1 s0 +1" and by_number[3].narrow.text == "3"


def test_in_a_crowd_some_dots_have_no_label(tmp_path):
    points = [
        _point(0.01 * i, 0.2 + 0.0001 * i, 10.0 + 0.01 * i, ("mbconv3_e3", "zero"), seed=i)
        for i in range(60)
    ]
    points.append(_point(1.0, 0.4, 20.0, SMALL))
    sweep = read_sweep(_write(tmp_path / "sweep", points))
    chart = front_chart(sweep, "inherited_error", "latency_ms", "latency, ms", is_labelled=True)
    assert len(chart.dots) == 61
    for name in ("wide", "narrow"):
        labelled = [dot for dot in chart.dots if getattr(dot, name)]
        assert 2 < len(labelled) < 30 and any(dot.pair.number == 61 for dot in labelled)


def test_a_line_of_parallel_coordinates_has_a_place_on_each_axis(sweep):
    found = axes(sweep)
    titles = [axis.title for axis in found]
    assert "energy, mJ: 1.000" in titles, "what does not vary says its value"
    drawn = threads(sweep, found)
    assert len(drawn) == 4 and bool(drawn[-1].pair.fronts) and not drawn[0].pair.fronts
    by_number = {thread.pair.number: thread.path for thread in drawn}
    places = {n: re.findall(r"[ML]([\d.]+) ([\d.]+)", path) for n, path in by_number.items()}
    assert len(places[4]) == len(found)
    assert len(places[1]) == len(found) - 2, "a network without MBConvs has no kernel"
    error = titles.index("inherited error")
    assert (places[4][error][0], places[2][error][0]) == ("0.00", "100.00")


def test_the_page_leads_to_a_report_of_each_search(tmp_path, run_dir, table):
    folder = tmp_path / "my sweep"
    points = POINTS[:2]
    _write(folder, points)
    for point in points:
        target = folder / "searches" / point.search.name
        shutil.copytree(run_dir, target)
        (target / "run_info.json").unlink()
    (folder / "run_info.json").write_text((run_dir / "run_info.json").read_text())
    page = write_sweep_page(str(folder), table=table)
    text = (folder / "pareto.html").read_text()
    assert page == str(folder / "pareto.html") and "dig&lt;i&gt;ts" in text
    links = set(re.findall(r'href="(searches/[^"]+)"', text))
    assert links == {f"searches/EDAP_lambda{v}_seed0/report.html" for v in ("0", "0.1")}
    for link in links:
        report = (folder / link).read_text()
        assert "Costs by layer and component are left out" not in report, "classes of the sweep"
    aside = tmp_path / "elsewhere.html"
    write_sweep_page(str(folder), str(aside), table=table)
    assert 'href="my%20sweep/searches/' in aside.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 9}, "schema_version is 9"),
        ({"points": [], "front": []}, "no search of the sweep is finished"),
        ({"points": [{"ops": []}]}, "no sweep writes"),
        ({"front": None}, "no sweep writes"),
    ],
)
def test_what_is_no_sweep_is_refused(changes, message, tmp_path):
    folder = _write(tmp_path / "sweep", POINTS[:1], **changes)
    with pytest.raises(UserError, match=message):
        write_sweep_page(folder)
    assert not (tmp_path / "sweep" / "pareto.html").exists()
    with pytest.raises(UserError, match=r"no pareto\.json"):
        read_sweep(str(tmp_path))
