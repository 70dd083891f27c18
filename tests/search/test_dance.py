"""The co-search finds known optima: networks, accelerators and costs that enumeration finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dance_tf.config import SearchConfig
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.presets import preset
from dance_tf.search.dance import DanceSearch
from dance_tf.search.problem import make_objective
from dance_tf.supernet.space_files import make_space
from tests.search.problems import ScoredSupernet, Unlabelled, make_problem, shuffled_table

NETWORKS = np.asarray(list(itertools.product(range(6), range(7))), np.int32)


def _assert_finds_the_optimum(seed, is_scored=False, table=None, **changes):
    """Search a problem of 42 networks whose costs and losses are all known."""
    config = SearchConfig(
        warmup_epochs=1,
        batch_size=32,
        arch_every=1,
        arch_paths=8,
        lambda_2=0.5,
        lambda_2_warmup_epochs=1,
        log_every=999,
        max_zero_share=1.0,  # the optimum may be Zero
        **changes,
    )
    objective, table = make_objective(config), table or shuffled_table(seed)
    scores = np.random.RandomState(seed).normal(size=(2, 7)) * is_scored
    supernet = ScoredSupernet(table.space, scores, seed)
    problem = make_problem(table, supernet=supernet, dataset=Unlabelled())
    found = DanceSearch(config, seed=seed).search(problem)

    vectors = np.tile(objective.vector, (len(NETWORKS), 1))
    best = best_accelerators(table, table.one_hot(NETWORKS), vectors)
    totals = supernet.cross_entropy(NETWORKS) + config.lambda_2 * best.value.numpy()
    optimum = int(np.argmin(totals))
    assert np.sort(totals)[1] - totals[optimum] > 0.02  # a clear one
    assert found.architecture == table.space.from_indices(NETWORKS[optimum])
    assert found.accelerator == table.accelerators.decode(int(best.accelerator_index[optimum]))
    assert found.exact_cost.objective == pytest.approx(float(best.value[optimum]), rel=1e-5)
    # The exact evaluator is exact at one-hot.
    assert found.predicted_cost.objective == pytest.approx(found.exact_cost.objective, rel=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        {"objective": "EDAP"},
        {"objective": "linear", "lambda_latency": 1, "lambda_energy": 0, "lambda_area": 0},
        {"objective": "product", "lambda_latency": 2, "lambda_energy": 0.5, "lambda_area": 0.5},
    ],
    ids=["EDAP", "latency alone", "product"],
)
def test_by_cost_alone_it_finds_the_cheapest_network(objective):
    _assert_finds_the_optimum(1, epochs=60, arch_learning_rate=0.1, **objective)


@pytest.fixture(scope="module")
def tiny_table(cache_dir):
    """The cost model's own table of the tiny preset, not a made-up one."""
    config = preset("tiny")
    return load_or_build_table(make_space(config.space), config.hardware, cache_dir=cache_dir)


def test_on_the_tiny_space_it_finds_the_cheapest_network(tiny_table):
    _assert_finds_the_optimum(0, False, tiny_table, epochs=60, arch_learning_rate=0.1)


def test_between_accuracy_and_cost_it_finds_what_enumeration_finds(tiny_table):
    _assert_finds_the_optimum(1, True, tiny_table, epochs=200, arch_learning_rate=0.05)
