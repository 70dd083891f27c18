"""Whether an evaluator's gradient in the logits points where the exact one does.

Exact has two meanings, and both are measured:

    hard_minimum  the exact cost at the exact best accelerator. The gradient of a minimum
                  has no term through the argmin.
    soft_minimum  exact.ExactEvaluator, which averages over the accelerators that are
                  nearly the best.

Each is compared with the evaluator in the mode that means the same, and the soft minimum
with the evaluator's default as well, since the two exact ones differ between themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.evaluator.answers import in_chunks
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.hardware.objective import objective_values
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import Evaluation

__all__ = ["Evaluate", "gradient_agreement", "logit_gradients"]

#: Mixture weights [B, D, O] and objective vectors [B, 4] to what is said of them.
Evaluate = Callable[[Any, Any], Evaluation]

# The soft minimum goes over all accelerators: floats [chunk, A, 3] several times.
_SOFT_CHUNK = 64


def gradient_agreement(
    evaluate: Evaluate,
    table: Any,
    mixture_weights: np.ndarray,
    objective_vectors: np.ndarray,
    *,
    evaluate_softly: Evaluate | None = None,
    softmin_temperature: float = 0.01,
    num_soft_minimum: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Return quantiles of the cosine between gradients of log objective in the logits.

    The gradient in the weights goes through the softmax that made them. A one-hot
    architecture's softmax lets nothing through; there it is that of equal logits, as in
    straight-through estimators. Architectures without a gradient are left out.

    Args:
        evaluate: The evaluator's; its gradient is compared.
        evaluate_softly: The evaluator's soft minimum; None if it has no other mode.
        table: hardware.cost_table.CostTable.
        mixture_weights: float32 [B, D, O], one-hot or soft.
        objective_vectors: float32 [B, 4].
        softmin_temperature: Of the exact evaluator.
        num_soft_minimum: Compare only so many of the architectures with the soft minimum,
            whose gradient takes milliseconds each; None: all.
    Returns:
        For `hard_minimum`, `soft_minimum` and `default_with_soft_minimum`: `num` compared,
        `median`, `p10`, `p1`.
    """
    soft_minimum = ExactEvaluator(table, softmin_temperature).evaluate

    def hard_minimum(weights: Any, vectors: Any) -> Evaluation:
        best = best_accelerators(table, tf.stop_gradient(weights), vectors).accelerator_index
        return Evaluation(table.metrics_at(weights, best), best)

    def gradients(of: Evaluate, num: int | None = None, **size: int) -> np.ndarray:
        rows = (mixture_weights[:num], objective_vectors[:num])
        return in_chunks(lambda w, v: (logit_gradients(of, table, w, v),), *rows, **size)[0]

    def softly(of: Evaluate) -> np.ndarray:
        return gradients(of, num_soft_minimum, size=_SOFT_CHUNK)

    ours, exact_soft = gradients(evaluate), softly(soft_minimum)
    ours_softly = ours[:num_soft_minimum] if evaluate_softly is None else softly(evaluate_softly)
    return {
        "hard_minimum": _cosines(ours, gradients(hard_minimum)),
        "soft_minimum": _cosines(ours_softly, exact_soft),
        "default_with_soft_minimum": _cosines(ours[:num_soft_minimum], exact_soft),
    }


def logit_gradients(
    evaluate: Evaluate, table: Any, mixture_weights: np.ndarray, objective_vectors: np.ndarray
) -> np.ndarray:
    """Return the gradient of log objective in the logits, float64 [B, D * O]."""
    weights = tf.constant(mixture_weights)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        metrics = evaluate(weights, objective_vectors).metrics
        values = objective_values(objective_vectors, metrics, table.reference)
        total = tf.reduce_sum(tf.math.log(values))
    gradient = np.asarray(tape.gradient(total, weights), np.float64)
    mask = table.space.op_mask
    is_one_hot = mixture_weights.max(axis=-1).min(axis=-1)[:, None, None] == 1.0
    softmax = np.where(is_one_hot, mask / mask.sum(axis=1, keepdims=True), mixture_weights)
    mean = np.sum(softmax * gradient, axis=-1, keepdims=True)
    return (softmax * (gradient - mean)).reshape(len(mixture_weights), -1)


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Return quantiles of the cosine between the rows of two matrices."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    has_gradient = norms > 0
    if not has_gradient.any():
        return {"num": 0, "median": None, "p10": None, "p1": None}
    cosines = np.sum(ours * theirs, axis=1)[has_gradient] / norms[has_gradient]
    return {
        "num": len(cosines),
        "median": float(np.quantile(cosines, 0.5)),
        "p10": float(np.quantile(cosines, 0.1)),
        "p1": float(np.quantile(cosines, 0.01)),
    }
