"""How good an evaluator is, measured against the exact table on fresh architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.evaluator.dataset import (
    OBJECTIVE_KINDS,
    can_run_everything,
    draw_objectives,
    sample_mixtures,
    sample_one_hot,
)
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.hardware.accelerator import HEADS
from dance_tf.hardware.objective import objective_values
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import METRICS

__all__ = ["evaluate_evaluator"]

# Rows that go through the table at once; [chunk, A, 3] floats each time.
_CHUNK = 256

_ARCHITECTURES: dict[str, Callable[..., np.ndarray]] = {
    "one_hot": sample_one_hot,
    "soft": sample_mixtures,
}


def evaluate_evaluator(
    evaluator: Any,
    table: Any,
    num_architectures: int,
    seed: int,
    *,
    softmin_temperature: float = 0.01,
) -> dict[str, Any]:
    """Measure an evaluator, neural or exact.

    For one-hot and for soft architectures, and for each kind of objective:

    - per head: accuracy; entropy of the exact labels in bits and the accuracy of always
      giving the most frequent one, without which accuracy says little;
    - regret: exact objective at the generated accelerator / exact optimum - 1;
    - relative error of the metrics end to end, against the exact metrics of the
      accelerator that was generated.

    Beside these the relative error at random accelerators, and the cosine between this
    evaluator's gradient of the objective and the exact evaluator's in the logits, per
    architecture. At a one-hot architecture the softmax has no gradient; there the
    gradient in the weights goes through the softmax of equal logits, as straight-through
    estimators do. Objectives of area alone are left out: a fixed accelerator's area
    has no gradient.

    Args:
        evaluator: An evaluator with `evaluate` and `estimate`.
        table: hardware.cost_table.CostTable.
        num_architectures: Of each kind.
        seed: Of the draws.
        softmin_temperature: Of the exact evaluator compared with.
    Returns:
        JSON data; errors and regrets are fractions, not percent.
    """
    if num_architectures < 1:
        raise UserError(f"num_architectures is {num_architectures}, not positive")
    exact = ExactEvaluator(table, softmin_temperature)
    report: dict[str, Any] = {
        "evaluator": evaluator.kind,
        "space": table.space.name,
        "content_hash": table.content_hash,
        "num_architectures": num_architectures,
        "num_accelerators": len(table.accelerators),
        "seed": seed,
    }
    for place, (name, sample) in enumerate(_ARCHITECTURES.items()):
        rng = np.random.default_rng([seed, place])
        mixtures = sample(table.space, num_architectures, rng)
        of_kind = {
            kind: _one_kind(
                evaluator, table, mixtures, draw_objectives(kind, num_architectures, rng)
            )
            for kind in OBJECTIVE_KINDS
        }
        runnable = np.flatnonzero(can_run_everything(table)).astype(np.int32)
        accelerators = rng.choice(runnable, size=num_architectures)
        random = [
            _relative_errors(
                evaluator.estimate(mixtures[rows], accelerators[rows]),
                table.metrics_at(mixtures[rows], accelerators[rows]),
            )
            for rows in _chunks(num_architectures)
        ]
        report[name] = {
            "objectives": of_kind,
            "error_at_random_accelerators": _summarise_errors(np.concatenate(random)),
            "gradient_cosine": _gradient_cosines(
                evaluator, exact, table, mixtures, rng, is_soft=name == "soft"
            ),
        }
    return report


def _chunks(num: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, num)) for start in range(0, num, _CHUNK)]


def _one_kind(
    evaluator: Any, table: Any, mixtures: np.ndarray, objectives: np.ndarray
) -> dict[str, Any]:
    """Return heads, regret and end-to-end error for one kind of objective."""
    best, generated, regret, errors = [], [], [], []
    for rows in _chunks(len(mixtures)):
        weights, vectors = mixtures[rows], objectives[rows]
        index, _, optimum = best_accelerators(table, weights, vectors)
        evaluation = evaluator.evaluate(weights, vectors)
        true_metrics = table.metrics_at(weights, evaluation.accelerator_index)
        value = objective_values(vectors, true_metrics, table.reference)
        best.append(np.asarray(index))
        generated.append(np.asarray(evaluation.accelerator_index))
        # The oracle may give a tie to the accelerator that is 2e-6 worse: no negative regret.
        regret.append(np.maximum(np.asarray(value) / np.asarray(optimum) - 1.0, 0.0))
        errors.append(_relative_errors(evaluation.metrics, true_metrics))
    best_heads = table.accelerators.head_indices(np.concatenate(best))
    generated_heads = table.accelerators.head_indices(np.concatenate(generated))
    heads = {}
    for position, head in enumerate(HEADS):
        labels = best_heads[:, position]
        shares = np.bincount(labels) / len(labels)
        present = shares[shares > 0]
        heads[head] = {
            "accuracy": float(np.mean(generated_heads[:, position] == labels)),
            "label_entropy_bits": float(np.sum(present * np.log2(1.0 / present))),
            "majority_accuracy": float(shares.max()),
        }
    all_regret = np.concatenate(regret).astype(np.float64)
    return {
        "heads": heads,
        "num_best_accelerators": len(np.unique(np.concatenate(best))),
        "regret": {
            "mean": float(all_regret.mean()),
            "p50": float(np.quantile(all_regret, 0.5)),
            "p99": float(np.quantile(all_regret, 0.99)),
            "max": float(all_regret.max()),
            "share_within_0.001": float(np.mean(all_regret <= 1e-3)),
        },
        "error_end_to_end": _summarise_errors(np.concatenate(errors)),
    }


def _relative_errors(predicted: Any, exact: Any) -> np.ndarray:
    exact = np.asarray(exact, np.float64)
    return np.abs(np.asarray(predicted, np.float64) - exact) / exact


def _summarise_errors(errors: np.ndarray) -> dict[str, dict[str, float]]:
    """Return mean and 99th percentile per metric of relative errors [N, 3]."""
    return {
        metric: {
            "mean": float(errors[:, i].mean()),
            "p99": float(np.quantile(errors[:, i], 0.99)),
        }
        for i, metric in enumerate(METRICS)
    }


def _logit_gradients(
    evaluator: Any, table: Any, mixtures: np.ndarray, objectives: np.ndarray, *, is_soft: bool
) -> np.ndarray:
    """Return the gradient of log objective in the logits, float64 [B, D * O]."""
    weights = tf.constant(mixtures)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        metrics = evaluator.evaluate(weights, objectives).metrics
        value = tf.reduce_sum(tf.math.log(objective_values(objectives, metrics, table.reference)))
    gradient = np.asarray(tape.gradient(value, weights), np.float64)
    mask = table.space.op_mask
    softmax = mixtures if is_soft else mask / mask.sum(axis=1, keepdims=True)
    mean = np.sum(softmax * gradient, axis=-1, keepdims=True)
    return (softmax * (gradient - mean)).reshape(len(mixtures), -1)


def _gradient_cosines(
    evaluator: Any,
    exact: ExactEvaluator,
    table: Any,
    mixtures: np.ndarray,
    rng: np.random.Generator,
    *,
    is_soft: bool,
) -> dict[str, Any]:
    """Return quantiles of the cosine with the exact gradient over random objectives."""
    kinds = rng.integers(0, 2, size=len(mixtures))[:, None]
    products = draw_objectives("random_products", len(mixtures), rng)
    objectives = np.where(
        kinds == 0, products, draw_objectives("random_linear", len(mixtures), rng)
    )
    pairs = [
        [
            _logit_gradients(e, table, mixtures[rows], objectives[rows], is_soft=is_soft)
            for e in (evaluator, exact)
        ]
        for rows in _chunks(len(mixtures))
    ]
    ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    has_gradient = norms > 0
    cosines = np.sum(ours * theirs, axis=1)[has_gradient] / norms[has_gradient]
    if not len(cosines):
        return {"num": 0, "median": None, "p10": None, "p1": None}
    return {
        "num": len(cosines),
        "median": float(np.quantile(cosines, 0.5)),
        "p10": float(np.quantile(cosines, 0.1)),
        "p1": float(np.quantile(cosines, 0.01)),
    }
