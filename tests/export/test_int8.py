"""Fake quantisation: the rounding that int8 TFLite does, with a gradient, and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from dance_tf.config import SpaceConfig
from dance_tf.export.int8 import as_int8, fake_quantised
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import build_network


def _rounded(x, scale):
    return np.rint(x / scale) * scale


def test_kernels_and_tensors_are_rounded_as_by_hand():
    inputs = keras.Input((3,))
    x = layers.Dense(4, use_bias=False, name="first")(inputs)
    network = keras.Model(inputs, layers.Dense(2, use_bias=False, name="last")(layers.ReLU()(x)))
    images = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    def tensor(x):
        return _rounded(x, (max(x.max(), 0) - min(x.min(), 0)) / 15)

    first, last = (
        _rounded(k, np.abs(k).max(axis=0, keepdims=True) / 7) for k in network.get_weights()
    )
    expected = tensor(images) @ first  # TFLite rounds after the activation alone
    expected = tensor(tensor(np.maximum(expected, 0)) @ last)
    np.testing.assert_allclose(fake_quantised(network, 4)(images), expected, atol=1e-6)


def test_a_depthwise_kernel_has_a_scale_for_each_channel():
    inputs = keras.Input((4, 4, 2))
    network = keras.Model(inputs, layers.DepthwiseConv2D(3, use_bias=False)(inputs))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 1)) * [[[[1.0], [1e-3]]]]
    network.set_weights([kernel])
    outputs = fake_quantised(network)(np.ones((1, 4, 4, 2), np.float32))
    exact = kernel.sum(axis=(0, 1))[:, 0]
    # With one scale for both, the second channel would be 0.
    scales = np.abs(kernel).max(axis=(0, 1))[:, 0] / 127
    rounded = (np.rint(kernel[..., 0] / scales) * scales).sum(axis=(0, 1))
    step = (max(exact.max(), 0) - min(exact.min(), 0)) / 255
    np.testing.assert_allclose(outputs[0, 0, 0], rounded, atol=0.51 * step)


def test_words_of_16_bits_lose_next_to_nothing_and_gradients_reach_every_variable():
    space = make_space(SpaceConfig(name="tiny_mbconv"))
    network = build_network(space, space.from_indices([0, 2]), seed=1)
    images = np.random.default_rng(0).random((16, 8, 8, 3)).astype(np.float32)
    exact = np.asarray(network(images, training=False))
    errors = []
    for bits in (8, 12, 16):
        with tf.GradientTape() as tape:
            outputs = fake_quantised(network, bits)(tf.constant(images))
            loss = tf.reduce_sum(outputs**2)
        errors.append(float(np.abs(outputs - exact).max() / np.abs(exact).max()))
        gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
        assert all(float(tf.reduce_max(tf.abs(gradient))) > 0 for gradient in gradients)
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[2] < 1e-3


def test_errors_are_of_the_size_of_those_of_the_int8_file():
    space = make_space(SpaceConfig(name="tiny_mbconv"))
    network = build_network(space, space.from_indices([0, 2]), seed=1)
    images = np.random.default_rng(0).random((64, 8, 8, 3)).astype(np.float32)
    exact = np.asarray(network(images, training=False))
    with as_int8(network, images) as classifier:
        of_file = np.std(classifier.predict(images) - exact)
    of_twin = np.std(fake_quantised(network)(tf.constant(images)) - exact)
    assert 0.5 < of_twin / of_file < 2
