"""The predictor of errors: what it recovers, its uncertainty, its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from dance_tf.config import SpaceConfig
from dance_tf.errors import UserError
from dance_tf.search.accuracy.inherited import read_inherited, shipped_inherited_path
from dance_tf.search.accuracy.predictor import ErrorPredictor
from dance_tf.search.accuracy.table import AccuracyTable, shipped_table_path
from dance_tf.supernet.space_files import make_space

SPACE = make_space(SpaceConfig("nas_bench_macro"))


@pytest.fixture(scope="module")
def table():
    return AccuracyTable.read(SPACE, shipped_table_path(SPACE.name))


@pytest.fixture(scope="module")
def fitted(table):
    rows = np.random.default_rng(1).choice(len(table), 68, replace=False)
    return ErrorPredictor(SPACE).fit(
        table.op_indices[rows], table.errors(table.op_indices[rows], 0)
    )


def test_68_networks_rank_all_others(table, fitted):
    """Random networks; Kendall of the number of MACs is 0.56."""
    found = fitted.errors(table.op_indices)
    truth = table.errors(table.op_indices, 1)
    assert stats.kendalltau(found, truth).statistic > 0.75


def test_draws_scatter_as_much_as_the_mean_errs(table, fitted):
    others = table.op_indices[::50]
    draws = fitted.draws(200, np.random.default_rng(0))
    log_errors = fitted.model.features_of(others) @ draws.T + fitted.centre
    np.testing.assert_allclose(log_errors.mean(axis=1), np.log(fitted.errors(others)), atol=0.04)
    misses = np.log(table.errors(others)) - log_errors.mean(axis=1)
    assert 0.3 < np.abs(misses / log_errors.std(axis=1)).mean() < 3


def test_a_mixture_of_one_op_each_is_the_network_and_a_gradient_is_the_slope(fitted):
    ops = np.array([[1, 2, 0, 1, 0, 2, 1, 1]])
    one_hot = np.eye(3, dtype=np.float32)[ops]
    found = fitted.log_errors(one_hot).numpy()
    np.testing.assert_allclose(np.exp(found), fitted.errors(ops), rtol=1e-4)
    mixture = tf.Variable(0.7 * one_hot + 0.1)
    with tf.GradientTape() as tape:
        value = fitted.log_errors(mixture)
    gradient = tape.gradient(value, mixture).numpy()
    step = np.zeros_like(one_hot)
    step[0, 3, 1] = 1e-2
    slope = (fitted.log_errors(mixture + step) - fitted.log_errors(mixture - step)) / 2e-2
    assert gradient[0, 3, 1] == pytest.approx(float(slope[0]), rel=0.02)


def test_inherited_errors_help_where_they_rank(table):
    """Errors of the second training stand for those of a supernet that ranks well."""
    every = table.op_indices[::20]
    inherited = ErrorPredictor(SPACE).fit(every, 0.3 + 0.5 * table.errors(every, 1))
    rows = np.random.default_rng(1).choice(len(table), 12, replace=False)
    networks, errors = table.op_indices[rows], table.errors(table.op_indices[rows], 0)
    others = table.op_indices[7::40]
    taus = [
        stats.kendalltau(model.fit(networks, errors).errors(others), table.errors(others)).statistic
        for model in (ErrorPredictor(SPACE), ErrorPredictor(SPACE, inherited))
    ]
    assert taus[1] > taus[0] + 0.1


def test_the_shipped_inherited_errors_rank(table):
    fitted = read_inherited(SPACE, shipped_inherited_path(SPACE.name))
    found, truth = fitted.errors(table.op_indices), table.errors(table.op_indices)
    better = truth <= np.median(truth)
    assert stats.kendalltau(found, truth).statistic > 0.70
    assert stats.kendalltau(found[better], truth[better]).statistic > 0.50
    with pytest.raises(UserError, match="has no inherited errors of networks of tiny_mbconv"):
        read_inherited(make_space(SpaceConfig("tiny_mbconv")), shipped_inherited_path(SPACE.name))


def test_too_few_errors_or_none_are_refused():
    model = ErrorPredictor(SPACE)
    with pytest.raises(UserError, match="two errors within"):
        model.fit([[0] * 8], [0.5])
    with pytest.raises(UserError, match="two errors within"):
        model.fit([[0] * 8, [1] * 8], [0.5, float("nan")])
