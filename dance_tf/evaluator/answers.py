"""What an evaluator answers, beside the exact table: the raw numbers of its assessment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dance_tf.hardware.objective import objective_values
from dance_tf.hardware.oracle import best_accelerators

__all__ = ["Answers", "collect_answers", "in_chunks", "relative_errors"]

# Rows that go through the networks and the oracle at once: what they need stays in the caches.
_CHUNK = 512


class Answers(NamedTuple):
    """Answers to B queries, each an architecture under an objective."""

    best_index: np.ndarray  # int32 [B], exact best accelerator
    generated_index: np.ndarray  # int32 [B], the evaluator's
    regret: np.ndarray  # float64 [B], exact objective at the generated one / optimum - 1
    errors: np.ndarray  # float64 [B, 3], relative, of the metrics of the generated one


def in_chunks(
    measure: Callable[..., tuple[Any, ...]], *rows: np.ndarray, size: int = _CHUNK
) -> list[np.ndarray]:
    """Return what `measure` gives for arrays [B, ...], called with at most `size` rows.

    Args:
        measure: Takes a part of each of `rows`; returns arrays [b, ...].
        *rows: Arrays of the same length.
        size: Rows of a call.
    """
    starts = range(0, len(rows[0]), size)
    parts = [measure(*(array[start : start + size] for array in rows)) for start in starts]
    return [np.concatenate([np.asarray(x) for x in field]) for field in zip(*parts, strict=True)]


def relative_errors(predicted: Any, exact: Any) -> np.ndarray:
    """Return |predicted / exact - 1|, float64 [B, 3], of metrics."""
    return np.abs(np.asarray(predicted, np.float64) / np.asarray(exact, np.float64) - 1.0)


def collect_answers(
    evaluator: Any, table: Any, mixture_weights: np.ndarray, objective_vectors: np.ndarray
) -> Answers:
    """Ask an evaluator and the table.

    Args:
        evaluator: Neural or exact.
        table: hardware.cost_table.CostTable.
        mixture_weights: float32 [B, D, O].
        objective_vectors: float32 [B, 4].
    """

    def ask(weights: np.ndarray, vectors: np.ndarray) -> tuple[Any, ...]:
        best, _, optimum = best_accelerators(table, weights, vectors)
        evaluation = evaluator.evaluate(weights, vectors)
        exact_metrics = table.metrics_at(weights, evaluation.accelerator_index)
        value = np.asarray(objective_values(vectors, exact_metrics, table.reference), np.float64)
        # The oracle may give a tie to the accelerator that is 2e-6 worse: no negative regret.
        regret = np.maximum(value / np.asarray(optimum, np.float64) - 1.0, 0.0)
        errors = relative_errors(evaluation.metrics, exact_metrics)
        return best, evaluation.accelerator_index, regret, errors

    return Answers(*in_chunks(ask, mixture_weights, objective_vectors))
