"""An evaluator that is told which accelerators may be chosen: within limits, or one alone.

The hardware generation network knows neither limits nor a fixed accelerator, so the
accelerator is looked up in the table; the cost is still the evaluator's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.hardware.objective import Limits
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import Evaluation

__all__ = ["ChosenEvaluator"]


class ChosenEvaluator:
    """Evaluator on the exact best accelerator that is within limits, or on a fixed one.

    Where no accelerator runs the network within the limits, it is the one within the limit
    on the area that exceeds the others least: there the network can be made cheaper.

    Args:
        evaluator: What has `estimate`, as both evaluators do.
        table: hardware.cost_table.CostTable.
        limits: What a network may cost.
        fixed_index: Row of the only accelerator; None: all.
    """

    def __init__(
        self, evaluator: Any, table: Any, limits: Limits, fixed_index: int | None = None
    ) -> None:
        self.kind = evaluator.kind
        self._evaluator, self._table = evaluator, table
        self._limits, self._fixed_index = limits, fixed_index
        is_in_area = np.asarray(table.area_mm2, np.float32) <= limits.vector[2]
        self._set_back = tf.constant(np.where(is_in_area, 0.0, np.inf), tf.float32)  # [A]

    def evaluate(self, mixture_weights: Any, objective_vectors: Any) -> Evaluation:
        """Evaluate mixture weights float32 [B, D, O] under objectives float32 [B, 4]."""
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        index = self._choose(tf.stop_gradient(weights), objective_vectors)
        return Evaluation(self.estimate(weights, index), index)

    def estimate(self, mixture_weights: Any, accelerator_index: Any) -> tf.Tensor:
        """Return the expected metrics, float32 [B, 3], at one accelerator per row [B]."""
        return self._evaluator.estimate(mixture_weights, accelerator_index)

    def _choose(self, weights: tf.Tensor, objective_vectors: Any) -> tf.Tensor:
        if self._fixed_index is not None:
            return tf.fill(tf.shape(weights)[:1], self._fixed_index)
        best = best_accelerators(self._table, weights, objective_vectors, self._limits)
        metrics = self._table.expected_metrics(weights)[..., :2]
        shares = tf.where(tf.math.is_finite(metrics), metrics / self._limits.vector[:2], np.inf)
        excess = tf.reduce_max(shares, axis=-1) + self._set_back
        nearest = tf.argmin(excess, axis=1, output_type=tf.int32)
        return tf.where(best.is_feasible, tf.cast(best.accelerator_index, tf.int32), nearest)
