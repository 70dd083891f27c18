"""Whether an evaluator knows when it is wrong: its trust flag against the exact table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dance_tf.evaluator.dataset import (
    draw_architectures,
    draw_objectives,
    sample_mixtures,
    sample_one_hot,
)
from dance_tf.evaluator.domain import collect_answers, in_chunks, relative_errors
from dance_tf.evaluator.neural import NeuralEvaluator, TrustThresholds
from dance_tf.hardware.objective import random_objectives
from dance_tf.structs import Evaluation

__all__ = ["ATYPICAL", "LARGE_ERROR", "LARGE_REGRET", "assess_trust", "calibrated_thresholds"]

_NUM_DRAWN = 8_192
_CHUNK = 256

# Share of typical answers that may be flagged, by each of the two thresholds.
_FLAGGED = 0.005

# Below these nothing is flagged: a regret that no user would see, an error like the mean.
_LEAST_REGRET, _LEAST_BOUND = 1e-5, 1e-3


def calibrated_thresholds(evaluator: NeuralEvaluator, seed: int) -> TrustThresholds:
    """Return thresholds that flag about one in a hundred answers to typical questions.

    Args:
        evaluator: Trained.
        seed: Of the questions: architectures hard and soft, and random objectives.
    """
    rng = np.random.default_rng([seed, 2])
    regrets: list[Any] = []
    bounds: list[Any] = []
    for _ in range(_NUM_DRAWN // _CHUNK):
        weights = draw_architectures(evaluator.domain.space, _CHUNK, 0.5, rng)
        vectors = random_objectives(_CHUNK, rng)
        trust = evaluator.trust(weights, vectors, evaluator.evaluate(weights, vectors))
        regrets.append(trust.predicted_regret)
        bounds.append(trust.error_bound)
    # Without interpolation: between infinities there is none.
    regret, bound = (
        float(np.quantile(np.concatenate(values), 1.0 - _FLAGGED, method="higher"))
        for values in (regrets, bounds)
    )
    return TrustThresholds(max(regret, _LEAST_REGRET), max(bound, _LEAST_BOUND))


#: Regret, and relative error of a metric, from which an answer should not be trusted.
LARGE_REGRET, LARGE_ERROR = 1e-3, 1e-2

# A bound and an error that are equal may differ by the rounding of float32.
_ROUNDING = 2e-6

_Draw = Callable[[Any, int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def assess_trust(evaluator: Any, table: Any, num: int, seed: int) -> dict[str, Any]:
    """Measure how often large errors are flagged, on typical and on atypical queries.

    Large is a regret above LARGE_REGRET, or an error of a metric at the generated
    accelerator above LARGE_ERROR. Flagged is what `trust` does not trust.

    Args:
        evaluator: With `evaluate`, `estimate` and `trust`.
        table: hardware.cost_table.CostTable.
        num: Queries of each group.
        seed: Of the draws.
    Returns:
        `typical`, as the training draws them; `atypical`, a group by each name of
        ATYPICAL; and `all` of them together. Of each group: `num`, `share_flagged`,
        `num_large_errors`, `recall` (the share of those that is flagged; None without
        any), `largest_trusted_regret` and `largest_trusted_error` (None if nothing is
        trusted), and whether `error_bound` held for all.
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
    evaluator: Any, table: Any, mixtures: np.ndarray, objectives: np.ndarray
) -> list[np.ndarray]:
    """Return regret, largest metric error, error bound and trust, each [B]."""
    answers = collect_answers(evaluator, table, mixtures, objectives)

    def ask(weights: np.ndarray, vectors: np.ndarray, index: np.ndarray) -> tuple[Any, ...]:
        # An evaluator may answer with metrics of several accelerators, as the exact one does
        # at mixtures; the bound is for those of one.
        estimated = evaluator.estimate(weights, index)
        errors = relative_errors(estimated, table.metrics_at(weights, index))
        trust = evaluator.trust(weights, vectors, Evaluation(estimated, index))
        return errors.max(axis=1), trust.error_bound, trust.is_trusted

    return [answers.regret, *in_chunks(ask, mixtures, objectives, answers.generated_index)]


def _summary(
    regret: np.ndarray, error: np.ndarray, bound: np.ndarray, is_trusted: np.ndarray
) -> dict[str, Any]:
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


def _typical(space: Any, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half mixtures, half one-hot, as in training."""
    mixtures = [sample_mixtures(space, num // 2, rng), sample_one_hot(space, num - num // 2, rng)]
    return np.concatenate(mixtures), random_objectives(num, rng)


def _one_op_everywhere(
    space: Any, num: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same op in every block; a block that lacks it has any of its own."""
    op = np.eye(space.num_ops)[rng.integers(0, space.num_ops, size=num)]
    return _one_hot(_shared(space, op), rng), random_objectives(num, rng)


def _mostly_zero(space: Any, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Nine in ten of the blocks that may be skipped are."""
    is_zero = np.asarray([name == "zero" for name in space.op_names])
    shares = np.where(is_zero, 0.9, 0.1 / max((~is_zero).sum(), 1))
    shares = np.broadcast_to(shares, (num, space.num_ops))
    return _one_hot(_shared(space, shares), rng), random_objectives(num, rng)


def _biased_ops(space: Any, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All blocks of an architecture draw from the same few ops; half of them as mixtures."""
    ops = rng.dirichlet(np.full(space.num_ops, 0.3), size=num)
    shares = _shared(space, ops)
    one_hot = _one_hot(shares, rng)
    is_soft = np.arange(num)[:, None, None] % 2 == 0
    return np.where(is_soft, shares, one_hot).astype(np.float32), random_objectives(num, rng)


def _extreme_objectives(
    space: Any, num: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Almost one metric alone: the other weights are 1e-6 to 1e-2 of its own."""
    mixtures, _ = _typical(space, num, rng)
    objectives = draw_objectives("single_metrics", num, rng)
    others = 10.0 ** rng.uniform(-6, -2, size=(num, 3))
    objectives[:, 1:] = np.maximum(objectives[:, 1:], others)
    return mixtures, objectives


#: Queries at the edge of those of the training, or beyond, by name: (space, number, rng)
#: to mixture weights [B, D, O] and objective vectors [B, 4].
ATYPICAL: dict[str, _Draw] = {
    "one_op_everywhere": _one_op_everywhere,
    "mostly_zero": _mostly_zero,
    "biased_ops": _biased_ops,
    "extreme_objectives": _extreme_objectives,
}


def _shared(space: Any, shares: np.ndarray) -> np.ndarray:
    """Return shares of the ops [B, O] as weights of every block, float32 [B, D, O].

    What falls on ops that a block does not have goes to its others.
    """
    weights = (shares[:, None, :] + 1e-6) * space.op_mask
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def _one_hot(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw an op of each block with the probabilities [B, D, O]."""
    with np.errstate(divide="ignore"):
        scores = np.log(weights) + rng.gumbel(size=weights.shape)
    return np.eye(weights.shape[-1], dtype=np.float32)[scores.argmax(axis=-1)]
