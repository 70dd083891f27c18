"""The exact best accelerator of an architecture, hard or soft, under any objective."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import objective_values

__all__ = ["TIE_TOLERANCE", "Best", "best_accelerators"]

#: Relative difference of objectives below which accelerators are tied.
TIE_TOLERANCE = 2e-6


class Best(NamedTuple):
    """Best accelerator of each of B architectures."""

    accelerator_index: Any  # int32 [B]
    metrics: Any  # float32 [B, 3]
    value: Any  # float32 [B], the objective


def best_accelerators(table: CostTable, mixture_weights: Any, objective_vectors: Any) -> Best:
    """Return the accelerator that minimises each objective, exactly.

    Ties go to the smallest area, then energy, latency and index.

    Args:
        table: Exact costs.
        mixture_weights: float32 [B, D, O].
        objective_vectors: float32 [B, 4]; see `objective`.
    """
    metrics = table.expected_metrics(mixture_weights)
    vectors = tf.convert_to_tensor(objective_vectors, tf.float32)
    values = objective_values(vectors[:, None, :], metrics, table.reference)
    # An objective may not weigh what is infinite; the network cannot run there all the same.
    can_run = tf.reduce_all(tf.math.is_finite(metrics), axis=-1)
    values = tf.where(can_run, values, tf.fill(tf.shape(values), np.float32(np.inf)))
    index = _first_among_tied(values, metrics)
    return Best(
        accelerator_index=index,
        metrics=tf.gather(metrics, index, batch_dims=1),
        value=tf.gather(values, index, batch_dims=1),
    )


def _first_among_tied(values: tf.Tensor, metrics: tf.Tensor) -> tf.Tensor:
    smallest = tf.reduce_min(values, axis=1, keepdims=True)
    is_tied = values <= smallest * (1 + TIE_TOLERANCE)
    infinite = tf.fill(tf.shape(values), np.float32(np.inf))
    for metric in (2, 1, 0):  # area, energy, latency
        key = tf.where(is_tied, metrics[..., metric], infinite)
        is_tied &= key <= tf.reduce_min(key, axis=1, keepdims=True)
    return tf.argmax(is_tied, axis=1, output_type=tf.int32)
