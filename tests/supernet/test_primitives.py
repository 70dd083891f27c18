"""The fast training operations against TensorFlow's plain ones: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.supernet.primitives import (
    batch_norm_training,
    biased_depthwise_conv,
    biased_pointwise_conv,
    blended_depthwise_conv,
    depthwise_conv,
    pointwise_conv,
)


def _normal(*shape, seed=0):
    return tf.constant(np.random.RandomState(seed).randn(*shape).astype(np.float32))


def _value_and_gradients(function, *inputs):
    """Return the outputs, and the gradients of a fixed weighting of them."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
        loss = tf.reduce_sum(outputs * _normal(*outputs.shape, seed=1))
    return [outputs, *tape.gradient(loss, inputs)]


def _assert_same(fast, plain):
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(tf.reduce_max(tf.abs(b))))


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [2, 5, 8])
def test_depthwise_conv(kernel, stride, size):
    inputs, filters = _normal(3, size, size, 4), _normal(kernel, kernel, 4, 1)
    _assert_same(
        _value_and_gradients(lambda x, w: depthwise_conv(x, w, stride), inputs, filters),
        _value_and_gradients(
            lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], "SAME"),
            inputs,
            filters,
        ),
    )


@pytest.mark.parametrize("num_rings", [0, 1, 2])
@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 8), (2, 5), (2, 2)])
def test_blended_depthwise_conv(num_rings, stride, size):
    inputs, shares = _normal(3, size, size, 4), _normal(num_rings, seed=2)
    kernels = [_normal(k, k, 4, 1, seed=k) for k in (3, 5, 7)[: num_rings + 1]]

    def plain(x, factors, core, *rings):
        strides = [1, stride, stride, 1]
        outputs = tf.nn.depthwise_conv2d(x, core, strides, "SAME")
        for index, ring in enumerate(rings):
            outputs += factors[index] * tf.nn.depthwise_conv2d(x, ring, strides, "SAME")
        return outputs + 0.0 * tf.reduce_sum(factors)

    _assert_same(
        _value_and_gradients(
            lambda x, factors, core, *rings: blended_depthwise_conv(
                x, core, rings, factors, stride
            ),
            inputs,
            shares,
            *kernels,
        ),
        _value_and_gradients(plain, inputs, shares, *kernels),
    )


def test_pointwise_conv():
    inputs, kernel = _normal(3, 4, 4, 5), _normal(5, 6)
    _assert_same(
        _value_and_gradients(pointwise_conv, inputs, kernel),
        _value_and_gradients(
            lambda x, w: tf.nn.conv2d(x, w[None, None], 1, "SAME"), inputs, kernel
        ),
    )


@pytest.mark.parametrize("activation", [None, "relu6", "relu"])
def test_convolutions_with_bias(activation):
    inputs, bias = _normal(3, 4, 4, 5), _normal(6)
    clip = {None: tf.identity, "relu6": tf.nn.relu6, "relu": tf.nn.relu}[activation]
    kernel, filters = _normal(5, 6), _normal(3, 3, 5, 1)
    expected = clip(pointwise_conv(inputs, kernel) + bias)
    found = tf.function(biased_pointwise_conv)(inputs, kernel, bias, activation)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    expected = clip(depthwise_conv(inputs, filters, 2) + bias[:5])
    found = tf.function(biased_depthwise_conv)(inputs, filters, bias[:5], 2, activation)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_batch_norm_training():
    inputs, gamma, beta = _normal(8, 4, 4, 5), _normal(5), _normal(5)

    def plain(x, scale, offset):
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        return tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-3)

    _assert_same(
        _value_and_gradients(
            lambda x, scale, offset: batch_norm_training(x, scale, offset, 1e-3)[0],
            inputs,
            gamma,
            beta,
        ),
        _value_and_gradients(plain, inputs, gamma, beta),
    )
    _, mean, variance = batch_norm_training(inputs, gamma, beta, 1e-3)
    np.testing.assert_allclose(mean, tf.reduce_mean(inputs, [0, 1, 2]), atol=1e-5)
    np.testing.assert_allclose(
        variance, np.var(inputs.numpy(), axis=(0, 1, 2), ddof=1), rtol=1e-4
    )  # unbiased
