"""Candidate operations: as Keras layers of one network, and packed into a row of the supernet.

An MBConv expands by a 1x1 convolution, filters each channel, and projects by a 1x1
convolution; batch normalisation follows each of the three and the space's activation the
first two. `identity` is a strided 1x1 convolution with batch normalisation where a block
changes the shape. The identity around a skippable block is not part of either. `zero` has
no layers.

For export a network is made of stock Keras layers only, so that a saved file loads
without this package. For training, subclasses with the same variables compute the same
numbers in less time.

Source: Sandler et al. (2018), MobileNetV2, section 3; Cai et al. (2019), ProxylessNAS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from dance_tf.structs import Layer
from dance_tf.supernet.primitives import (
    activate,
    batch_norm_training,
    biased_depthwise_conv,
    biased_pointwise_conv,
    depthwise_conv,
    pointwise_conv,
)

__all__ = [
    "MOMENTUM",
    "PackedOp",
    "apply_layers",
    "conv_bn_layers",
    "kernel_shape",
    "layer_seed",
    "moved_statistics",
    "normalise",
    "op_keras_layers",
    "thinned",
]

#: Share of the old value that the moving statistics keep at each step. Lower than
#: Keras's 0.99 because an op of the supernet is trained only when it is sampled.
MOMENTUM = 0.9
_EPSILON = 1e-3


def layer_seed(seed: int, name: str) -> int:
    """Return the seed of one layer's initial weights, fixed by the run's seed and its name."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def kernel_shape(layer: Layer) -> tuple[int, int, int, int]:
    """Return the shape of a convolution's kernel in Keras."""
    if layer.kind == "depthwise":
        return layer.S, layer.R, layer.K, 1
    return layer.S, layer.R, layer.C, layer.K


def _kernel_initializer(layer: Layer, seed: int) -> keras.initializers.Initializer:
    """Return the initializer of He et al. (2015), by the outputs that each weight feeds."""
    fan_out = layer.R * layer.S * (1 if layer.kind == "depthwise" else layer.K)
    return keras.initializers.RandomNormal(
        stddev=(2.0 / fan_out) ** 0.5, seed=layer_seed(seed, layer.name)
    )


def _is_pointwise(layer: Layer) -> bool:
    return layer.kind == "conv" and layer.R == layer.S == 1 and layer.stride == (1, 1)


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
            moving.assign(moved_statistics(moving.value, batch))
        return outputs


class _PointwiseConv(keras.layers.Conv2D):
    """1x1 convolution of stride 1 without bias."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return pointwise_conv(inputs, tf.convert_to_tensor(self.kernel)[0, 0])


class _DepthwiseConv(keras.layers.DepthwiseConv2D):
    """Depthwise convolution without bias."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return depthwise_conv(inputs, tf.convert_to_tensor(self.kernel), self.strides[0])


def moved_statistics(old: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """Return moving statistics after a step."""
    return old * MOMENTUM + batch * (1.0 - MOMENTUM)


def conv_bn_layers(
    layer: Layer, *, seed: int, activation: str | None, is_for_training: bool
) -> list[keras.layers.Layer]:
    """Return a convolution with its batch normalisation and, where asked, an activation.

    Args:
        layer: Kind, shape and name; the batch and the output size are not used.
        seed: Seed of the run; the initial weights depend on it and on the layer's name.
        activation: Activation that follows, of search_space.ACTIVATIONS, or None.
        is_for_training: Fast layers instead of stock ones, of the same variables.
    """
    name = layer.name.replace("/", "_")
    initializer = _kernel_initializer(layer, seed)
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
        convolution = conv(layer.K, kernel_initializer=initializer, **arguments)
    batch_norm = _BatchNorm if is_for_training else keras.layers.BatchNormalization
    layers = [
        convolution,
        batch_norm(momentum=MOMENTUM, epsilon=_EPSILON, name=f"{name}_bn"),
    ]
    if activation is not None:
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


class PackedOp:
    """An op whose variables lie one after the other in a vector that it is given.

    Per convolution the weights are kernel, gamma, beta; the statistics are the moving
    mean and variance. The vectors may be longer than the op needs.

    Args:
        layers: Convolutions in order; none for `zero`.
        seed: Seed of the run; the initial weights are those of `op_keras_layers`.
        activation: Activation after all convolutions but the last.

    Attributes:
        layers: Convolutions of the op.
        num_weights, num_statistics: Lengths of the vectors that the op needs.
    """

    def __init__(self, layers: Sequence[Layer], *, seed: int, activation: str = "relu6") -> None:
        self.layers, self._seed, self._activation = tuple(layers), seed, activation
        self._sizes = [
            size for layer in layers for size in (_num_kernel_weights(layer), layer.K, layer.K)
        ]
        self.num_weights = sum(self._sizes)
        self.num_statistics = 2 * sum(layer.K for layer in layers)

    def initial_weights(self) -> np.ndarray:
        """Return float32 [num_weights]."""
        parts = [np.zeros(0)]
        for layer in self.layers:
            kernel = np.asarray(_kernel_initializer(layer, self._seed)(kernel_shape(layer)))
            parts += [kernel.reshape(-1), np.ones(layer.K), np.zeros(layer.K)]
        return np.concatenate(parts).astype(np.float32)

    def initial_statistics(self) -> np.ndarray:
        """Return float32 [num_statistics]."""
        parts = [np.repeat([0.0, 1.0], layer.K) for layer in self.layers]
        return np.concatenate([np.zeros(0), *parts]).astype(np.float32)

    def is_kernel(self) -> np.ndarray:
        """Return a mask of the weights of kernels, bool [num_weights]."""
        return np.repeat([True, False, False] * len(self.layers), self._sizes).astype(bool)

    def to_keras(self, weights: np.ndarray, statistics: np.ndarray) -> list[np.ndarray]:
        """Return the variables in the order of `op_keras_layers`."""
        arrays: list[np.ndarray] = []
        w = s = 0
        for layer in self.layers:
            size, channels = _num_kernel_weights(layer), layer.K
            arrays.append(weights[w : w + size].reshape(kernel_shape(layer)))
            arrays += np.split(weights[w + size : w + size + 2 * channels], 2)
            arrays += np.split(statistics[s : s + 2 * channels], 2)
            w, s = w + size + 2 * channels, s + 2 * channels
        return arrays

    def split(
        self, weights: tf.Tensor, statistics: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Split the op's vectors.

        Returns:
            Kernel, gamma and beta of each convolution, flat; mean and variance of each. The
            last part of both is the rest of the vector.
        """
        num_channels = [layer.K for layer in self.layers for _ in range(2)]
        return tf.split(weights, [*self._sizes, -1]), tf.split(statistics, [*num_channels, -1])

    def __call__(
        self, inputs: tf.Tensor, weights: tf.Tensor, statistics: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Run the op.

        Args:
            inputs: Features, float32 [B, H, W, C].
            weights: Weights, float32 [at least num_weights].
            statistics: Moving statistics, float32 [at least num_statistics].
            training: Whether to normalise by the batch instead of by `statistics`.
        Returns:
            Outputs, float32 [B, H', W', K], and the statistics that were used.
        """
        parts, (*moments, padding) = self.split(weights, statistics)
        if not training:
            return self._infer(inputs, parts, moments), statistics
        x = inputs
        for index, layer in enumerate(self.layers):
            kernel, gamma, beta = parts[3 * index : 3 * index + 3]
            if layer.kind == "depthwise":
                kernel = tf.reshape(kernel, kernel_shape(layer))
                x = depthwise_conv(x, kernel, layer.stride[0])
            else:
                x = pointwise_conv(thinned(x, layer), tf.reshape(kernel, [layer.C, layer.K]))
            at = slice(2 * index, 2 * index + 2)
            x, *moments[at] = normalise(x, gamma, beta, moments[at], training)
            if index + 1 < len(self.layers):
                x = activate(x, self._activation)
        return x, tf.stop_gradient(tf.concat([*moments, padding], axis=0))

    def _infer(
        self, x: tf.Tensor, parts: Sequence[tf.Tensor], moments: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """Run the op with each normalisation by `moments` folded into the kernel before it."""
        for index, layer in enumerate(self.layers):
            kernel, gamma, beta = parts[3 * index : 3 * index + 3]
            mean, variance = moments[2 * index : 2 * index + 2]
            scale = gamma * tf.math.rsqrt(variance + _EPSILON)
            bias = beta - mean * scale
            activation = self._activation if index + 1 < len(self.layers) else None
            if layer.kind == "depthwise":
                kernel = tf.reshape(kernel, kernel_shape(layer)) * scale[:, None]
                x = biased_depthwise_conv(x, kernel, bias, layer.stride[0], activation)
            else:
                kernel = tf.reshape(kernel, [layer.C, layer.K]) * scale
                x = biased_pointwise_conv(thinned(x, layer), kernel, bias, activation)
        return x


def thinned(inputs: tf.Tensor, layer: Layer) -> tf.Tensor:
    """Return the pixels that a 1x1 convolution of the layer's stride looks at."""
    width, height = layer.stride
    return inputs if layer.stride == (1, 1) else inputs[:, ::height, ::width]


def normalise(
    inputs: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    moments: Sequence[tf.Tensor],
    training: bool,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalise [B, H, W, C] by the batch in training, else by `moments`.

    Returns:
        Outputs, and the mean and the variance [C] that were used.
    """
    if training:
        return batch_norm_training(inputs, gamma, beta, _EPSILON)
    mean, variance = moments
    outputs = tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, _EPSILON)
    return outputs, mean, variance


def _num_kernel_weights(layer: Layer) -> int:
    return int(np.prod(kernel_shape(layer)))
