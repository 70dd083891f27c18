"""The exact evaluator: the whole cost table, and a soft minimum over its accelerators.

No training and no error: at a one-hot mixture it returns the metrics of the exact best
accelerator; at a mixture the expected metrics, averaged over the accelerators that are
nearly the best there.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import objective_values
from dance_tf.hardware.oracle import TIE_TOLERANCE, best_accelerators
from dance_tf.structs import Evaluation, Trust

__all__ = ["ExactEvaluator", "mixture_softness", "soft_minimum"]

# Least temperature, which that of a one-hot mixture is.
_TEMPERATURE_FLOOR = 1e-8

# Log value by which every accelerator but the oracle's choice is set back: far above the
# temperature at a one-hot mixture, so that equally good accelerators get no share there, and
# far below the temperature at softer mixtures.
_TIE_MARGIN = 2 * TIE_TOLERANCE


def mixture_softness(mixture_weights: ArrayLike, op_mask: np.ndarray) -> tf.Tensor:
    """Return the distance of mixtures from one-hot: 0 at one-hot, 1 at uniform.

    (1 - sum_o w_o**2) / (1 - 1 / num_ops), averaged over the blocks that have a choice.

    Args:
        mixture_weights: Shares of the ops, float32 [B, D, O].
        op_mask: True for the candidate ops that each block has, bool [D, O].
    Returns:
        float32 [B], smooth in the weights.
    """
    counts = np.asarray(op_mask).sum(axis=1)
    share = np.where(counts > 1, counts / np.maximum(counts - 1, 1), 0.0)
    share = (share / max((counts > 1).sum(), 1)).astype(np.float32)
    impurity = 1.0 - tf.reduce_sum(tf.square(mixture_weights), axis=-1)
    return tf.maximum(tf.reduce_sum(impurity * share, axis=-1), 0.0)


def soft_minimum(
    metrics: tf.Tensor,
    vectors: tf.Tensor,
    reference: ArrayLike,
    best: tf.Tensor,
    temperature: tf.Tensor,
) -> tf.Tensor:
    """Return metrics averaged over the accelerators that are nearly the best, float32 [B, 3].

    The formula is that of ExactEvaluator; infinite where no accelerator can run the network.

    Args:
        metrics: Metrics of the accelerators to average over, float32 [B, N, 3].
        vectors: Objectives, float32 [B, 4].
        reference: Metrics that normalise the objectives, [3].
        best: Position of the best accelerator among the N, int32 [B].
        temperature: Relative difference in the objective that is overlooked, float32 [B].
    """
    reference = tf.convert_to_tensor(reference, tf.float32)
    # Accelerators that cannot run the network get harmless metrics and no weight:
    # infinity times a weight of 0 is not a number, and neither is its gradient.
    can_run = tf.reduce_all(tf.math.is_finite(metrics), axis=-1)
    metrics = tf.where(can_run[..., None], metrics, reference)
    values = objective_values(vectors[:, None, :], metrics, reference)
    least = tf.reduce_min(tf.where(can_run, values, values.dtype.max), axis=1, keepdims=True)
    least = tf.stop_gradient(least)  # A common factor, which the softmax cancels.
    gaps = tf.math.log1p((values - least) / least)
    is_best = tf.one_hot(best, tf.shape(values)[1], on_value=True, off_value=False)
    gaps += tf.where(is_best, 0.0, _TIE_MARGIN)
    scores = -gaps / (temperature[:, None] + _TEMPERATURE_FLOOR)
    shares = tf.nn.softmax(tf.where(can_run, scores, scores.dtype.min), axis=1)[..., None]

    # Ratios to the best accelerator: nothing is rounded where it has the whole share.
    at_best = tf.gather(metrics, best, axis=1, batch_dims=1)
    ratios = metrics / at_best[:, None, :]
    linear = 1.0 + tf.reduce_sum(shares * (ratios - 1.0), axis=1)
    product = tf.exp(tf.reduce_sum(shares * tf.math.log(ratios), axis=1))
    mixed = at_best * tf.where(vectors[:, :1] > 0.5, linear, product)
    can_any_run = tf.reduce_any(can_run, axis=1, keepdims=True)
    return tf.where(can_any_run, mixed, np.float32(np.inf))


class ExactEvaluator:
    """Evaluator that reads the whole cost table: no training and no error.

    With the value v_a of the objective for each accelerator a,

        gap_a = log(v_a / min(v))
        p_a = softmax(-gap_a / (softmin_temperature * softness(w)))
        metric_i = exp(sum_a p_a log m_ai)      (products)
        metric_i = sum_a p_a m_ai               (linear objectives)

    The mean that fits the objective makes log v (products) or v (linear) of the returned
    metrics the p-weighted mean of that of the accelerators: a soft minimum without a
    bump where the best accelerator changes. The temperature follows the softness, so the
    minimum hardens as the search decides, and as the softmax that makes the weights
    flattens at the same pace, its gradient in the logits stays bounded.

    >>> from dance_tf import EDAP, load_or_build_table, make_space
    >>> from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, SpaceConfig
    >>> accelerators = AcceleratorSpaceConfig((8,), (8,), (64,), ("row_stationary",))
    >>> space = make_space(SpaceConfig("tiny_mbconv"))
    >>> table = load_or_build_table(space, HardwareConfig(accelerators=accelerators))
    >>> network = table.one_hot(space.sample(1, seed=0))
    >>> evaluation = ExactEvaluator(table).evaluate(network, EDAP.vector[None])
    >>> table.accelerators.decode(int(evaluation.accelerator_index[0]))
    Accelerator(pe_x=8, pe_y=8, rf_bytes=64, dataflow='row_stationary')
    """

    kind = "exact"

    def __init__(
        self, table: CostTable, softmin_temperature: float = 0.01, reason: str | None = None
    ) -> None:
        """Make an evaluator of a table.

        Args:
            table: Exact costs.
            softmin_temperature: Relative difference in the objective that a uniform
                mixture overlooks; smaller is harder.
            reason: Sentence that says why it stands in for a neural evaluator; None: it was
                asked for.
        """
        if not softmin_temperature > 0:
            raise UserError(f"evaluator.softmin_temperature is {softmin_temperature}, not positive")
        self.table = table
        self.softmin_temperature = float(softmin_temperature)
        self.reason = reason

    def evaluate(self, mixture_weights: ArrayLike, objective_vectors: ArrayLike) -> Evaluation:
        """Evaluate architectures under objectives.

        Args:
            mixture_weights: Architectures, float32 [B, D, O]; rows over O sum to one,
                forbidden ops are 0.
            objective_vectors: Objectives, float32 [B, 4]; see hardware.objective.
        Returns:
            Metrics float32 [B, 3], differentiable in the mixture weights, and the index
            of the best accelerator, int32 [B]. Infinite where no accelerator can run it.
        """
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        vectors = tf.convert_to_tensor(objective_vectors, tf.float32)
        best, _, _ = best_accelerators(self.table, tf.stop_gradient(weights), vectors)
        best = tf.cast(best, tf.int32)
        metrics = self.table.expected_metrics(weights)  # [B, A, 3]
        reference = tf.constant(self.table.reference, tf.float32)
        temperature = self.softmin_temperature * mixture_softness(weights, self.table.space.op_mask)
        return Evaluation(soft_minimum(metrics, vectors, reference, best, temperature), best)

    def estimate(self, mixture_weights: ArrayLike, accelerator_index: ArrayLike) -> tf.Tensor:
        """Return the expected metrics, float32 [B, 3], at one accelerator per row [B]."""
        return self.table.metrics_at(mixture_weights, accelerator_index)

    def trust(
        self, mixture_weights: ArrayLike, objective_vectors: ArrayLike, evaluation: Evaluation
    ) -> Trust:
        """Return full trust in every answer; arguments as for a NeuralEvaluator."""
        del mixture_weights, objective_vectors
        nothing = tf.zeros(tf.shape(evaluation.accelerator_index), tf.float32)
        return Trust(nothing, nothing, tf.ones_like(nothing, tf.bool))
