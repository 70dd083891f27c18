"""Searches by gradient that run side by side: their trade-offs, their temperature, their steps.

Adam in a loop of tensors, so that one traced function takes all steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from dance_tf.search.strategies.problem import Goal

__all__ = ["CANNOT_RUN", "cost_weights", "descended"]

#: Stands for a latency or an energy that is infinite.
CANNOT_RUN = 1e6

#: Weights of log(cost) of the searches for a front, log-uniform between these.
_LEAST_WEIGHT, _LARGEST_WEIGHT = 0.005, 1.5

_LEARNING_RATE = 0.2
_FIRST_TEMPERATURE, _LAST_TEMPERATURE = 1.0, 0.2


def cost_weights(goal: Goal, num: int, rng: np.random.Generator) -> np.ndarray:
    """Return the goal's cost_weight for each of some searches, or draw them for a front, [num]."""
    if goal.cost_weight is not None:
        return np.full(num, goal.cost_weight)
    least, largest = np.log(_LEAST_WEIGHT), np.log(_LARGEST_WEIGHT)
    return np.exp(rng.uniform(least, largest, size=num))


def descended(
    start: tf.Tensor,
    num_steps: int,
    losses: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Return variables after all steps of Adam, float32 of the shape of `start`.

    Args:
        start: Variables of all searches, float32 [B, ...].
        num_steps: Number of steps.
        losses: Function from the variables, the number of the step, int32 [], and its
            temperature, float32 [], to the losses of the searches [B].
    """

    def step(
        number: tf.Tensor, variables: tf.Tensor, mean: tf.Tensor, square: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        share = tf.cast(number, tf.float32) / num_steps
        temperature = _FIRST_TEMPERATURE * (_LAST_TEMPERATURE / _FIRST_TEMPERATURE) ** share
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = tf.reduce_sum(losses(variables, number, temperature))
        gradient = tf.convert_to_tensor(tape.gradient(loss, variables))
        count = tf.cast(number + 1, tf.float32)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        scaled = mean / (1 - 0.9**count) / (tf.sqrt(square / (1 - 0.99**count)) + 1e-8)
        return number + 1, variables - _LEARNING_RATE * scaled, mean, square

    zeros = tf.zeros_like(start)
    state = (tf.constant(0), start, zeros, zeros)
    return tf.while_loop(lambda number, *_: number < num_steps, step, state)[1]
