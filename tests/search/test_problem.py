"""The objective of a config, and the schedule of its weight."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SearchConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.evaluator.loading import shipped_path
from dance_tf.evaluator.neural import NeuralEvaluator
from dance_tf.search.problem import Lambda2Schedule, make_objective
from dance_tf.structs import METRICS, OBJECTIVES
from tests.evaluator.fake_table import make_fake_table

REFERENCE = np.asarray([2.0, 3.0, 4.0], np.float32)


def test_edap_is_the_product_of_normalised_metrics():
    objective = make_objective(SearchConfig(objective="EDAP"))
    assert float(objective(REFERENCE, REFERENCE)) == pytest.approx(1.0)
    assert float(objective([4.0, 1.5, 4.0], REFERENCE)) == pytest.approx(1.0)
    assert float(objective([4.0, 6.0, 8.0], REFERENCE)) == pytest.approx(8.0)


def test_linear_weighs_each_metric():
    config = SearchConfig(objective="linear", lambda_latency=0.5, lambda_energy=2, lambda_area=0)
    assert float(make_objective(config)([4.0, 1.5, np.inf], REFERENCE)) == pytest.approx(2.0)


def test_product_takes_powers():
    config = SearchConfig(objective="product", lambda_latency=2, lambda_energy=0.5, lambda_area=0)
    objective = make_objective(config)
    assert float(objective([6.0, 12.0, np.inf], REFERENCE)) == pytest.approx(9 * 2)


@pytest.mark.parametrize("name", [name for name, (_, weights) in OBJECTIVES.items() if weights])
def test_a_named_objective_pulls_as_hard_as_edap_at_the_reference(name):
    """So lambda_2 means the same under each. One that is oriented counts its metric four times."""
    config = SearchConfig(objective=name)
    objective = make_objective(config)
    metrics = tf.constant(REFERENCE)
    with tf.GradientTape() as tape:
        tape.watch(metrics)
        value = objective(metrics, REFERENCE)
    pull = tape.gradient(value, metrics).numpy() * REFERENCE  # of a relative change of each
    assert pull.sum() == pytest.approx(3.0, rel=1e-5)
    of_its_own = 1.0 if name == "EDAP" else 4.0
    others = [metric for metric in METRICS if not metric.startswith(f"{name}_")]
    for metric in METRICS:
        expected = 1.0 if metric in others else of_its_own
        assert pull[METRICS.index(metric)] / pull[METRICS.index(others[0])] == pytest.approx(
            expected, rel=1e-5
        )
    with pytest.raises(UserError, match=f"{name} has its own weights.*linear or product"):
        make_objective(dataclasses.replace(config, lambda_energy=3.0))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_units_do_not_matter(name):
    weights = {} if OBJECTIVES[name][1] else {"lambda_latency": 2.0, "lambda_area": 0.3}
    objective = make_objective(SearchConfig(objective=name, **weights))
    metrics = np.random.RandomState(0).uniform(0.2, 5.0, (20, 3)).astype(np.float32)
    in_us_pj_um2 = np.float32([1e3, 1e9, 1e6])
    np.testing.assert_allclose(
        objective(metrics * in_us_pj_um2, REFERENCE * in_us_pj_um2),
        objective(metrics, REFERENCE),
        rtol=1e-4,
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_exact_evaluator_finds_the_best_accelerator_under_each(name):
    table = make_fake_table()
    weights = {} if OBJECTIVES[name][1] else {"lambda_latency": 2.0, "lambda_area": 0.0}
    objective = make_objective(SearchConfig(objective=name, **weights))
    networks = table.one_hot(table.space.sample(12, seed=0))
    vectors = np.tile(objective.vector, (12, 1))
    found = np.asarray(ExactEvaluator(table).evaluate(networks, vectors).metrics)
    every = np.asarray(objective(table.expected_metrics(networks), table.reference))
    np.testing.assert_allclose(objective(found, table.reference), every.min(axis=1), rtol=1e-5)


def test_the_neural_evaluator_answers_each_objective_by_its_own_accelerator():
    """An accelerator generated under an objective is better by that one than under any other."""
    evaluator = NeuralEvaluator.load(shipped_path("cifar_mbconv_small"))
    space, reference = evaluator.domain.space, evaluator.domain.reference
    networks = np.eye(space.num_ops, dtype=np.float32)[space.sample(16, seed=0)]
    metrics, values = {}, {}
    for name, (_, weights) in OBJECTIVES.items():
        powers = {} if weights else {"lambda_latency": 3.0, "lambda_area": 0.5}
        objective = make_objective(SearchConfig(objective=name, **powers))
        vectors = np.tile(objective.vector, (16, 1))
        metrics[name] = evaluator.evaluate(networks, vectors).metrics
        values[name] = objective
    for name, objective in values.items():
        own = np.asarray(objective(metrics[name], reference))
        for other in metrics.values():
            assert (own <= np.asarray(objective(other, reference)) * (1 + 1e-3)).all()
    for axis, name in enumerate(("latency", "energy", "area")):
        means = {other: np.mean(found[:, axis]) for other, found in metrics.items()}
        assert means[name] < means["EDAP"] * 1.001, (name, means)
    assert len({found.numpy().tobytes() for found in metrics.values()}) >= 3


def test_area_alone_asks_for_the_smallest_accelerator():
    table = make_fake_table()
    config = SearchConfig(objective="linear", lambda_latency=0, lambda_energy=0, lambda_area=1)
    networks = table.one_hot(table.space.sample(12, seed=0))
    vectors = np.tile(make_objective(config).vector, (12, 1))
    index = np.asarray(ExactEvaluator(table).evaluate(networks, vectors).accelerator_index)
    assert (np.asarray(table.area_mm2)[index] == np.min(table.area_mm2)).all()


def test_lambda_2_rises_linearly_then_holds():
    schedule = Lambda2Schedule(0.8, warmup_steps=4)
    assert [schedule(step) for step in (0, 1, 2, 4, 9)] == pytest.approx([0, 0.2, 0.4, 0.8, 0.8])
    assert dataclasses.replace(schedule, warmup_steps=0)(0) == 0.8
