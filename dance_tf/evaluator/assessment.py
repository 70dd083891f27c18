"""Quality of an evaluator on fresh architectures, measured against the exact table.

Three things count: whether its accelerator is as good as the exact best one (regret),
whether its metrics are right (error), and whether its gradient points where the exact
one does (cosine).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

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
from dance_tf.evaluator.neural import NeuralEvaluator
from dance_tf.evaluator.trust import (
    Answers,
    assess_trust,
    collect_answers,
    in_chunks,
    relative_errors,
)
from dance_tf.files import Json
from dance_tf.hardware.accelerator import HEADS
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import objective_values
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import METRICS, Evaluation

__all__ = ["Evaluate", "evaluate_evaluator", "gradient_agreement", "logit_gradients"]

#: Function from mixture weights [B, D, O] and objective vectors [B, 4] to an Evaluation.
Evaluate = Callable[[tf.Tensor, tf.Tensor], Evaluation]

# Rows of the soft minimum at once, which holds floats [rows, A, 3] several times.
_SOFT_ROWS = 64


def gradient_agreement(
    evaluate: Evaluate,
    table: CostTable,
    mixture_weights: np.ndarray,
    objective_vectors: np.ndarray,
    *,
    evaluate_softly: Evaluate | None = None,
    softmin_temperature: float = 0.01,
    num_soft_minimum: int | None = None,
) -> dict[str, Json]:
    """Return quantiles of the cosine between gradients of log objective in the logits.

    The gradient in the weights goes through the softmax that made them. The softmax of a
    one-hot architecture lets nothing through; in its place stands that of equal logits, as
    in straight-through estimators. Architectures without a gradient are left out.

    Args:
        evaluate: Evaluation whose gradient is compared.
        table: Exact costs.
        mixture_weights: Architectures, one-hot or soft, float32 [B, D, O].
        objective_vectors: Objectives, float32 [B, 4].
        evaluate_softly: The evaluator's soft minimum; None if it has no other mode.
        softmin_temperature: Temperature of the exact evaluator.
        num_soft_minimum: Number of architectures compared with the soft minimum, whose
            gradient takes milliseconds each; None: all.
    Returns:
        For `hard_minimum`, `soft_minimum` and `default_with_soft_minimum`: `num` compared,
        `median`, `p10`, `p1`.
    """
    soft_minimum = ExactEvaluator(table, softmin_temperature).evaluate

    def hard_minimum(weights: tf.Tensor, vectors: tf.Tensor) -> Evaluation:
        best = best_accelerators(table, tf.stop_gradient(weights), vectors).accelerator_index
        return Evaluation(table.metrics_at(weights, best), best)

    def gradients(of: Evaluate, num: int | None = None, **size: int) -> np.ndarray:
        rows = (mixture_weights[:num], objective_vectors[:num])
        return in_chunks(lambda w, v: (logit_gradients(of, table, w, v),), *rows, **size)[0]

    def softly(of: Evaluate) -> np.ndarray:
        return gradients(of, num_soft_minimum, size=_SOFT_ROWS)

    ours, exact_soft = gradients(evaluate), softly(soft_minimum)
    ours_softly = ours[:num_soft_minimum] if evaluate_softly is None else softly(evaluate_softly)
    return {
        "hard_minimum": _cosines(ours, gradients(hard_minimum)),
        "soft_minimum": _cosines(ours_softly, exact_soft),
        "default_with_soft_minimum": _cosines(ours[:num_soft_minimum], exact_soft),
    }


def logit_gradients(
    evaluate: Evaluate,
    table: CostTable,
    mixture_weights: np.ndarray,
    objective_vectors: np.ndarray,
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


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Json]:
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


_ARCHITECTURES: dict[str, Callable[..., np.ndarray]] = {
    "one_hot": sample_one_hot,
    "soft": sample_mixtures,
}


def evaluate_evaluator(
    evaluator: ExactEvaluator | NeuralEvaluator,
    table: CostTable,
    num_architectures: int,
    seed: int,
    *,
    softmin_temperature: float = 0.01,
    num_soft_minimum: int = 500,
) -> dict[str, Json]:
    """Measure an evaluator, neural or exact.

    For one-hot and for soft architectures, and for each kind of objective:

    - per head: accuracy; entropy of the exact labels in bits and the accuracy of always
      giving the most frequent one, without which accuracy says little;
    - regret: exact objective at the generated accelerator / exact optimum - 1;
    - relative error of the metrics end to end, against the exact metrics of the
      accelerator that was generated.

    Beside these the relative error at random accelerators, and the cosine between this
    evaluator's gradient and the exact ones, over random objectives; see
    `gradient_agreement`. Under `trust`: how often large errors are flagged, on queries like
    those of the training and on others; see `assess_trust`.

    Args:
        evaluator: Evaluator to be judged.
        table: Exact costs.
        num_architectures: Number of architectures of each kind, and of queries of each
            group under `trust`.
        seed: Seed of the draws.
        softmin_temperature: Temperature of the exact evaluator compared with.
        num_soft_minimum: Number of architectures of each kind whose gradient is compared
            with the exact evaluator's; all are compared with that of the hard minimum.
    Returns:
        JSON data; errors and regrets are fractions, not percent.
    """
    if num_architectures < 1:
        raise UserError(f"num_architectures is {num_architectures}, not positive")
    report: dict[str, Json] = {
        "evaluator": evaluator.kind,
        "space": table.space.name,
        "content_hash": table.content_hash,
        "num_architectures": num_architectures,
        "num_accelerators": len(table.accelerators),
        "seed": seed,
    }
    runnable = np.flatnonzero(can_run_everything(table)).astype(np.int32)
    for place, (name, sample) in enumerate(_ARCHITECTURES.items()):
        rng = np.random.default_rng([seed, place])
        mixtures = sample(table.space, num_architectures, rng)
        objectives = {
            kind: draw_objectives(kind, num_architectures, rng) for kind in OBJECTIVE_KINDS
        }
        accelerators = rng.choice(runnable, size=num_architectures)

        def error(weights: np.ndarray, index: np.ndarray) -> tuple[np.ndarray]:
            exact = table.metrics_at(weights, index)
            return (relative_errors(evaluator.estimate(weights, index), exact),)

        report[name] = {
            "objectives": {
                kind: _summary(collect_answers(evaluator, table, mixtures, vectors), table)
                for kind, vectors in objectives.items()
            },
            "error_at_random_accelerators": _summarise_errors(
                in_chunks(error, mixtures, accelerators)[0]
            ),
            "gradient_cosine": gradient_agreement(
                evaluator.evaluate,
                table,
                mixtures,
                _products_and_linear(num_architectures, rng),
                evaluate_softly=_soft_minimum_of(evaluator, softmin_temperature),
                softmin_temperature=softmin_temperature,
                num_soft_minimum=num_soft_minimum,
            ),
        }
    report["trust"] = assess_trust(evaluator, table, num_architectures, seed)
    return report


def _soft_minimum_of(
    evaluator: ExactEvaluator | NeuralEvaluator, temperature: float
) -> Evaluate | None:
    """Return an evaluator's soft minimum as a function; None if it has but one mode."""
    if not isinstance(evaluator, NeuralEvaluator) or evaluator.shapes.generator_form == "heads":
        return None
    return functools.partial(evaluator.evaluate, forwarding="soft_minimum", temperature=temperature)


def _products_and_linear(num: int, rng: np.random.Generator) -> np.ndarray:
    """Draw random products and sums; unlike area alone, all of them have a gradient."""
    is_product = rng.integers(0, 2, size=num)[:, None] == 0
    products = draw_objectives("random_products", num, rng)
    return np.where(is_product, products, draw_objectives("random_linear", num, rng))


def _summary(answers: Answers, table: CostTable) -> dict[str, Json]:
    """Return heads, regret and end-to-end error for one kind of objective."""
    best_heads = table.accelerators.head_indices(answers.best_index)
    generated_heads = table.accelerators.head_indices(answers.generated_index)
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
    regret = answers.regret
    return {
        "heads": heads,
        "num_best_accelerators": len(np.unique(answers.best_index)),
        "regret": {
            "mean": float(regret.mean()),
            "p50": float(np.quantile(regret, 0.5)),
            "p99": float(np.quantile(regret, 0.99)),
            "max": float(regret.max()),
            "share_within_0.001": float(np.mean(regret <= 1e-3)),
        },
        "error_end_to_end": _summarise_errors(answers.errors),
    }


def _summarise_errors(errors: np.ndarray) -> dict[str, Json]:
    """Return mean and 99th percentile per metric of relative errors [N, 3]."""
    return {
        metric: {
            "mean": float(errors[:, i].mean()),
            "p99": float(np.quantile(errors[:, i], 0.99)),
        }
        for i, metric in enumerate(METRICS)
    }
