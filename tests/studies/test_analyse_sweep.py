"""The analysis of a sweep, on made-up points and a made-up table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dance_tf.config import config_to_json
from dance_tf.hardware import cost_table
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.presets import preset
from studies import analyse_sweep, sweep_comparisons
from tests.evaluator.fake_table import make_fake_table

TABLE = make_fake_table()


def _point(lambda_2, seed, ops, error, edap, objective="EDAP", retrained=None):
    accelerator = accelerator_to_json(TABLE.accelerators.decode(seed))
    return {
        "search": {"objective": objective, "lambda_2": lambda_2, "seed": seed},
        "ops": ops,
        "accelerator": accelerator,
        "latency_ms": edap,
        "energy_mj": 1.0,
        "area_mm2": 1.0,
        "edap_ms_mj_mm2": edap,
        "objective": edap,
        "zero_share": ops.count("zero") / 1,
        "num_architecture_steps": 5,
        "inherited_error": error,
        "retrained_error": retrained,
    }


@pytest.fixture
def sweep():
    points = [
        _point(0.0, 0, ["mbconv7_e6", "mbconv7_e6"], 0.10, 8.0, retrained=0.10),
        _point(0.0, 1, ["mbconv7_e6", "mbconv5_e6"], 0.12, 2.0, retrained=0.12),
        _point(0.5, 0, ["mbconv3_e3", "zero"], 0.11, 1.0, retrained=0.115),
        _point(0.5, 1, ["mbconv3_e3", "mbconv5_e3"], 0.13, 4.0, retrained=0.117),
        _point(1.0, 0, ["mbconv3_e3", "zero"], 0.2, 1.0),
        _point(1.0, 0, ["mbconv3_e6", "mbconv3_e3"], 0.2, 1.0, objective="latency"),
    ]
    return {
        "cost_table_sha256": TABLE.content_hash,
        "supernet_sha256": "s",
        "num_images": 100,
        "points": points,
        "retrained": None,
    }


@pytest.fixture
def run(monkeypatch, tmp_path, sweep):
    monkeypatch.setattr(cost_table, "load_or_build_table", lambda *a, **k: TABLE)
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(preset("tiny"))))

    def run(*arguments):
        (tmp_path / "pareto.json").write_text(json.dumps(sweep))
        output = tmp_path / "findings.json"
        command = [f"--sweep_dir={tmp_path}", f"--output={output}", *arguments]
        status = analyse_sweep.main(command)
        return json.loads(output.read_text()) if status == 0 else status

    return run


def test_ratios_are_of_geometric_means_and_say_whether_accuracy_is_equal(run):
    rows = run()["against_the_baseline"]
    assert [(r["objective"], r["lambda_2"]) for r in rows] == [("EDAP", 0.5), ("EDAP", 1.0)]
    first, second = rows
    assert first["edap_ms_mj_mm2_ratio"] == pytest.approx(4.0 / 2.0)
    assert first["energy_mj_ratio"] == 1.0 and first["num_seeds"] == 2
    assert first["retrained_error"] == pytest.approx(0.116)
    assert first["is_equally_accurate"] is True
    assert run("--tolerance=0.005")["against_the_baseline"][0]["is_equally_accurate"] is False
    assert second["retrained_error"] is None and second["is_equally_accurate"] is None


def test_one_accelerator_for_all_is_the_least_of_enumeration(run, sweep):
    rows = run()["one_accelerator"]
    found = rows["EDAP"]
    networks = {tuple(p["ops"]) for p in sweep["points"] if p["search"]["objective"] == "EDAP"}
    assert found["num_networks"] == len(networks) == 4
    names = list(TABLE.space.op_names)
    metrics = np.asarray(TABLE.metrics_of([[names.index(o) for o in ops] for ops in networks]))
    values = metrics.astype(np.float64).prod(axis=-1)
    ratios = values / values.min(axis=1, keepdims=True)
    means = np.exp(np.log(ratios).mean(axis=0))
    assert found["mean_ratio"] == pytest.approx(means.min(), rel=1e-5)
    assert found["largest_ratio"] == pytest.approx(ratios[:, means.argmin()].max(), rel=1e-5)
    assert found["accelerator"] == accelerator_to_json(TABLE.accelerators.decode(means.argmin()))
    assert rows["latency"]["mean_ratio"] == 1.0, "one network has one best"


def test_what_was_found_is_described_by_objective(run):
    rows = {(r["objective"], r["lambda_2"]): r for r in run()["found"]}
    row = rows["EDAP", 0.5]
    assert row["kernel"] == pytest.approx((3 + 3 + 5) / 3) and row["expansion"] == 3
    assert row["zero_share"] == 0.5 and sum(row["dataflows"].values()) == row["num_seeds"] == 2
    assert rows["latency", 1.0]["expansion"] == 4.5


def test_uniform_networks_have_the_best_of_each_dataflow(run):
    rows = run()["uniform_networks"]
    assert len(rows) == 2 * 6 * 3  # objectives, ops, dataflows
    for objective in ("EDAP", "latency"):
        for op in ("mbconv3_e3", "mbconv7_e6"):
            group = [r for r in rows if (r["objective"], r["op"]) == (objective, op)]
            assert sum(r["is_best"] for r in group) == 1
            assert min(r["times_the_best"] for r in group) == 1.0
            assert len({r["accelerator"]["dataflow"] for r in group}) == 3


def test_a_sweep_of_other_costs_is_refused(run, sweep, capsys):
    sweep["cost_table_sha256"] = "other"
    assert run() == 1
    assert "are not those of the sweep" in capsys.readouterr().err


def test_searches_are_compared_with_the_same_ones_of_another_sweep(run, sweep, tmp_path, capsys):
    others = [dict(point) for point in sweep["points"][1:4]]
    others[0] |= {"edap_ms_mj_mm2": 1.0, "inherited_error": 0.15}
    others[1] |= {"ops": ["zero", "zero"], "edap_ms_mj_mm2": 2.0}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pareto.json").write_text(json.dumps({"points": others}))
    argument = f"--beside={tmp_path / 'other'}"
    found = run(argument)["beside"]["other"]
    assert found["num_searches"] == 3 and found["num_same_networks"] == 2
    assert [r["edap_ms_mj_mm2_ratio"] for r in found["searches"]] == [0.5, 2.0, 1.0]
    assert found["mean_edap_ratio"] == pytest.approx(1.0)
    assert found["mean_inherited_error_difference"] == pytest.approx(0.01)
    # Up to the corner (0.15, log 4): two boxes that overlap, and one.
    this = 0.03 * np.log(2) + 0.04 * np.log(4) - 0.03 * np.log(2)
    assert found["hypervolume_ratio"] == pytest.approx(0.04 * np.log(2) / this)
    assert run(argument, argument) == 1
    assert "of one name" in capsys.readouterr().err


def _found(error, edap):
    ops = ["mbconv3_e6", f"mbconv{3 if edap < 1 else 5 if edap < 2 else 7}_e6"]
    return {"ops": ops, "error": error, "objective": edap, "edap_ms_mj_mm2": edap}


def test_the_share_of_the_exact_front(run, sweep, tmp_path, capsys):
    front = [_found(0.09, 8.0), _found(0.19, 0.5)]
    exact = {
        "supernet": {"supernet_sha256": "s", "num_images": 100},
        "objectives": {
            "EDAP": {"front": front, "num_evaluations": 50},
            "area": {"front": front, "num_evaluations": 50},
        },
    }
    # Inside the exact front's box, up to (0.19, log 8), lie no points of itself: add one.
    front.append(_found(0.10, 1.0))
    path = tmp_path / "front.json"
    path.write_text(json.dumps(exact))
    picture = tmp_path / "front.svg"
    found = run(f"--exact_front={path}", f"--picture={picture}")["of_the_exact_front"]
    assert ">evolution<" in picture.read_text()
    (name,) = found["objectives"]
    row = found["objectives"][name]
    assert name == "EDAP" and (row["num_found"], row["num_on_exact_front"]) == (5, 3)
    best = 0.09 * np.log(8)
    ours = 0.08 * np.log(8) + 0.0
    assert row["share"] == pytest.approx(ours / best)
    # The baseline: error 0.11 and EDAP 4. Up to 0.117 the sweep has EDAP 1, the front too.
    none, some, *_, most = row["saved"]
    assert (none["loss"], some["loss"], most["loss"]) == (0.0, 0.007, 0.05)
    assert none["sweep_ratio"] == pytest.approx(4.0) == none["others_ratio"]
    assert some["others_ratio"] == most["others_ratio"] == pytest.approx(4.0)
    assert found["exact_images"] == 50 * (100 + 512)
    assert found["sweep_images"] == 6 * 5 * 4 * 64
    networks = [{"ops": p["ops"], "error": 0.33} for p in sweep["points"]]
    networks += [{"ops": p["ops"], "error": p["error"] + 0.2} for p in front]
    judged = {"supernet": {"supernet_sha256": "s", "num_images": 77}, "networks": networks}
    again = tmp_path / "judged.json"
    again.write_text(json.dumps(judged))
    anew = run(f"--exact_front={path}", f"--judged={again}")["of_the_exact_front_judged"]
    assert anew["num_images"] == 77
    # Up to (0.39, log 8): all of the sweep have error 0.33 now, of the front one is below 0.39.
    assert anew["objectives"]["EDAP"]["share"] == pytest.approx(0.06 / 0.09)
    again.write_text(json.dumps(judged | {"networks": networks[1:]}))
    assert run(f"--exact_front={path}", f"--judged={again}") == 1
    assert "mbconv7_e6,mbconv7_e6 was not judged again" in capsys.readouterr().err
    exact["supernet"]["supernet_sha256"] = "other"
    path.write_text(json.dumps(exact))
    assert run(f"--exact_front={path}") == 1


def test_points_are_judged_by_trainings_side_by_side(run, sweep, tmp_path):
    points = sweep["points"]
    names = list(TABLE.space.op_names)

    def cost(ops):
        metrics = np.asarray(TABLE.metrics_of([[names.index(op) for op in ops]]), np.float64)
        return float((metrics / np.asarray(TABLE.reference, np.float64)).prod(axis=-1).min())

    for point in points:
        point["objective"] = cost(point["ops"])
    other = ["mbconv5_e3", "mbconv3_e3"]
    errors = {
        tuple(p["ops"]): error for p, error in zip(points[:4], (0.3, 0.2, 0.26, 0.25), strict=True)
    }
    rows = [
        {"ops": ops, "macs": 1, "accuracy": {"value": 1 - error}, "is_spread": ops == other}
        for ops, error in (*errors.items(), (other, 0.24))
    ]
    path = tmp_path / "trained.json"
    config = {"space": {}, "data": {}, "seed": 0, "retrain": {"epochs": 24}}
    path.write_text(json.dumps({"config": config, "networks": rows}))
    picture = tmp_path / "trained.svg"
    report = run(f"--trained={path}", f"--picture={picture}")
    assert "Retrained error" in picture.read_text()
    found = report["trained"]
    assert found["epochs"] == 24
    assert [row["is_spread"] for row in found["networks"]] == [False] * 4 + [True]
    assert found["networks"][4]["error"] == pytest.approx(0.24)
    edap = cost(other) * float(np.prod(np.asarray(TABLE.reference, np.float64)))
    assert found["networks"][4]["edap_ms_mj_mm2"] == pytest.approx(edap, rel=1e-5)
    half, whole = found["against_the_baseline"]
    assert half["retrained_error"] == pytest.approx(0.255)
    assert half["baseline_retrained_error"] == pytest.approx(0.25)
    assert half["is_equally_accurate"] is True
    # Its one network is also one of lambda_2 0.5, and has been trained there.
    assert whole["retrained_error"] == pytest.approx(0.26)
    assert report["against_the_baseline"][0]["retrained_error"] == pytest.approx(0.116)
    baseline = np.sqrt(cost(points[0]["ops"]) * cost(points[1]["ops"]))
    saved = {row["loss"]: row for row in found["saved"]["EDAP"]}
    by_error = sorted((*errors.items(), (tuple(other), 0.24)), key=lambda item: item[1])
    for loss, row in saved.items():
        own, every = (
            [cost(ops) for ops, error in by_error if error <= 0.25 + loss and ops in of]
            for of in (errors, {**errors, tuple(other): 0.24})
        )
        assert row["sweep_ratio"] == pytest.approx(baseline / min(own), rel=1e-5)
        assert row["others_ratio"] == pytest.approx(baseline / min(every), rel=1e-5)
    assert found["saved"]["latency"] == []
    assert found["trend"]["tolerance"] == 0.007


def test_the_trend_is_the_line_through_error_and_log_edap():
    edaps = [1.0, 3.0, 9.0, 27.0]
    exact = sweep_comparisons.edap_trend([0.26, 0.25, 0.24, 0.23], edaps, 0.02)
    assert exact["loss_for_a_third"] == pytest.approx(0.01)
    assert exact["loss_for_a_third_95"] == pytest.approx([0.01, 0.01])
    assert exact["ratio_at_tolerance"] == pytest.approx(9.0)
    assert exact["residual_error"] == pytest.approx(0.0, abs=1e-9)
    noisy = sweep_comparisons.edap_trend([0.27, 0.22, 0.26, 0.22], edaps, 0.02)
    low, high = noisy["loss_for_a_third_95"]
    assert noisy["loss_for_a_third"] == pytest.approx(0.011)
    assert low < 0.011 < high
    # Where the line may as well be flat, there is no ratio at which so much is lost.
    assert low < 0 and noisy["ratio_at_tolerance_95"][1] is None
    fastest = noisy["ratio_at_tolerance_95"][0]
    assert fastest == pytest.approx(3 ** (0.02 / high))
    assert fastest < noisy["ratio_at_tolerance"]
    assert sweep_comparisons.edap_trend([0.2, 0.3], [1.0, 2.0], 0.02) is None
