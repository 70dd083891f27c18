"""Labels: mixtures on the simplex, objectives of each kind, the oracle's choice."""

from __future__ import annotations

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.evaluator import dataset
from dance_tf.evaluator.exact import mixture_softness
from dance_tf.hardware.oracle import best_accelerators
from tests.evaluator.fake_table import with_arrays


def test_mixtures_are_distributions_over_allowed_ops(table):
    mixtures = dataset.sample_mixtures(table.space, 2000, np.random.default_rng(0))
    assert mixtures.dtype == np.float32 and np.isfinite(mixtures).all()
    assert (mixtures >= 0).all()
    np.testing.assert_allclose(mixtures.sum(axis=-1), 1.0, atol=1e-6)
    assert (mixtures[:, ~table.space.op_mask] == 0).all()
    assert (mixtures[:, table.space.op_mask].mean(axis=0) > 0.05).all()


def test_mixtures_reach_from_near_one_hot_to_near_uniform(table):
    mixtures = dataset.sample_mixtures(table.space, 2000, np.random.default_rng(1))
    softness = np.asarray(mixture_softness(mixtures, table.space.op_mask))
    assert np.mean(softness < 0.1) > 0.05
    assert np.mean(softness > 0.9) > 0.05
    assert np.mean((softness > 0.3) & (softness < 0.7)) > 0.1
    # One block may be decided while another is not.
    top = mixtures.max(axis=-1)
    assert np.mean(np.abs(top[:, 0] - top[:, 1]) > 0.3) > 0.1


def test_one_hot_architectures_are_networks_of_the_space(table):
    one_hot = dataset.sample_one_hot(table.space, 1000, np.random.default_rng(2))
    assert set(np.unique(one_hot)) == {0.0, 1.0}
    assert (one_hot.sum(axis=-1) == 1).all()
    assert (one_hot[:, ~table.space.op_mask] == 0).all()
    assert len(np.unique(one_hot, axis=0)) == table.space.num_architectures


@pytest.mark.parametrize("kind", dataset.OBJECTIVE_KINDS)
def test_objectives_of_each_kind(kind):
    vectors = dataset.draw_objectives(kind, 300, np.random.default_rng(3))
    is_linear, weights = vectors[:, 0], vectors[:, 1:]
    assert vectors.dtype == np.float32 and (weights >= 0).all()
    if kind == "edap":
        assert (vectors == [0, 1, 1, 1]).all()
    elif kind == "single_metrics":
        assert ((weights > 0).sum(axis=1) == 1).all()
        assert len(np.unique(vectors, axis=0)) == 6
    else:
        assert (is_linear == (kind == "random_linear")).all()
        np.testing.assert_allclose(
            weights.sum(axis=1), 1 if kind == "random_linear" else 3, rtol=1e-5
        )


def test_a_batch_follows_from_its_generator(table):
    rows = np.arange(54)
    first, again, other = (
        dataset.draw_batch(table, rows, 32, 0.25, np.random.default_rng([0, step]))
        for step in (1, 1, 2)
    )
    for ours, theirs, others in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(ours, others)
    is_one_hot = first.mixture_weights.max(axis=-1).min(axis=-1) == 1.0
    assert is_one_hot[8:].all() and not is_one_hot[:8].any()


def test_labels_are_the_oracles(table):
    batch = dataset.draw_batch(table, np.arange(54), 64, 0.5, np.random.default_rng(4))
    best = best_accelerators(table, batch.mixture_weights, batch.objective_vectors)
    np.testing.assert_array_equal(batch.best_index, best.accelerator_index)


def test_candidates_label_as_the_whole_table_does(table):
    candidates = dataset.ever_best_accelerators(table, 4096, 0.5, seed=0)
    assert 1 < len(candidates) < 54
    labels = dataset.CandidateTable(table, candidates)
    batch = dataset.draw_batch(labels, candidates, 512, 0.5, np.random.default_rng(5))
    np.testing.assert_allclose(
        labels.expected_metrics(batch.mixture_weights),
        table.expected_metrics(batch.mixture_weights).numpy()[:, candidates],
        rtol=1e-5,
    )
    whole = best_accelerators(table, batch.mixture_weights, batch.objective_vectors)
    agree = candidates[batch.best_index] == whole.accelerator_index.numpy()
    assert agree.mean() > 0.99


def test_accelerators_that_cannot_run_everything_are_no_candidates(table):
    latency = table.latency_ms.copy()
    best = dataset.ever_best_accelerators(table, 512, 0.0, seed=0)
    latency[0, 0, best[0]] = np.inf
    partly = with_arrays(table, latency_ms=latency)
    assert best[0] not in dataset.ever_best_accelerators(partly, 512, 0.0, seed=0)
    latency[0, 0] = np.inf
    nowhere = with_arrays(table, latency_ms=latency)
    nowhere.reference = table.reference
    with pytest.raises(UserError, match="use --evaluator=exact"):
        dataset.ever_best_accelerators(nowhere, 512, 0.0, seed=0)
