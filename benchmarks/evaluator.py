"""Speed of evaluators: warm seconds of single queries, and queries a second in batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from dance_tf.evaluator.dataset import sample_mixtures, sample_one_hot
from dance_tf.hardware.objective import random_objectives
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["Ask", "Queries", "draw_queries", "measure_batches", "measure_singles"]

#: Takes mixture weights [B, D, O] and objective vectors [B, 4]; returns when it has answered.
Ask = Callable[[np.ndarray, np.ndarray], object]

# Calls before the clock starts: the first compile, and fill the caches.
_NUM_WARM = 10

_TURN = 100


class Queries(NamedTuple):
    """Architectures, half of them one-hot, with an objective each."""

    mixture_weights: np.ndarray  # float32 [B, D, O]
    objective_vectors: np.ndarray  # float32 [B, 4]


def draw_queries(space: NetworkSpace, num: int, seed: int) -> Queries:
    """Draw queries as a search and its user ask them."""
    rng = np.random.default_rng(seed)
    mixtures = np.concatenate(
        [sample_one_hot(space, num - num // 2, rng), sample_mixtures(space, num // 2, rng)]
    )
    return Queries(rng.permutation(mixtures), random_objectives(num, rng))


def measure_singles(asks: Mapping[str, Ask], queries: Queries) -> dict[str, float]:
    """Return the median seconds of a query, one query a call.

    Evaluators take turns of _TURN queries, so that other work on the machine slows all
    alike, and each finds the caches as it has left them.

    Args:
        asks: Evaluators by name.
        queries: Queries that each of them is asked.
    """
    rows = [slice(row, row + 1) for row in range(len(queries.mixture_weights))]
    seconds: dict[str, list[float]] = {name: [] for name in asks}
    for ask in asks.values():
        for row in rows[:_NUM_WARM]:
            ask(*(field[row] for field in queries))
    for start in range(0, len(rows), _TURN):
        turn = [[field[row] for field in queries] for row in rows[start : start + _TURN]]
        for name, ask in asks.items():
            for one in turn:
                began = time.perf_counter()
                ask(*one)
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_batches(asks: Mapping[str, Ask], queries: Queries, *, size: int) -> dict[str, float]:
    """Return how many queries a second are answered, `size` a call.

    Args:
        asks: Evaluators by name.
        queries: At least `size` queries for each; the first call is made once more, untimed.
        size: Queries of a call; what does not fill one is left out.
    """
    num_calls = len(queries.mixture_weights) // size
    per_s = {}
    for name, ask in asks.items():
        calls = [
            tuple(field[call * size : (call + 1) * size] for field in queries)
            for call in range(num_calls)
        ]
        ask(*calls[0])
        began = time.perf_counter()
        for call in calls:
            ask(*call)
        per_s[name] = num_calls * size / (time.perf_counter() - began)
    return per_s
