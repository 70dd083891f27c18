"""The search by a predictor: its result, limits, resumption, and real trainings."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig
from dance_tf.errors import UserError
from dance_tf.presets import preset
from dance_tf.search.pipeline import prepare, run_experiment
from dance_tf.search.predictor_search import accuracy_source, search_by_predictor
from dance_tf.search.result import SearchResult
from dance_tf.search.sweep.sweep import plan_sweep, run_sweep
from dance_tf.structs import Architecture

HARDWARE = HardwareConfig(
    accelerators=AcceleratorSpaceConfig((8, 16), (8,), (64,), ("row_stationary",))
)


def _config(tmp_path, **changes):
    path = tmp_path / "accuracies.csv"
    lines = ["architecture,accuracy_percent_1"]
    for first in range(6):
        for second in range(7):
            size = first % 2 + (second % 2 if second < 6 else -2)
            lines.append(f"{first}{second},{90 + 2 * size + 0.1 * first:.2f}")
    path.write_text("\n".join(lines) + "\n")
    config = preset("tiny")
    fields = {"accuracy": "predictor", "accuracy_csv": str(path), "num_trained": 15, **changes}
    search = dataclasses.replace(config.search, **fields)
    return dataclasses.replace(config, hardware=HARDWARE, search=search)


def test_a_run_finds_the_best_network_of_a_table_and_is_resumed_without_asking_again(tmp_path):
    config = _config(tmp_path, lambda_2=0.0)
    folder = str(tmp_path / "run")
    result, paths = run_experiment(config, output_dir=folder, use_retrain=False)
    assert result.architecture.ops[0] in ("mbconv7_e6", "mbconv5_e6", "mbconv3_e6")
    assert result.accuracy_source["kind"] == "table"
    assert result.accuracy_source["error"] < 0.065
    assert SearchResult.load(paths["result"]).accuracy_source == result.accuracy_source
    lines = (tmp_path / "run/trials.jsonl").read_text().splitlines()
    assert len(lines) == 15 and len({tuple(json.loads(line)["ops"]) for line in lines}) == 15
    # Half of the answers are gone, as after a kill; those that are left are not asked for again.
    (tmp_path / "run/trials.jsonl").write_text("\n".join(lines[:7]) + "\n")
    problem = prepare(config)
    again = search_by_predictor(config, problem, output_dir=folder, is_resuming=True)
    assert (tmp_path / "run/trials.jsonl").read_text().splitlines() == lines
    assert again.architecture == result.architecture


def test_the_result_keeps_the_limits(tmp_path):
    free = search_by_predictor(_config(tmp_path, lambda_2=0.0), prepare(_config(tmp_path)))
    limit = 0.8 * free.exact_cost.latency_ms
    config = _config(tmp_path, lambda_2=0.0, max_latency_ms=limit)
    found = search_by_predictor(config, prepare(config))
    assert found.exact_cost.latency_ms <= limit
    assert found.limits["max_latency_ms"] == limit


def test_limits_that_one_network_alone_keeps_are_kept(tmp_path):
    problem = prepare(_config(tmp_path))
    least = float(np.asarray(problem.table.metrics_of([[0, 6]]))[0, :, 0].min())
    config = _config(tmp_path, lambda_2=0.0, max_latency_ms=least)
    found = search_by_predictor(config, prepare(config))
    assert found.exact_cost.latency_ms <= np.float32(least)


def test_without_a_table_each_network_is_trained_on_train_and_judged_on_architecture(
    tmp_path, without_tracing
):
    config = _config(tmp_path, accuracy_csv=None)
    problem = prepare(config)
    source = accuracy_source(config, problem, str(tmp_path))
    networks = np.asarray([[0, 6], [1, 0]])
    errors = source.errors(networks)
    assert source.kind == "training" and ((errors > 0) & (errors < 1)).all()
    assert (source.errors(networks) == errors).all()  # from the checkpoints
    num = problem.dataset.num_images("architecture")
    assert (errors * num).round(6).tolist() == pytest.approx((errors * num).round().tolist())


def test_a_sweep_by_a_predictor_has_the_errors_of_the_table(tmp_path):
    config = _config(tmp_path)
    problem = prepare(config)
    searches = plan_sweep(["EDAP"], [0.0, 0.3], 1, 0)
    found = run_sweep(searches, config, problem, str(tmp_path / "sweep"), num_images=100)
    source = accuracy_source(config, problem, None)
    for point in found["points"]:
        ops = problem.space.to_indices(Architecture(problem.space.name, tuple(point["ops"])))
        assert point["inherited_error"] == pytest.approx(source.errors(ops[None])[0])
    assert found["points"][1]["edap_ms_mj_mm2"] <= found["points"][0]["edap_ms_mj_mm2"]


def test_a_fixed_accelerator_is_refused(tmp_path):
    accelerator = prepare(_config(tmp_path)).table.accelerators.decode(0)
    with pytest.raises(UserError, match=r"cannot keep to search\.fixed_accelerator"):
        _config(tmp_path, fixed_accelerator=accelerator)
