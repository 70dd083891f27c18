"""Gradients in the logits: those of numpy, and the cosines between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.evaluator.assessment import gradient_agreement, logit_gradients
from dance_tf.evaluator.dataset import sample_mixtures, sample_one_hot
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.hardware.objective import EDAP
from dance_tf.structs import Evaluation

LINEAR = np.asarray([1.0, 0.5, 0.3, 0.2], np.float32)


def _at(table: Any, index: int, *, exponent: float = 1.0):
    """Return an evaluator that knows one accelerator, and its metrics to a power."""

    def evaluate(weights: Any, vectors: Any) -> Evaluation:
        rows = tf.fill([len(vectors)], index)
        return Evaluation(table.metrics_at(weights, rows) ** exponent, rows)

    return evaluate


def _by_hand(table: Any, mixtures: np.ndarray, vector: np.ndarray, index: int) -> np.ndarray:
    """Return d log objective / d logits from the formulas, float64 [B, D * O]."""
    cells = np.stack([table.latency_ms[..., index], table.energy_mj[..., index]])
    fixed = np.asarray([table.fixed_latency_ms[index], table.fixed_energy_mj[index]])
    metrics = np.einsum("bdo,mdo->bm", mixtures, cells) + fixed
    if vector[0]:
        parts = np.concatenate(
            [metrics, np.full((len(mixtures), 1), table.area_mm2[index])], axis=1
        )
        value = parts / table.reference @ vector[1:]
        scale = vector[1:3] / table.reference[:2] / value[:, None]
    else:
        scale = vector[1:3] / metrics
    gradient = np.einsum("bm,mdo->bdo", scale, cells)
    return (mixtures * (gradient - (mixtures * gradient).sum(-1, keepdims=True))).reshape(
        len(mixtures), -1
    )


@pytest.mark.parametrize("vector", [EDAP.vector, LINEAR])
def test_gradient_is_that_of_the_formulas(table, vector):
    mixtures = sample_mixtures(table.space, 40, np.random.default_rng(0))
    gradients = logit_gradients(_at(table, 3), table, mixtures, np.tile(vector, (40, 1)))
    by_hand = _by_hand(table, mixtures, vector, 3)
    np.testing.assert_allclose(gradients, by_hand, rtol=1e-4, atol=1e-7)


def test_one_hot_architectures_take_the_softmax_of_equal_logits(table):
    mixtures = sample_one_hot(table.space, 20, np.random.default_rng(0))
    gradients = logit_gradients(_at(table, 3), table, mixtures, np.tile(EDAP.vector, (20, 1)))
    per_block = gradients.reshape(20, table.space.num_blocks, -1)
    assert np.abs(per_block).max() > 0.01
    np.testing.assert_allclose(per_block.sum(axis=-1), 0.0, atol=1e-6)
    assert (per_block[:, ~table.space.op_mask] == 0).all()


def test_cosines_of_one_fixed_accelerator_are_those_by_hand(table):
    """Against the hard minimum, whose accelerator brute force finds."""
    mixtures = sample_mixtures(table.space, 50, np.random.default_rng(1))
    weights = mixtures.astype(np.float64)
    latency = np.einsum("bdo,doa->ba", weights, table.latency_ms) + table.fixed_latency_ms
    energy = np.einsum("bdo,doa->ba", weights, table.energy_mj) + table.fixed_energy_mj
    best = (latency * energy * table.area_mm2).argmin(axis=1)
    theirs = np.concatenate(
        [_by_hand(table, weights[i : i + 1], EDAP.vector, best[i]) for i in range(50)]
    )
    ours = _by_hand(table, weights, EDAP.vector, 40)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / norms
    vectors = np.tile(EDAP.vector, (50, 1))
    report = gradient_agreement(_at(table, 40), table, mixtures, vectors, num_soft_minimum=20)
    expected = {
        "num": 50,
        **{
            name: np.quantile(cosines, q)
            for name, q in (("median", 0.5), ("p10", 0.1), ("p1", 0.01))
        },
    }
    assert cosines.min() < 0.999
    assert report["hard_minimum"] == pytest.approx(expected, abs=1e-5)
    assert report["soft_minimum"]["num"] == 20


def test_an_opposite_gradient_has_cosine_minus_one(table):
    mixtures = sample_mixtures(table.space, 10, np.random.default_rng(2))
    vectors = np.tile(EDAP.vector, (10, 1))
    best = _at(table, 3)
    ours = logit_gradients(best, table, mixtures, vectors)
    theirs = logit_gradients(_at(table, 3, exponent=-1.0), table, mixtures, vectors)
    np.testing.assert_allclose(theirs, -ours, rtol=1e-3, atol=1e-6)


def test_without_any_gradient_there_is_no_cosine(table):
    def constant(weights: Any, vectors: Any) -> Evaluation:
        return Evaluation(tf.ones([len(vectors), 3]) + 0.0 * tf.reduce_sum(weights), 0)

    mixtures = sample_mixtures(table.space, 4, np.random.default_rng(3))
    report = gradient_agreement(constant, table, mixtures, np.tile(EDAP.vector, (4, 1)))
    nothing = {"num": 0, "median": None, "p10": None, "p1": None}
    names = ("hard_minimum", "soft_minimum", "default_with_soft_minimum")
    assert report == dict.fromkeys(names, nothing)


def test_the_soft_minimum_is_compared_with_the_same_mode(table):
    mixtures = sample_mixtures(table.space, 20, np.random.default_rng(4))
    vectors = np.tile(EDAP.vector, (20, 1))
    exact = ExactEvaluator(table).evaluate
    report = gradient_agreement(_at(table, 3), table, mixtures, vectors, evaluate_softly=exact)
    assert report["soft_minimum"]["p1"] > 1 - 1e-6
    assert report["default_with_soft_minimum"]["p1"] < 0.999
