"""Answers of an evaluator beside those of the exact table, and its trust flag judged by them.

Regret and metric errors are measured on queries like those of the training and on others
at their edge; an evaluator should flag its large errors on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dance_tf.evaluator.dataset import (
    draw_architectures,
    draw_objectives,
    sample_mixtures,
    sample_one_hot,
)
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.evaluator.neural import NeuralEvaluator, TrustThresholds
from dance_tf.files import Json
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import objective_values, random_objectives
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.protocols import SearchSpace
from dance_tf.structs import Evaluation

__all__ = [
    "ATYPICAL",
    "LARGE_ERROR",
    "LARGE_REGRET",
    "Answers",
    "assess_trust",
    "calibrated_thresholds",
    "collect_answers",
    "in_chunks",
    "relative_errors",
]

#: Regret, and relative error of a metric, from which an answer should not be trusted.
LARGE_REGRET, LARGE_ERROR = 1e-3, 1e-2

# A bound and an error that are equal may differ by the rounding of float32.
_ROUNDING = 2e-6

# Queries that the thresholds are calibrated on, and how many of them are drawn at a time.
_NUM_DRAWN = 8_192
_DRAWN_AT_ONCE = 256

# Share of typical answers that may be flagged, by each of the two thresholds.
_FLAGGED = 0.005

# No threshold is below these: a regret that no user would see, an error like the mean.
_LEAST_REGRET, _LEAST_BOUND = 1e-5, 1e-3

# Rows that go through the networks and the oracle at once, so that their data stay in the caches.
_ROWS_AT_ONCE = 512


class Answers(NamedTuple):
    """Answers to B queries, each an architecture under an objective."""

    best_index: np.ndarray  # int32 [B], exact best accelerator
    generated_index: np.ndarray  # int32 [B], accelerator that the evaluator generated
    regret: np.ndarray  # float64 [B], exact objective at the generated one / optimum - 1
    errors: np.ndarray  # float64 [B, 3], relative errors of the metrics of the generated one


def in_chunks(
    measure: Callable[..., tuple[ArrayLike, ...]], *rows: np.ndarray, size: int = _ROWS_AT_ONCE
) -> list[np.ndarray]:
    """Return the arrays [B, ...] that a function gives, called with some of the rows at a time.

    Args:
        measure: Function of a part of each of `rows`; returns arrays [b, ...].
        *rows: Arrays of the same length B.
        size: Number of rows of a call, at the most.
    """
    starts = range(0, len(rows[0]), size)
    parts = [measure(*(array[start : start + size] for array in rows)) for start in starts]
    return [np.concatenate([np.asarray(x) for x in field]) for field in zip(*parts, strict=True)]


def relative_errors(predicted: ArrayLike, exact: ArrayLike) -> np.ndarray:
    """Return |predicted / exact - 1|, float64 [B, 3], of metrics."""
    return np.abs(np.asarray(predicted, np.float64) / np.asarray(exact, np.float64) - 1.0)


def collect_answers(
    evaluator: ExactEvaluator | NeuralEvaluator,
    table: CostTable,
    mixture_weights: np.ndarray,
    objective_vectors: np.ndarray,
) -> Answers:
    """Ask an evaluator and the exact table the same queries.

    Args:
        evaluator: Evaluator to be judged.
        table: Exact costs.
        mixture_weights: Architectures, float32 [B, D, O].
        objective_vectors: Objectives, float32 [B, 4].
    """

    def ask(weights: np.ndarray, vectors: np.ndarray) -> tuple[ArrayLike, ...]:
        best, _, optimum = best_accelerators(table, weights, vectors)
        evaluation = evaluator.evaluate(weights, vectors)
        exact_metrics = table.metrics_at(weights, evaluation.accelerator_index)
        value = np.asarray(objective_values(vectors, exact_metrics, table.reference), np.float64)
        # The oracle may give a tie to the accelerator that is 2e-6 worse: no negative regret.
        regret = np.maximum(value / np.asarray(optimum, np.float64) - 1.0, 0.0)
        errors = relative_errors(evaluation.metrics, exact_metrics)
        return best, evaluation.accelerator_index, regret, errors

    return Answers(*in_chunks(ask, mixture_weights, objective_vectors))


def calibrated_thresholds(evaluator: NeuralEvaluator, seed: int) -> TrustThresholds:
    """Return thresholds that flag about one in a hundred answers to typical queries.

    Args:
        evaluator: Trained evaluator.
        seed: Seed of the queries: architectures hard and soft, and random objectives.
    """
    rng = np.random.default_rng([seed, 2])
    regrets, bounds = [], []
    for _ in range(_NUM_DRAWN // _DRAWN_AT_ONCE):
        weights = draw_architectures(evaluator.domain.space, _DRAWN_AT_ONCE, 0.5, rng)
        vectors = random_objectives(_DRAWN_AT_ONCE, rng)
        trust = evaluator.trust(weights, vectors, evaluator.evaluate(weights, vectors))
        regrets.append(trust.predicted_regret)
        bounds.append(trust.error_bound)
    # Without interpolation: between infinities there is none.
    regret, bound = (
        float(np.quantile(np.concatenate(values), 1.0 - _FLAGGED, method="higher"))
        for values in (regrets, bounds)
    )
    return TrustThresholds(max(regret, _LEAST_REGRET), max(bound, _LEAST_BOUND))


#: Mixture weights, float32 [B, D, O], and objective vectors, float32 [B, 4].
_Queries = tuple[np.ndarray, np.ndarray]


def assess_trust(
    evaluator: ExactEvaluator | NeuralEvaluator, table: CostTable, num: int, seed: int
) -> dict[str, Json]:
    """Measure how often large errors are flagged, on typical and on atypical queries.

    An answer is wrong if its regret is above LARGE_REGRET, or an error of a metric at the
    generated accelerator above LARGE_ERROR. It is flagged if `trust` does not trust it.

    Args:
        evaluator: Evaluator to be judged.
        table: Exact costs.
        num: Number of queries of each group.
        seed: Seed of the draws.
    Returns:
        `typical`, queries as the training draws them; `atypical`, a group by each name of
        ATYPICAL; and `all` of them together. For each group: `num`, `share_flagged`,
        `num_large_errors`, `recall` (the share of the wrong answers that is flagged; None
        without any), `largest_trusted_regret` and `largest_trusted_error` (None if nothing
        is trusted), and `error_bound_held`, whether no error was above its bound.
    """
    groups = {}
    for place, (name, draw) in enumerate({"typical": _typical, **ATYPICAL}.items()):
        queries = draw(table.space, num, np.random.default_rng([seed, place]))
        groups[name] = _measure(evaluator, table, *queries)
    together = [np.concatenate(field) for field in zip(*groups.values(), strict=True)]
    summaries = {name: _summary(*measured) for name, measured in groups.items()}
    return {
        "large_regret": LARGE_REGRET,
        "large_error": LARGE_ERROR,
        "typical": summaries.pop("typical"),
        "atypical": summaries,
        "all": _summary(*together),
    }


def _measure(
    evaluator: ExactEvaluator | NeuralEvaluator,
    table: CostTable,
    mixtures: np.ndarray,
    objectives: np.ndarray,
) -> list[np.ndarray]:
    """Return regret, largest metric error, error bound and trust, each [B]."""
    answers = collect_answers(evaluator, table, mixtures, objectives)

    def ask(weights: np.ndarray, vectors: np.ndarray, index: np.ndarray) -> tuple[ArrayLike, ...]:
        # At mixtures the exact evaluator answers with the mean metrics of several
        # accelerators; the bound is for the metrics of one.
        estimated = evaluator.estimate(weights, index)
        errors = relative_errors(estimated, table.metrics_at(weights, index))
        trust = evaluator.trust(weights, vectors, Evaluation(estimated, index))
        return errors.max(axis=1), trust.error_bound, trust.is_trusted

    return [answers.regret, *in_chunks(ask, mixtures, objectives, answers.generated_index)]


def _summary(
    regret: np.ndarray, error: np.ndarray, bound: np.ndarray, is_trusted: np.ndarray
) -> dict[str, Json]:
    """Return the fields of one group; see `assess_trust`."""
    is_large = (regret > LARGE_REGRET) | (error > LARGE_ERROR)
    any_trusted = bool(is_trusted.any())
    return {
        "num": len(regret),
        "share_flagged": float(np.mean(~is_trusted)),
        "num_large_errors": int(is_large.sum()),
        "recall": float(np.mean(~is_trusted[is_large])) if is_large.any() else None,
        "largest_trusted_regret": float(regret[is_trusted].max()) if any_trusted else None,
        "largest_trusted_error": float(error[is_trusted].max()) if any_trusted else None,
        "error_bound_held": bool(np.all(error <= bound + _ROUNDING)),
    }


def _typical(space: SearchSpace, num: int, rng: np.random.Generator) -> _Queries:
    """Draw half mixtures, half one-hot architectures, as the training does."""
    mixtures = [sample_mixtures(space, num // 2, rng), sample_one_hot(space, num - num // 2, rng)]
    return np.concatenate(mixtures), random_objectives(num, rng)


def _one_op_everywhere(space: SearchSpace, num: int, rng: np.random.Generator) -> _Queries:
    """Draw architectures with one op in all blocks; a block that lacks it has any other op."""
    op = np.eye(space.num_ops)[rng.integers(0, space.num_ops, size=num)]
    return _one_hot(_shared(space, op), rng), random_objectives(num, rng)


def _mostly_zero(space: SearchSpace, num: int, rng: np.random.Generator) -> _Queries:
    """Draw architectures that skip nine in ten of the blocks that can be skipped."""
    is_zero = np.asarray([name == "zero" for name in space.op_names])
    shares = np.where(is_zero, 0.9, 0.1 / max((~is_zero).sum(), 1))
    shares = np.broadcast_to(shares, (num, space.num_ops))
    return _one_hot(_shared(space, shares), rng), random_objectives(num, rng)


def _biased_ops(space: SearchSpace, num: int, rng: np.random.Generator) -> _Queries:
    """Draw architectures whose blocks all prefer a few ops; half of them are mixtures."""
    ops = rng.dirichlet(np.full(space.num_ops, 0.3), size=num)
    shares = _shared(space, ops)
    one_hot = _one_hot(shares, rng)
    is_soft = np.arange(num)[:, None, None] % 2 == 0
    return np.where(is_soft, shares, one_hot).astype(np.float32), random_objectives(num, rng)


def _extreme_objectives(space: SearchSpace, num: int, rng: np.random.Generator) -> _Queries:
    """Draw objectives of nearly one metric: the other weights are 1e-6 to 1e-2 of its own."""
    mixtures, _ = _typical(space, num, rng)
    objectives = draw_objectives("single_metrics", num, rng)
    least = 10.0 ** rng.uniform(-6, -2, size=(num, 3))
    objectives[:, 1:] = np.maximum(objectives[:, 1:], least)
    return mixtures, objectives


#: Queries at the edge of those of the training, or beyond, drawn from (space, number, rng).
ATYPICAL: dict[str, Callable[[SearchSpace, int, np.random.Generator], _Queries]] = {
    "one_op_everywhere": _one_op_everywhere,
    "mostly_zero": _mostly_zero,
    "biased_ops": _biased_ops,
    "extreme_objectives": _extreme_objectives,
}


def _shared(space: SearchSpace, shares: np.ndarray) -> np.ndarray:
    """Return shares of the ops [B, O] as weights of every block, float32 [B, D, O].

    Shares of ops that a block lacks go to the ops that it has.
    """
    weights = (shares[:, None, :] + 1e-6) * space.op_mask
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def _one_hot(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw an op of each block with the probabilities [B, D, O]."""
    with np.errstate(divide="ignore"):
        scores = np.log(weights) + rng.gumbel(size=weights.shape)
    return np.eye(weights.shape[-1], dtype=np.float32)[scores.argmax(axis=-1)]
