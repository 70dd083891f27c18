"""Networks of a space as Keras models: their layers, their two forms, their beginnings."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SpaceConfig
from dance_tf.errors import UserError
from dance_tf.structs import Architecture
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import build_network

TINY = make_space(SpaceConfig(name="tiny_mbconv"))


def _images(space, num, seed=0):
    shape = (num, space.input_size, space.input_size, space.image_channels)
    return np.random.RandomState(seed).rand(*shape).astype(np.float32)


def _weighted(network):
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    return [layer for layer in network.layers if isinstance(layer, kinds)]


@pytest.mark.parametrize("name", ["tiny_mbconv", "cifar_mbconv_small"])
@pytest.mark.parametrize("is_for_training", [False, True])
def test_the_model_has_exactly_the_layers_of_the_space(name, is_for_training):
    space = make_space(SpaceConfig(name=name))
    for indices in space.sample(3, seed=4):
        architecture = space.from_indices(indices)
        network = build_network(space, architecture, is_for_training=is_for_training)
        num_macs = 0
        for keras_layer, layer in zip(_weighted(network), space.layers(architecture), strict=True):
            assert keras_layer.name == layer.name.replace("/", "_")
            shape, output = tuple(keras_layer.kernel.shape), keras_layer.output.shape
            if isinstance(keras_layer, keras.layers.Dense):
                assert shape == (layer.C, layer.K)
                num_macs += shape[0] * shape[1]
                continue
            is_depthwise = isinstance(keras_layer, keras.layers.DepthwiseConv2D)
            assert is_depthwise == (layer.kind == "depthwise")
            expected = (layer.K, 1) if is_depthwise else (layer.C, layer.K)
            assert shape == (layer.S, layer.R, *expected)
            assert keras_layer.strides == layer.stride
            assert output[1:] == (layer.Q, layer.P, layer.K)
            assert not keras_layer.use_bias
            num_macs += int(np.prod(shape)) * output[1] * output[2]
        assert num_macs == sum(layer.macs for layer in space.layers(architecture))


def test_the_model_for_export_is_of_stock_layers_and_ends_in_logits():
    network = build_network(TINY, TINY.from_indices([3, 6]))
    assert {type(layer).__module__.split(".")[0] for layer in network.layers} == {"keras"}
    assert network.input_shape == (None, 8, 8, 3) and network.output_shape == (None, 10)
    assert network.layers[-1].activation is keras.activations.linear
    assert not any(isinstance(layer, keras.layers.Softmax) for layer in network.layers)


def test_pixels_are_brought_to_plus_minus_one():
    network = build_network(TINY, TINY.from_indices([0, 6]))
    rescaling = next(la for la in network.layers if isinstance(la, keras.layers.Rescaling))
    np.testing.assert_allclose(rescaling(tf.constant([0.0, 0.5, 1.0])), [-1.0, 0.0, 1.0])


def test_zero_leaves_the_identity():
    """The network without the block, fed the same weights, gives the same logits."""
    without = build_network(TINY, TINY.from_indices([2, 6]), seed=1)
    with_op = build_network(TINY, TINY.from_indices([2, 4]), seed=1)
    assert len(_weighted(with_op)) == len(_weighted(without)) + 3
    with_op.get_layer("block1_mbconv7_e3_project_bn").gamma.assign(tf.zeros(16))
    images = _images(TINY, 4)
    # An op that adds nothing is no op.
    np.testing.assert_allclose(with_op(images), without(images), rtol=1e-5, atol=1e-6)


def test_a_residual_block_adds_its_input():
    network = build_network(TINY, TINY.from_indices([0, 1]))
    add = network.get_layer("block1_add")
    sources = {tensor._keras_history.operation.name for tensor in add.input}
    assert sources == {"block0_mbconv3_e3_project_bn", "block1_mbconv3_e6_project_bn"}


def _steps(network, images, num_steps=2):
    """Return logits of training steps, and the weights after them."""
    logits = []
    for _ in range(num_steps):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            loss = tf.reduce_mean(tf.square(outputs - 1.0))
        weights = network.trainable_variables
        gradients = tape.gradient(loss, [w.value for w in weights])
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(0.01 * gradient)
        logits.append(outputs.numpy())
    return logits


def test_both_forms_compute_the_same():
    architecture = TINY.from_indices([5, 2])
    stock = build_network(TINY, architecture)
    fast = build_network(TINY, architecture, is_for_training=True)
    assert [w.shape for w in fast.weights] == [w.shape for w in stock.weights]
    images = _images(TINY, 32)
    # The same seed gives both the same initial weights.
    np.testing.assert_allclose(fast(images), stock(images), rtol=1e-4, atol=1e-5)
    for a, b in zip(_steps(fast, images), _steps(stock, images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    for weight, expected in zip(fast.weights, stock.weights, strict=True):
        # The moving variance of the fused kernel is unbiased: n / (n - 1) of the other.
        tolerance = 0.02 if weight.name == "moving_variance" else 2e-3
        np.testing.assert_allclose(
            weight.numpy(), expected.numpy(), rtol=tolerance, atol=1e-4, err_msg=weight.path
        )


def test_initial_weights_are_a_function_of_the_seed():
    architecture = TINY.from_indices([0, 0])
    first, again, other = (
        build_network(TINY, architecture, seed=seed).get_weights() for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
    assert all(not np.array_equal(a, b) for a, b in kernels)
    # Layers of one shape do not begin alike.
    assert len({a.tobytes() for a, _ in kernels}) == len(kernels)


def test_an_architecture_of_another_space_is_refused():
    with pytest.raises(UserError, match="not 'tiny_mbconv'"):
        build_network(TINY, Architecture("cifar_mbconv", ("zero", "zero")))
