"""The exact evaluator: exact at one-hot, a soft minimum elsewhere, with the right gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.evaluator.dataset import (
    OBJECTIVE_KINDS,
    draw_objectives,
    sample_mixtures,
    sample_one_hot,
)
from dance_tf.evaluator.exact import ExactEvaluator, mixture_softness
from dance_tf.hardware.objective import EDAP, objective_values, random_objectives
from dance_tf.hardware.oracle import best_accelerators
from tests.evaluator.fake_table import make_fake_table, with_arrays


def _all_architectures(table) -> np.ndarray:
    choices = [np.flatnonzero(row) for row in table.space.op_mask]
    return np.asarray(table.one_hot(np.asarray(list(itertools.product(*choices)))))


def _gradient(evaluator, mixtures, objectives, *, of_metrics: np.ndarray) -> np.ndarray:
    """Return the gradient of a weighted sum of the metrics in the mixture weights."""
    weights = tf.constant(mixtures)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        metrics = evaluator.evaluate(weights, objectives).metrics
        total = tf.reduce_sum(metrics * of_metrics)
    return tape.gradient(total, weights).numpy()


@pytest.mark.parametrize("kind", OBJECTIVE_KINDS)
def test_is_exact_at_every_one_hot_architecture(table, kind):
    mixtures = _all_architectures(table)
    objectives = draw_objectives(kind, len(mixtures), np.random.default_rng(0))
    best = best_accelerators(table, mixtures, objectives)
    evaluation = ExactEvaluator(table).evaluate(mixtures, objectives)
    np.testing.assert_array_equal(evaluation.accelerator_index, best.accelerator_index)
    np.testing.assert_array_equal(evaluation.metrics, best.metrics)


def test_a_tie_goes_to_the_oracles_choice_alone(table):
    # The twin costs the same but for a larger area, and latency alone is asked for.
    twin = np.concatenate([np.arange(54), np.arange(54)])[:54] // 2
    tied = with_arrays(
        table,
        latency_ms=table.latency_ms[..., twin],
        energy_mj=table.energy_mj[..., twin],
        fixed_latency_ms=table.fixed_latency_ms[twin],
        fixed_energy_mj=table.fixed_energy_mj[twin],
    )
    mixtures = _all_architectures(tied)
    latency = np.tile(np.float32([1, 1, 0, 0]), (len(mixtures), 1))
    best = best_accelerators(tied, mixtures, latency)
    evaluator = ExactEvaluator(tied)
    np.testing.assert_array_equal(evaluator.evaluate(mixtures, latency).metrics, best.metrics)
    gradient = _gradient(evaluator, mixtures, latency, of_metrics=np.float32([1, 0, 0]))
    chosen = tied.latency_ms[..., best.accelerator_index.numpy()]
    np.testing.assert_allclose(gradient, np.moveaxis(chosen, -1, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_soft", [False, True])
@pytest.mark.parametrize("metric", [0, 1, 2])
def test_gradient_matches_finite_differences(table, metric, is_soft):
    rng = np.random.default_rng(metric)
    mixtures = sample_one_hot(table.space, 64, rng)
    if is_soft:
        mask = table.space.op_mask
        mixtures = 0.5 * sample_mixtures(table.space, 64, rng)
        mixtures += (0.5 * mask / mask.sum(axis=1, keepdims=True)).astype(np.float32)
    objectives = random_objectives(64, rng)
    # A wide minimum where it is soft, so that differences of float32 can follow it.
    evaluator = ExactEvaluator(table, softmin_temperature=0.5 if is_soft else 0.01)
    of_metric = np.eye(3, dtype=np.float32)[metric]
    gradient = _gradient(evaluator, mixtures, objectives, of_metrics=of_metric)
    # Towards another mixture: the rows stay on the simplex.
    direction = sample_mixtures(table.space, 64, rng) - mixtures
    predicted = np.sum(gradient * direction, axis=(1, 2))
    step = np.float32(2e-3)

    def metric_at(scale: float) -> np.ndarray:
        moved = mixtures + np.float32(scale) * step * direction
        return evaluator.evaluate(moved, objectives).metrics.numpy()[:, metric].astype(np.float64)

    # Second-order one-sided differences: a one-hot mixture has nothing behind it.
    measured = (4 * metric_at(1) - metric_at(2) - 3 * metric_at(0)) / (2 * step)
    scale = np.abs(metric_at(0))
    if not is_soft:
        # Where a second accelerator is as good, a one-hot mixture is a corner of the minimum.
        values = objective_values(
            objectives[:, None], table.expected_metrics(mixtures), table.reference
        )
        best, second = np.sort(values, axis=1)[:, :2].T
        is_smooth = second / best > 1.01
        assert is_smooth.sum() >= 16
        predicted, measured, scale = (x[is_smooth] for x in (predicted, measured, scale))
    np.testing.assert_allclose(predicted / scale, measured / scale, rtol=0.02, atol=2e-3)


def test_at_one_hot_the_gradient_is_the_cells_of_the_best_accelerator(table):
    rng = np.random.default_rng(1)
    mixtures = sample_one_hot(table.space, 32, rng)
    objectives = random_objectives(32, rng)
    best = best_accelerators(table, mixtures, objectives).accelerator_index.numpy()
    evaluator = ExactEvaluator(table)
    for metric, cells in enumerate((table.latency_ms, table.energy_mj)):
        of_metric = np.eye(3, dtype=np.float32)[metric]
        gradient = _gradient(evaluator, mixtures, objectives, of_metrics=of_metric)
        expected = np.moveaxis(cells[..., best], -1, 0)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_is_a_soft_minimum_that_hardens(table):
    rng = np.random.default_rng(2)
    mixtures, objectives = sample_mixtures(table.space, 256, rng), random_objectives(256, rng)
    optimum = best_accelerators(table, mixtures, objectives).value.numpy()
    excess = []
    for temperature in (0.1, 0.01, 1e-4):
        metrics = ExactEvaluator(table, temperature).evaluate(mixtures, objectives).metrics
        value = objective_values(objectives, metrics, table.reference).numpy()
        excess.append(value / optimum - 1.0)
    assert all(np.all(e > -4e-6) for e in excess)
    assert excess[0].mean() > excess[1].mean() > excess[2].mean()
    assert excess[2].max() < 1e-3


def test_softness_is_0_at_one_hot_and_1_at_uniform(table):
    mask = table.space.op_mask
    uniform = (mask / mask.sum(axis=1, keepdims=True)).astype(np.float32)
    one_hot = sample_one_hot(table.space, 1, np.random.default_rng(0))
    softness = mixture_softness(np.concatenate([uniform[None], one_hot]), mask)
    np.testing.assert_allclose(softness, [1.0, 0.0], atol=1e-6)


def test_gradient_in_the_logits_stays_bounded_as_the_search_decides(table):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(64, *table.space.op_mask.shape)).astype(np.float32)
    logits = np.where(table.space.op_mask, logits, -1e9)
    objectives = random_objectives(64, rng)
    evaluator = ExactEvaluator(table)
    for sharpness in (0.1, 1.0, 5.0, 20.0, 200.0):
        scaled = tf.constant(logits * np.float32(sharpness))
        with tf.GradientTape() as tape:
            tape.watch(scaled)
            metrics = evaluator.evaluate(tf.nn.softmax(scaled), objectives).metrics
            value = tf.math.log(objective_values(objectives, metrics, table.reference))
        gradient = tape.gradient(value, scaled).numpy()
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() < 3.0


def test_accelerators_that_cannot_run_it_are_left_out(table):
    latency = table.latency_ms.copy()
    latency[0, 0, ::2] = np.inf
    latency[1, 1, :] = np.inf
    partly = with_arrays(table, latency_ms=latency)
    partly.reference = table.reference  # a uniform mixture runs nowhere
    evaluator = ExactEvaluator(partly)
    runs = np.array(partly.one_hot([[0, 0], [3, 2]]))
    runs[0, 0] = [0.5, 0.5, 0, 0, 0, 0, 0]
    objectives = np.tile(EDAP.vector, (2, 1))
    evaluation = evaluator.evaluate(runs, objectives)
    assert evaluation.accelerator_index[0] % 2 == 1
    assert np.isfinite(evaluation.metrics).all()
    gradient = _gradient(evaluator, runs, objectives, of_metrics=np.ones(3, np.float32))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    nowhere = np.asarray(partly.one_hot([[0, 1]]))
    assert np.isinf(evaluator.evaluate(nowhere, objectives[:1]).metrics).all()


def test_graph_and_batch_change_nothing(table):
    rng = np.random.default_rng(4)
    mixtures, objectives = sample_mixtures(table.space, 8, rng), random_objectives(8, rng)
    evaluator = ExactEvaluator(table)
    together = evaluator.evaluate(mixtures, objectives)
    in_graph = tf.function(evaluator.evaluate)(mixtures, objectives)
    alone = [evaluator.evaluate(mixtures[i : i + 1], objectives[i : i + 1]) for i in range(8)]
    np.testing.assert_allclose(in_graph.metrics, together.metrics, rtol=1e-5)
    np.testing.assert_allclose([a.metrics[0] for a in alone], together.metrics, rtol=1e-5)
    assert [int(a.accelerator_index[0]) for a in alone] == list(together.accelerator_index)


def test_estimate_is_the_table(table):
    mixtures = sample_mixtures(table.space, 5, np.random.default_rng(5))
    rows = np.arange(5, dtype=np.int32)
    expected = table.expected_metrics(mixtures).numpy()[rows, rows]
    estimate = ExactEvaluator(table).estimate(mixtures, rows)
    np.testing.assert_allclose(estimate, expected, rtol=1e-6)


def test_a_temperature_must_be_positive():
    with pytest.raises(UserError, match="softmin_temperature is 0"):
        ExactEvaluator(make_fake_table(), 0)
