"""Candidate operations as Keras layers of one network.

For export a network is made of stock Keras layers only, so that a saved file loads
without this package. For training, subclasses with the same variables compute the same
numbers in less time.

Source: Sandler et al. (2018), MobileNetV2, section 3; Cai et al. (2019), ProxylessNAS.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from dance_tf.structs import Layer
from dance_tf.supernet.candidate_ops import ChainOp, SqueezeExcite
from dance_tf.supernet.primitives import (
    batch_norm_training,
    depthwise_conv,
    pointwise_conv,
)
from dance_tf.supernet.search_space import NetworkSpace

__all__ = [
    "EPSILON",
    "MOMENTUM",
    "apply_layers",
    "apply_op",
    "conv_bn_layers",
    "kernel_initializer",
    "kernel_shape",
    "layer_seed",
    "moved_statistics",
    "op_keras_layers",
]

#: Share of the old value that the moving statistics keep at each step. Lower than
#: Keras's 0.99 because an op of the supernet is trained only when it is sampled.
MOMENTUM = 0.9
EPSILON = 1e-3


def layer_seed(seed: int, name: str) -> int:
    """Return the seed of one layer's initial weights, fixed by the run's seed and its name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def kernel_shape(layer: Layer) -> tuple[int, int, int, int]:
    """Return the shape of a convolution's kernel in Keras."""
    if layer.kind == "depthwise":
        return layer.S, layer.R, layer.K, 1
    return layer.S, layer.R, layer.C, layer.K


def kernel_initializer(layer: Layer, seed: int) -> keras.initializers.Initializer:
    """Return the initializer of He et al. (2015), by the outputs that each weight feeds."""
    fan_out = layer.R * layer.S * (1 if layer.kind == "depthwise" else layer.K // layer.groups)
    return keras.initializers.RandomNormal(
        stddev=(2.0 / fan_out) ** 0.5, seed=layer_seed(seed, layer.name)
    )


def _is_pointwise(layer: Layer) -> bool:
    is_small = layer.R == layer.S == layer.groups == 1
    return layer.kind == "conv" and is_small and layer.stride == (1, 1)


class _BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation that trains with the fused kernel."""

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        if not training:
            return super().call(inputs, training=False)
        outputs, mean, variance = batch_norm_training(
            inputs, tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta), self.epsilon
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moved_statistics(moving.value, batch, self.momentum))
        return outputs


class _PointwiseConv(keras.layers.Conv2D):
    """1x1 convolution of stride 1 without bias."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return pointwise_conv(inputs, tf.convert_to_tensor(self.kernel)[0, 0])


class _DepthwiseConv(keras.layers.DepthwiseConv2D):
    """Depthwise convolution without bias."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return depthwise_conv(inputs, tf.convert_to_tensor(self.kernel), self.strides[0])


def moved_statistics(old: tf.Tensor, batch: tf.Tensor, momentum: float = MOMENTUM) -> tf.Tensor:
    """Return moving statistics after a step."""
    return old * momentum + batch * (1.0 - momentum)


def conv_bn_layers(
    layer: Layer, *, seed: int, activation: str | None, is_for_training: bool
) -> list[keras.layers.Layer]:
    """Return a convolution with its batch normalisation and, where asked, an activation.

    Args:
        layer: Kind, shape and name; the batch and the output size are not used.
        seed: Seed of the run; the initial weights depend on it and on the layer's name.
        activation: Activation that follows, of candidate_ops.ACTIVATIONS, or None.
        is_for_training: Fast layers instead of stock ones, of the same variables.
    """
    name = layer.name.replace("/", "_")
    initializer = kernel_initializer(layer, seed)
    arguments = dict(
        kernel_size=(layer.S, layer.R),
        strides=(layer.stride[1], layer.stride[0]),
        padding="same",
        use_bias=False,
        name=name,
    )
    convolution: keras.layers.Layer
    if layer.kind == "depthwise":
        depthwise = _DepthwiseConv if is_for_training else keras.layers.DepthwiseConv2D
        convolution = depthwise(depthwise_initializer=initializer, **arguments)
    else:
        is_fast = is_for_training and _is_pointwise(layer)
        conv = _PointwiseConv if is_fast else keras.layers.Conv2D
        convolution = conv(
            layer.K, kernel_initializer=initializer, groups=layer.groups, **arguments
        )
    batch_norm = _BatchNorm if is_for_training else keras.layers.BatchNormalization
    layers = [
        convolution,
        batch_norm(momentum=MOMENTUM, epsilon=EPSILON, name=f"{name}_bn"),
    ]
    if activation == "hard_swish":
        layers.append(keras.layers.Activation(activation, name=f"{name}_{activation}"))
    elif activation is not None:
        most = 6.0 if activation == "relu6" else None
        layers.append(keras.layers.ReLU(max_value=most, name=f"{name}_{activation}"))
    return layers


def op_keras_layers(
    layers: Sequence[Layer], *, seed: int, activation: str, is_for_training: bool
) -> list[keras.layers.Layer]:
    """Return an op as a chain of Keras layers.

    Args:
        layers: Convolutions in order; the expansion is left out where it is 1.
        seed: Seed of the run.
        activation: Activation after all convolutions but the last.
        is_for_training: Fast layers instead of stock ones, of the same variables.
    """
    return [
        keras_layer
        for layer in layers
        for keras_layer in conv_bn_layers(
            layer,
            seed=seed,
            activation=None if layer is layers[-1] else activation,
            is_for_training=is_for_training,
        )
    ]


def apply_layers(
    layers: Sequence[keras.layers.Layer], inputs: tf.Tensor, training: bool | None = None
) -> tf.Tensor:
    """Return the outputs of a chain of layers for tensors or for symbolic inputs."""
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            inputs = layer(inputs, training=training)
        else:
            inputs = layer(inputs)
    return inputs


def apply_op(
    space: NetworkSpace,
    block_index: int,
    op_name: str,
    inputs: keras.KerasTensor,
    *,
    seed: int,
    is_for_training: bool,
) -> keras.KerasTensor:
    """Return the outputs of an op at a block, without the identity around the block.

    Args:
        space: Network space.
        block_index: Index of the block.
        op_name: Op that the block has.
        inputs: Symbolic inputs [B, H, W, C].
        seed: Seed of the run, from which the initial weights come.
        is_for_training: Fast layers instead of stock ones, of the same variables.
    """
    op, block = space.op(op_name), space.blocks[block_index]
    prefix = f"block{block_index}/{op_name}"
    if not isinstance(op, ChainOp):
        with _seeded(layer_seed(seed, prefix)):
            return op.build(inputs, block, prefix.replace("/", "_"))
    x = inputs
    for step in op.steps(block, prefix, space.activation):
        if isinstance(step, SqueezeExcite):
            x = _squeeze_excite(step, x, seed)
        else:
            layers = conv_bn_layers(
                step.layer, seed=seed, activation=step.activation, is_for_training=is_for_training
            )
            x = apply_layers(layers, x)
    shortcut = op.shortcut(block, prefix)
    if shortcut is None:
        return x
    layers = conv_bn_layers(shortcut, seed=seed, activation=None, is_for_training=is_for_training)
    name = f"{prefix}/sum".replace("/", "_")
    return keras.layers.Add(name=name)([x, apply_layers(layers, inputs)])


def _squeeze_excite(step: SqueezeExcite, x: keras.KerasTensor, seed: int) -> keras.KerasTensor:
    """Multiply each channel by its factor; see candidate_ops.SqueezeExcite."""
    squeeze = step.reduce.name.replace("/", "_")
    factors = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{squeeze}_pool")(x)
    for layer, activation in ((step.reduce, "relu"), (step.expand, "hard_sigmoid")):
        dense = keras.layers.Conv2D(
            layer.K,
            1,
            activation=activation,
            kernel_initializer=kernel_initializer(layer, seed),
            name=layer.name.replace("/", "_"),
        )
        factors = dense(factors)
    return keras.layers.Multiply(name=f"{squeeze}_scale")([x, factors])


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Fix the initial weights of layers that do not name a seed of their own."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
