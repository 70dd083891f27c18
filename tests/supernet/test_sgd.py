"""The optimizer against a plain twin, and its silence about rows without a gradient."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from dance_tf.supernet.sgd import RowSGD


def _twin(weight, velocity, gradient, *, learning_rate, decay):
    """Return weight and velocity after a step of Nesterov's momentum, as PyTorch has it."""
    gradient = gradient + decay * weight
    velocity = 0.9 * velocity - learning_rate * gradient
    return weight + 0.9 * velocity - learning_rate * gradient, velocity


@pytest.mark.parametrize("name", ["kernel", "gamma"])
def test_dense_steps_equal_the_twin_and_only_kernels_decay(name):
    variable = keras.Variable(np.array([1.0, -2.0], np.float32), name=name)
    optimizer = RowSGD(0.1, weight_decay=0.5)
    optimizer.build([variable])
    weight, velocity = variable.numpy(), np.zeros(2, np.float32)
    for gradient in ([0.5, 0.5], [-1.0, 0.0], [0.0, 2.0]):
        optimizer.apply([tf.constant(gradient)], [variable])
        weight, velocity = _twin(
            weight,
            velocity,
            np.asarray(gradient, np.float32),
            learning_rate=0.1,
            decay=0.5 if name == "kernel" else 0.0,
        )
        np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-6)


def test_rows_without_a_gradient_do_not_move_and_the_others_do_as_alone():
    start = np.arange(1.0, 7.0, dtype=np.float32).reshape(3, 2)
    variable = keras.Variable(start, name="rows")
    is_kernel = np.array([[True, False]] * 3)
    optimizer = RowSGD(0.1, weight_decay=0.5, is_kernel=lambda v: is_kernel)
    optimizer.build([variable])
    weight, velocity = start.copy(), np.zeros_like(start)
    for row, gradient in ((1, [1.0, 1.0]), (0, [2.0, -1.0]), (1, [0.0, 0.0])):
        before = variable.numpy()
        optimizer.apply(
            [tf.IndexedSlices(tf.constant([gradient]), tf.constant([row]), tf.constant([3, 2]))],
            [variable],
        )
        others = [r for r in range(3) if r != row]
        assert np.array_equal(variable.numpy()[others], before[others])  # momentum or not
        weight[row], velocity[row] = _twin(
            weight[row],
            velocity[row],
            np.asarray(gradient, np.float32),
            learning_rate=0.1,
            decay=np.array([0.5, 0.0], np.float32),
        )
        np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-6)
    assert np.array_equal(variable.numpy()[2], start[2])


def test_the_schedule_counts_steps():
    variable = keras.Variable(np.zeros(1, np.float32), name="gamma")
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.0])
    optimizer = RowSGD(schedule)
    optimizer.build([variable])
    weight = velocity = np.zeros(1, np.float32)
    for step in range(4):
        optimizer.apply([tf.constant([1.0])], [variable])
        learning_rate = 1.0 if step <= 1 else 0.0
        weight, velocity = _twin(weight, velocity, 1.0, learning_rate=learning_rate, decay=0.0)
        np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-6)
    assert int(optimizer.iterations.numpy()) == 4
