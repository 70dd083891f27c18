"""What the benchmark of evaluators asks and times is what it says."""

from __future__ import annotations

import types

import numpy as np
import pytest

from benchmarks import evaluator


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A clock that stands still but for what is asked."""
    hand = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(evaluator.time, "perf_counter", lambda: hand.now)
    return hand


def _ask(clock: types.SimpleNamespace, asked: list[int], seconds: list[float]):
    def ask(weights: np.ndarray, vectors: np.ndarray) -> None:
        assert len(weights) == len(vectors)
        clock.now += seconds[len(asked) % len(seconds)]
        asked.append(len(weights))

    return ask


def test_queries_are_of_the_space_and_half_of_them_soft(table):
    weights, vectors = evaluator.draw_queries(table.space, 41, seed=0)
    assert len(weights) == len(vectors) == 41
    assert (weights[:, ~table.space.op_mask] == 0).all()
    is_one_hot = (weights.max(axis=-1) == 1).all(axis=-1)
    assert 21 <= is_one_hot.sum() < 41
    again = evaluator.draw_queries(table.space, 41, seed=0)
    np.testing.assert_array_equal(again.mixture_weights, weights)


def test_a_single_query_has_the_median_of_warm_calls(table, clock):
    queries = evaluator.draw_queries(table.space, 5, seed=0)
    fast, slow = [], []
    # The first five calls of each are warm-up.
    asks = {
        "fast": _ask(clock, fast, [50.0] * 5 + [3.0, 1.0, 9.0, 2.0, 4.0]),
        "slow": _ask(clock, slow, [7.0]),
    }
    assert evaluator.measure_singles(asks, queries) == {"fast": 3.0, "slow": 7.0}
    assert fast == slow == [1] * 10


def test_batches_are_whole_and_the_first_call_is_not_timed(table, clock):
    queries = evaluator.draw_queries(table.space, 35, seed=0)
    asked: list[int] = []
    asks = {"batched": _ask(clock, asked, [100.0, 0.5, 1.0, 0.5])}
    assert evaluator.measure_batches(asks, queries, size=10) == {"batched": 30 / 2.0}
    assert asked == [10] * 4
