"""The strategies of DANCE: what the co-searches derive, what is trained, limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig
from dance_tf.hardware.objective import Limits
from dance_tf.search.accuracy.predictor import ErrorPredictor
from dance_tf.search.strategies.dance_predictor import CoSearches, DancePredictor
from dance_tf.search.strategies.dance_supernet import DanceSupernet
from dance_tf.search.strategies.problem import Goal, StrategyProblem, run_strategy
from tests.evaluator.fake_table import make_fake_table

NETWORKS = np.asarray(list(itertools.product(range(6), range(7))), np.int32)
TABLE = make_fake_table(
    "tiny_mbconv",
    HardwareConfig(
        accelerators=AcceleratorSpaceConfig((8, 16), (8,), (16, 64), ("row_stationary",))
    ),
)
MIDDLE = Limits(
    max_latency_ms=float(
        np.median(
            [StrategyProblem(TABLE.space, TABLE, Goal()).costs.best(n).metrics[0] for n in NETWORKS]
        )
    )
)


class _Errors:
    """Errors that fall with the size of each block's op; an AccuracySource."""

    kind = "table"

    def errors(self, op_indices):
        gains = np.asarray([1.0, 2.0, 1.5, 2.5, 2.0, 3.0, 0.0])
        return 0.3 * np.exp(-0.3 * gains[np.asarray(op_indices)].sum(axis=1))


@pytest.fixture(scope="module")
def fitted():
    return ErrorPredictor(TABLE.space).fit(NETWORKS, _Errors().errors(NETWORKS))


def _best(problem, networks):
    costs = np.asarray([problem.costs.best(n).log_cost for n in networks])
    return float((np.log(_Errors().errors(networks)) + problem.goal.cost_weight * costs).min())


@pytest.mark.parametrize("limits", [None, MIDDLE])
@pytest.mark.parametrize("weight", [0.05, 1.0])
def test_co_searches_end_in_the_best_network_within_the_limits(fitted, weight, limits):
    problem = StrategyProblem(TABLE.space, TABLE, Goal(weight, limits))
    searches = CoSearches(problem, fitted.model, 16, 60)
    coefficients = np.tile(fitted.coefficients, (16, 1))
    found = searches.derive(coefficients, np.random.default_rng(0))
    assert all(problem.costs.best(ops).accelerator >= 0 for ops in found)
    assert _best(problem, np.asarray(found)) <= _best(problem, NETWORKS) + 0.03


def test_without_any_trained_network_the_supernet_leads(fitted):
    problem = StrategyProblem(TABLE.space, TABLE, Goal(0.3, MIDDLE))
    trace = run_strategy(DanceSupernet(fitted, 16, 40), problem, _Errors(), 5, 0)
    networks = np.asarray(list(trace.errors))
    assert 1 <= len(networks) <= 5
    assert _best(problem, networks) <= _best(problem, NETWORKS) + 0.03


def test_twelve_trainings_find_the_best_of_42_networks():
    problem = StrategyProblem(TABLE.space, TABLE, Goal(0.3))
    strategy = DancePredictor(num_first=5, num_chosen=3, num_searches=16, num_steps=30)
    trace = run_strategy(strategy, problem, _Errors(), 12, 0)
    networks, errors = np.asarray(list(trace.errors)), np.asarray(list(trace.errors.values()))
    assert _best(problem, networks) <= _best(problem, NETWORKS) + 0.01
    believed = strategy.believed_errors(problem, networks, errors)
    np.testing.assert_allclose(believed, errors, rtol=0.15)
