"""Searches of one side: the network for one accelerator, the accelerator for one network."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from dance_tf.config import ExperimentConfig, SearchConfig, config_from_json, config_to_json
from dance_tf.errors import UserError
from dance_tf.hardware.objective import EDAP
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.search.dance import DanceSearch
from dance_tf.structs import METRICS
from tests.search.problems import ScoredSupernet, Unlabelled, make_problem, shuffled_table

CONFIG = SearchConfig(
    epochs=6,
    warmup_epochs=1,
    batch_size=32,
    arch_learning_rate=0.1,
    arch_every=1,
    lambda_2=0.5,
    lambda_2_warmup_epochs=0,
    log_every=999,
    max_zero_share=1.0,
)  # 20 steps an epoch, 100 architecture steps
NETWORKS = np.asarray(list(itertools.product(range(6), range(7))), np.int32)


@pytest.fixture(scope="module")
def table():
    return shuffled_table(5)


def _problem(table):
    supernet = ScoredSupernet(table.space, np.zeros((2, 7)), 0)
    return make_problem(table, supernet=supernet, dataset=Unlabelled(640))


@pytest.mark.parametrize("row", [0, 30])
def test_by_cost_alone_it_finds_the_cheapest_network_of_an_accelerator(table, row):
    accelerator = table.accelerators.decode(row)
    config = dataclasses.replace(CONFIG, fixed_accelerator=accelerator)
    result = DanceSearch(config, seed=1).search(_problem(table))
    metrics = table.metrics_of(NETWORKS).numpy()[:, row]
    edap = metrics.astype(np.float64).prod(axis=1)
    assert result.architecture == table.space.from_indices(NETWORKS[edap.argmin()])
    assert result.accelerator == result.evaluator_accelerator == accelerator
    assert result.exact_cost.edap_ms_mj_mm2 == pytest.approx(edap.min(), rel=1e-5)
    assert result.predicted_cost.objective == pytest.approx(result.exact_cost.objective)
    assert {record.accelerator for record in result.history} == {accelerator}


def test_limits_hold_on_a_fixed_accelerator(table):
    row = 30
    metrics = table.metrics_of(NETWORKS).numpy()[:, row]
    limit = float(np.quantile(metrics[:, 1], 0.1))
    config = dataclasses.replace(
        CONFIG,
        epochs=2,
        fixed_accelerator=table.accelerators.decode(row),
        max_energy_mj=limit,
        lambda_2=0.0,
    )
    result = DanceSearch(config, seed=1).search(_problem(table))
    assert result.accelerator == table.accelerators.decode(row)
    assert result.exact_cost.energy_mj <= limit
    low = dataclasses.replace(config, max_energy_mj=float(metrics[:, 1].min()) * 0.99)
    with pytest.raises(UserError, match="the least is ") as caught:
        DanceSearch(low).search(_problem(table))
    assert np.float32(str(caught.value).rpartition(" ")[2]) == metrics[:, 1].min()


def test_for_a_fixed_architecture_the_accelerator_is_the_oracles(table):
    problem = make_problem(table)
    for ops in NETWORKS[::9]:
        architecture = table.space.from_indices(ops)
        config = dataclasses.replace(CONFIG, fixed_architecture=architecture.ops)
        result = DanceSearch(config, seed=7).search(problem)
        best = best_accelerators(table, table.one_hot(ops[None]), EDAP.vector[None])
        assert result.architecture == architecture and result.seed == 7
        assert result.accelerator == table.accelerators.decode(int(best.accelerator_index[0]))
        found = [getattr(result.exact_cost, name) for name in METRICS]
        np.testing.assert_allclose(found, best.metrics[0])
        assert result.num_weight_steps == result.num_architecture_steps == 0
        assert result.history == result.arch_logits == () and result.times["search_s"] < 1.0


def test_limits_hold_for_a_fixed_architecture(table):
    ops = NETWORKS[20]
    metrics = table.metrics_of(ops[None]).numpy()[0]
    limit = float(np.quantile(metrics[:, 2], 0.2))
    config = dataclasses.replace(
        CONFIG, fixed_architecture=table.space.from_indices(ops).ops, max_area_mm2=limit
    )
    result = DanceSearch(config).search(make_problem(table))
    edap = metrics.astype(np.float64).prod(axis=1)
    expected = np.where(metrics[:, 2] <= np.float32(limit), edap, np.inf).min()
    assert result.exact_cost.edap_ms_mj_mm2 == pytest.approx(expected, rel=1e-5)
    assert result.limits["is_repaired"] is False
    fast = dataclasses.replace(config, max_latency_ms=float(metrics[:, 0].min()) * 1.0001)
    with pytest.raises(UserError, match="out of reach together"):
        DanceSearch(fast).search(make_problem(table))


def test_a_config_with_fixed_sides_survives_json(table):
    search = dataclasses.replace(
        CONFIG,
        fixed_accelerator=table.accelerators.decode(3),
        fixed_architecture=("mbconv3_e3", "zero"),
    )
    config = ExperimentConfig(search=search)
    data = config_to_json(config)
    assert config_from_json(data) == config
    del data["search"]["fixed_accelerator"]["pe_y"]
    with pytest.raises(UserError, match=r"search\.fixed_accelerator\.pe_y is missing"):
        config_from_json(data)
