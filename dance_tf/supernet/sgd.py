"""Optimizer of network weights: SGD that leaves the rows that a step did not use alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

__all__ = ["RowSGD"]


def _is_named_kernel(variable: keras.Variable) -> np.ndarray | bool:
    return variable.name == "kernel"


class RowSGD(keras.optimizers.SGD):
    """SGD with Nesterov momentum and weight decay on kernels, row by row.

    A gradient that is tf.IndexedSlices moves its rows only: all other rows keep their
    weights and their momentum, as parameters without a gradient do. The rows of one
    gradient must differ.

        gradient = gradient + weight_decay * weight     (kernels)
        velocity = momentum * velocity - learning_rate * gradient
        weight   = weight + momentum * velocity - learning_rate * gradient

    Args:
        learning_rate: Number or schedule.
        momentum: Share of the velocity that a step keeps.
        weight_decay: Factor of the weights that is added to the gradient of kernels (L2).
        is_kernel: Function that marks the numbers of a variable that decay, by one boolean
            or an array of the variable's shape.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        is_kernel: Callable[[keras.Variable], np.ndarray | bool] = _is_named_kernel,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, nesterov=True)
        # Not Keras's own weight decay, which would move every row at every step.
        self._kernel_decay, self._is_kernel = np.float32(weight_decay), is_kernel

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make the velocities of Keras variables."""
        super().build(variables)
        self._decays = [np.asarray(self._is_kernel(v)) * self._kernel_decay for v in variables]

    def update_step(
        self,
        gradient: tf.Tensor | tf.IndexedSlices,
        variable: tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        """Update one tf.Variable by its gradient, a tensor or tf.IndexedSlices."""
        index = self._get_variable_index(variable)
        velocity, decay = self.momentums[index].value, self._decays[index]
        if not isinstance(gradient, tf.IndexedSlices):
            new = self._step(gradient, variable, velocity, decay, learning_rate)
            velocity.assign(new[0])
            variable.assign(new[1])
            return
        rows = gradient.indices
        row_decay = tf.gather(decay, rows) if decay.ndim else decay
        new = self._step(
            gradient.values,
            tf.gather(variable, rows),
            tf.gather(velocity, rows),
            row_decay,
            learning_rate,
        )
        velocity.scatter_update(tf.IndexedSlices(new[0], rows))
        variable.scatter_update(tf.IndexedSlices(new[1], rows))

    def _step(
        self,
        gradient: tf.Tensor,
        weight: tf.Tensor,
        velocity: tf.Tensor,
        decay: tf.Tensor | np.ndarray,
        learning_rate: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the new velocity and weight."""
        if isinstance(decay, tf.Tensor) or decay.any():
            gradient = gradient + decay * weight
        step = learning_rate * gradient
        velocity = self.momentum * velocity - step
        return velocity, weight + self.momentum * velocity - step
