"""Points of a sweep, their fronts, and what retraining makes of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dance_tf.config import ExperimentConfig
from dance_tf.search.sweep.fronts import (
    Point,
    SweepSearch,
    coordinates,
    hypervolume,
    summary,
    worth_retraining,
)
from dance_tf.search.sweep.plot import plot_sweep

REACHABLE = {"latency_ms": (1.0, 100.0), "energy_mj": (1.0, 10.0), "area_mm2": (2.0, 2.0)}


def _point(error, latency_ms, energy_mj=1.0, retrained=None, lambda_2=0.1):
    return Point(
        search=SweepSearch("EDAP", lambda_2, 0),
        ops=("zero",),
        accelerator={"pe_x": 8, "pe_y": 8, "rf_bytes": 16, "dataflow": "row_stationary"},
        latency_ms=latency_ms,
        energy_mj=energy_mj,
        area_mm2=2.0,
        edap_ms_mj_mm2=2.0 * latency_ms * energy_mj,
        objective=1.0,
        predicted_edap_ms_mj_mm2=2.0 * latency_ms * energy_mj,
        evaluator_edap_ms_mj_mm2=2.0 * latency_ms * energy_mj,
        zero_share=0.0,
        num_architecture_steps=3,
        inherited_error=error,
        retrained_error=retrained,
    )


def test_the_config_of_a_search_is_the_sweeps_with_its_own_values(tmp_path):
    base = ExperimentConfig(seed=7)
    base = dataclasses.replace(
        base, search=dataclasses.replace(base.search, supernet_dir=str(tmp_path))
    )
    config = SweepSearch("linear", 0.25, 3).config(base)
    assert (config.seed, config.search.objective, config.search.lambda_2) == (3, "linear", 0.25)
    assert config.search.supernet_weights == "frozen"
    assert config.retrain == base.retrain and config.hardware == base.hardware
    assert SweepSearch("linear", 0.25, 3).name == "linear_lambda0.25_seed3"


def test_coordinates_are_errors_and_log_shares_of_what_is_reachable():
    points = [_point(0.1, 10.0, 1.0), _point(0.2, 100.0, 10.0)]
    np.testing.assert_allclose(
        coordinates([0.1, 0.2], points, REACHABLE), [[0.1, 0.5, 0, 0], [0.2, 1, 1, 0]], atol=1e-12
    )
    assert coordinates([], [], REACHABLE).shape == (0, 4)


def test_the_hypervolume_of_a_box_and_of_two():
    assert hypervolume([[0.5, 0.25]], [1, 1]) == pytest.approx(0.5 * 0.75)
    two = [[0.5, 0.25], [0.25, 0.5]]
    assert hypervolume(two, [1, 1]) == pytest.approx(2 * 0.375 - 0.25)
    assert hypervolume([*two, [0.6, 0.6], [0.0, 1.0]], [1, 1]) == hypervolume(two, [1, 1])
    assert hypervolume(np.zeros((0, 3)), np.ones(3)) == 0.0


def test_a_summary_has_the_front_and_its_volume():
    points = [_point(0.1, 100.0), _point(0.3, 1.0), _point(0.4, 10.0)]
    found = summary(points, REACHABLE)
    assert found["front"] == [0, 1] and found["retrained"] is None
    # One cost varies, and the shares of the others are 0.
    assert found["hypervolume"] == pytest.approx(0.7)
    assert found["points"][1]["latency_ms"] == 1.0 and len(found["points"]) == 3


def test_retraining_turns_the_front_over_and_the_summary_says_how():
    points = [
        _point(0.1, 50.0, retrained=0.3),
        _point(0.2, 20.0),  # on the front by inherited error, but not retrained
        _point(0.3, 10.0, retrained=0.25),
        _point(0.5, 10.0, retrained=0.2),
    ]
    points = [dataclasses.replace(p, ops=(f"op{i}",)) for i, p in enumerate(points)]
    found = summary(points, REACHABLE)
    assert found["front"] == [0, 1, 2]
    retrained = found["retrained"]
    assert retrained["front_by_inherited"] == [0, 2] and retrained["front"] == [3]
    assert retrained["left"] == [0, 2] and retrained["entered"] == [3]
    assert retrained["num_points"] == 3 and retrained["spearman"] == pytest.approx(-1.0)
    assert retrained["hypervolume"] == pytest.approx(0.8 * 0.5)
    twice = [*points, dataclasses.replace(points[3], search=SweepSearch("latency", 0.3, 0))]
    again = summary(twice, REACHABLE)["retrained"]
    assert (again["num_points"], again["num_trainings"]) == (4, retrained["num_trainings"])
    assert again["spearman"] == retrained["spearman"], "a training counts once"
    alone = summary(points[:1], REACHABLE)["retrained"]
    assert alone["spearman"] is None, "one point has no ranks"


def test_the_front_is_retrained_first_and_spread_in_edap():
    points = [
        _point(0.1, 100.0),
        _point(0.2, 90.0),
        _point(0.3, 10.0),
        _point(0.4, 1.0),
        _point(0.9, 50.0),
    ]
    points = [dataclasses.replace(p, ops=(f"op{i}",)) for i, p in enumerate(points)]
    assert worth_retraining(points, REACHABLE, 3) == [0, 3, 2]
    assert worth_retraining(points, REACHABLE, 9) == [0, 3, 2, 1, 4]
    assert worth_retraining(points, REACHABLE, 0) == []
    twice = [*points, dataclasses.replace(points[3], search=SweepSearch("latency", 0.3, 0))]
    assert worth_retraining(twice, REACHABLE, 9) == [0, 3, 2, 1, 4], "a network is trained once"
    other = [*points, dataclasses.replace(points[3], search=SweepSearch("latency", 0.3, 1))]
    assert 5 in worth_retraining(other, REACHABLE, 9), "but once for each seed"


def test_the_picture_is_the_same_each_time_and_has_every_series(tmp_path):
    points = [_point(0.1, 50.0, lambda_2=0.0), _point(0.2, 20.0), _point(0.3, 10.0, retrained=0.2)]
    pictures = []
    for name in ("a.svg", "b.svg"):
        plot_sweep(summary(points[:2], REACHABLE), str(tmp_path / name))
        pictures.append((tmp_path / name).read_text())
    assert pictures[0] == pictures[1]
    for text in ("accuracy alone", ">EDAP<", "EDAP, ms mJ mm²", "Inherited error, %"):
        assert text in pictures[0]
    plot_sweep(summary(points, REACHABLE), str(tmp_path / "c.svg"))
    both = (tmp_path / "c.svg").read_text()
    assert "Inherited error, %" in both and "Retrained error, %" in both
    plot_sweep(summary(points, REACHABLE), str(tmp_path / "d.svg"), {"evolution": [(9.0, 0.1)]})
    assert ">evolution<" in (tmp_path / "d.svg").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "b.svg", "c.svg", "d.svg"]
