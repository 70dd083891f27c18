"""The two networks: shapes, linearity in the architecture, invariance, normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.evaluator.dataset import sample_mixtures, sample_one_hot
from dance_tf.evaluator.networks import (
    CostEstimationNetwork,
    HardwareGenerationNetwork,
    PlainCostEstimationNetwork,
    head_one_hot,
    objective_gaps,
    split_heads,
)
from dance_tf.hardware.objective import random_objectives
from tests.evaluator.fake_table import with_arrays

SIZES = (3, 3, 2, 3)


@pytest.fixture(scope="module")
def estimator(table) -> CostEstimationNetwork:
    network = CostEstimationNetwork(
        cell_mask=table.latency_ms.max(axis=-1) > 0, head_sizes=SIZES, units=16
    )
    network.normalise(table)
    return network


@pytest.fixture(scope="module")
def generator() -> HardwareGenerationNetwork:
    return HardwareGenerationNetwork(num_cells=14, num_outputs=4, is_ranked=False, units=16)


@pytest.fixture(scope="module")
def heads(table) -> tf.Tensor:
    return head_one_hot(table.accelerators.head_indices(), SIZES)


def test_heads_go_side_by_side_and_apart(table, heads):
    assert heads.shape == (54, sum(SIZES))
    positions = [np.argmax(head, axis=1) for head in split_heads(heads, SIZES)]
    np.testing.assert_array_equal(np.stack(positions, axis=1), table.accelerators.head_indices())


def test_each_network_has_its_residual_blocks(generator, estimator):
    for network in (generator, estimator):
        assert len(network.trunk.firsts) == len(network.trunk.seconds) == 5
    # Inlet, two layers a block and outlet, each with kernel and bias.
    assert len(generator.trainable_variables) == 2 * (1 + 2 * 5 + 1)


def test_generator_ignores_the_scale_of_the_weights(table, generator):
    rng = np.random.default_rng(0)
    mixtures, objectives = sample_mixtures(table.space, 8, rng), random_objectives(8, rng)
    logits = generator((mixtures, objectives))
    assert logits.shape == (8, 4)
    scaled = objectives * np.float32([1, 5, 5, 5])
    np.testing.assert_allclose(generator((mixtures, scaled)), logits, rtol=1e-4, atol=1e-5)
    other_kind = objectives * np.float32([0, 1, 1, 1]) + np.float32([1, 0, 0, 0])
    other_kind[objectives[:, 0] == 1, 0] = 0
    assert np.abs(generator((mixtures, other_kind)) - logits).max(axis=1).min() > 1e-4


def test_estimate_is_linear_in_the_architecture(table, estimator, heads):
    rng = np.random.default_rng(1)
    first, second = (sample_mixtures(table.space, 54, rng) for _ in range(2))
    blend = 0.3 * first + 0.7 * second
    expected = 0.3 * estimator((first, heads)) + 0.7 * estimator((second, heads))
    np.testing.assert_allclose(estimator((blend, heads)), expected, rtol=1e-5)


def test_estimates_are_positive_and_of_the_tables_size(table, estimator, heads):
    mixtures = sample_mixtures(table.space, 54, np.random.default_rng(2))
    ratio = estimator((mixtures, heads)) / table.metrics_at(mixtures, np.arange(54))
    assert (ratio.numpy() > 0.1).all() and (ratio.numpy() < 10).all()


def test_cells_without_cost_have_no_influence(table, estimator, heads):
    weights = tf.constant(sample_mixtures(table.space, 54, np.random.default_rng(3)))
    with tf.GradientTape() as tape:
        tape.watch(weights)
        total = tf.reduce_sum(estimator((weights, heads)))
    gradient = tape.gradient(total, weights).numpy()
    has_cost = table.latency_ms.max(axis=-1) > 0
    assert (gradient[:, ~has_cost] == 0).all()
    assert (gradient[:, has_cost] > 0).all()


def test_pairwise_is_every_pair(table, estimator, heads):
    mixtures = sample_mixtures(table.space, 4, np.random.default_rng(4))
    pairs = estimator.pairwise_metrics(
        mixtures, estimator.coefficients(heads[:6]), estimator.area(heads[:6])
    )
    assert pairs.shape == (4, 6, 3)
    for row in range(6):
        alone = estimator((mixtures, tf.tile(heads[row : row + 1], [4, 1])))
        np.testing.assert_allclose(pairs[:, row], alone, rtol=1e-5)


def test_table_coefficients_give_the_tables_metrics(table, estimator):
    mixtures = sample_mixtures(table.space, 4, np.random.default_rng(5))
    coefficients = estimator.table_coefficients(table)
    pairs = estimator.pairwise_metrics(mixtures, coefficients, table.area_mm2)
    np.testing.assert_allclose(pairs, table.expected_metrics(mixtures), rtol=1e-5)


def test_area_is_the_tables_and_of_probabilities_the_mean(table, estimator, heads):
    np.testing.assert_array_equal(estimator.area(heads), table.area_mm2)
    rng = np.random.default_rng(6)
    soft = [rng.dirichlet(np.ones(size), size=5).astype(np.float32) for size in SIZES]
    expected = np.einsum("ba,bc,bd,be,acde->b", *soft, table.area_mm2.reshape(SIZES))
    np.testing.assert_allclose(estimator.area(np.concatenate(soft, axis=1)), expected, rtol=1e-5)


def test_no_architecture_is_further_off_than_the_bound(table, estimator, heads):
    estimator.bound_errors(table)
    mixtures = sample_one_hot(table.space, 200, np.random.default_rng(7))
    predicted = estimator.pairwise_metrics(
        mixtures, estimator.coefficients(heads), estimator.area(heads)
    )
    errors = np.abs(predicted / table.expected_metrics(mixtures) - 1.0).max(axis=(0, 2))
    bound = estimator.error_bound.numpy().reshape(-1)
    assert (errors <= bound).all()
    # And it is no wild guess: all of two blocks' ops are among the architectures.
    assert (bound < 20 * errors).all()


def test_an_accelerator_that_cannot_run_a_cell_has_no_bound(table):
    latency_ms = table.latency_ms.copy()
    latency_ms[0, 0, 5] = np.inf
    spoilt = with_arrays(table, latency_ms=latency_ms)
    network = CostEstimationNetwork(
        cell_mask=table.latency_ms.max(axis=-1) > 0, head_sizes=SIZES, units=16
    )
    network.normalise(spoilt)
    network.bound_errors(spoilt)
    bound = network.error_bound.numpy().reshape(-1)
    np.testing.assert_array_equal(np.isinf(bound), np.arange(54) == 5)


def test_a_ranked_network_prefers_what_is_predicted_to_cost_less(table):
    network = HardwareGenerationNetwork(num_cells=14, num_outputs=3, units=16)
    rng = np.random.default_rng(8)
    mixtures, objectives = sample_mixtures(table.space, 8, rng), random_objectives(8, rng)
    metrics = rng.uniform(1, 2, size=(8, 3, 3)).astype(np.float32)
    gaps = objective_gaps(objectives[:, None, :], metrics, table.reference)
    assert (np.min(gaps, axis=1) == 0).all()
    logits = network((mixtures, objectives, gaps))
    is_clear = np.partition(gaps, 1, axis=1)[:, 1] > 0.01
    assert is_clear.any()
    np.testing.assert_array_equal(
        np.argmax(logits, axis=1)[is_clear], np.argmin(gaps, axis=1)[is_clear]
    )


@pytest.mark.parametrize("is_forwarded", [True, False])
def test_the_plain_form_sees_the_accelerator_only_if_forwarded(table, heads, is_forwarded):
    network = PlainCostEstimationNetwork(
        num_cells=14, head_sizes=SIZES, is_forwarded=is_forwarded, units=16
    )
    network.normalise(table)
    mixtures = np.repeat(sample_mixtures(table.space, 1, np.random.default_rng(9)), 54, axis=0)
    metrics = network((mixtures, heads)).numpy()
    assert metrics.shape == (54, 3) and (metrics > 0).all()
    assert (np.ptp(metrics, axis=0) / metrics[0] > 1e-3).all() == is_forwarded


def test_normalisation_inverts(table, estimator):
    logs = np.log(estimator.table_coefficients(table))
    normalised = (logs - estimator.mean) / estimator.deviation
    np.testing.assert_allclose(np.mean(normalised, axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(np.std(normalised, axis=0), 1.0, atol=1e-3)
    np.testing.assert_allclose(normalised * estimator.deviation + estimator.mean, logs, rtol=1e-5)


def test_the_seed_determines_the_first_weights():
    def first_kernel(seed: int) -> np.ndarray:
        network = HardwareGenerationNetwork(num_cells=4, num_outputs=3, units=8, seed=seed)
        return network.trunk.inlet.kernel.numpy()

    np.testing.assert_array_equal(first_kernel(1), first_kernel(1))
    assert not np.array_equal(first_kernel(1), first_kernel(2))
