"""Candidate operations packed into a row of the supernet.

Chains of 1x1 and depthwise convolutions have a packed form of their own, which folds the
normalisations into the kernels in inference. Every other op, a user's own among them, is run
as the Keras layers that it builds, with slices of the row in place of their variables.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.structs import Layer
from dance_tf.supernet.candidate_ops import ChainOp, Convolution
from dance_tf.supernet.ops import EPSILON, apply_op, kernel_initializer, kernel_shape
from dance_tf.supernet.primitives import (
    activate,
    batch_norm_training,
    biased_depthwise_conv,
    biased_pointwise_conv,
    depthwise_conv,
    pointwise_conv,
)
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["KerasOp", "PackedOp", "normalise", "packed_op", "thinned"]


def packed_op(
    space: NetworkSpace, block_index: int, op_name: str, *, seed: int
) -> PackedOp | KerasOp:
    """Return the packed form of an op at a block; one without weights where it lacks the op."""
    if not space.op_mask[block_index, space.op_names.index(op_name)]:
        return PackedOp((), seed=seed)
    op, block = space.op(op_name), space.blocks[block_index]
    if not isinstance(op, ChainOp):
        return KerasOp(space, block_index, op_name, seed=seed)
    prefix = f"block{block_index}/{op_name}"
    steps = op.steps(block, prefix, space.activation)
    activation = getattr(op, "activation", None) or space.activation
    wanted = [activation] * (len(steps) - 1) + [None] * bool(steps)
    is_plain = all(
        isinstance(step, Convolution) and step.activation == own and _is_packable(step.layer)
        for step, own in zip(steps, wanted, strict=True)
    )
    if not is_plain or op.shortcut(block, prefix) is not None:
        return KerasOp(space, block_index, op_name, seed=seed)
    return PackedOp(op.layers(block, prefix), seed=seed, activation=activation)


def _is_packable(layer: Layer) -> bool:
    return layer.kind == "depthwise" or layer.R == layer.S == layer.groups == 1


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
        is_empty: Whether there are none.
        num_weights, num_statistics: Lengths of the vectors that the op needs.
    """

    def __init__(self, layers: Sequence[Layer], *, seed: int, activation: str = "relu6") -> None:
        self.layers, self._seed, self._activation = tuple(layers), seed, activation
        self._sizes = [
            size for layer in layers for size in (_num_kernel_weights(layer), layer.K, layer.K)
        ]
        self.is_empty = not self.layers
        self.num_weights = sum(self._sizes)
        self.num_statistics = 2 * sum(layer.K for layer in layers)

    def initial_weights(self) -> np.ndarray:
        """Return float32 [num_weights]."""
        parts = [np.zeros(0)]
        for layer in self.layers:
            kernel = np.asarray(kernel_initializer(layer, self._seed)(kernel_shape(layer)))
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

    def keras_weights(
        self, weights: np.ndarray, statistics: np.ndarray
    ) -> dict[str, list[np.ndarray]]:
        """Return the variables of each layer of `op_keras_layers` that has any, by its name."""
        arrays, found = self.to_keras(weights, statistics), {}
        for index, layer in enumerate(self.layers):
            name = layer.name.replace("/", "_")
            found[name] = arrays[5 * index : 5 * index + 1]
            found[f"{name}_bn"] = arrays[5 * index + 1 : 5 * index + 5]
        return found

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
            scale = gamma * tf.math.rsqrt(variance + EPSILON)
            bias = beta - mean * scale
            activation = self._activation if index + 1 < len(self.layers) else None
            if layer.kind == "depthwise":
                kernel = tf.reshape(kernel, kernel_shape(layer)) * scale[:, None]
                x = biased_depthwise_conv(x, kernel, bias, layer.stride[0], activation)
            else:
                kernel = tf.reshape(kernel, [layer.C, layer.K]) * scale
                x = biased_pointwise_conv(thinned(x, layer), kernel, bias, activation)
        return x


class KerasOp:
    """An op run as the Keras layers that it builds, on variables that lie in a vector.

    Weights are the trainable variables one after the other, statistics the others.

    Args:
        space: Network space.
        block_index: Index of the block.
        op_name: Op that the block has.
        seed: Seed of the run.
    Raises:
        UserError: If the outputs do not have the block's shape, or the op draws random
            numbers.
    """

    is_empty = False

    def __init__(self, space: NetworkSpace, block_index: int, op_name: str, *, seed: int) -> None:
        block = space.blocks[block_index]
        inputs = keras.Input((*block.input_shape, block.in_channels))
        outputs = apply_op(space, block_index, op_name, inputs, seed=seed, is_for_training=True)
        expected = (None, *block.output_shape, block.out_channels)
        if tuple(outputs.shape) != expected:
            raise UserError(
                f"op {op_name!r} gives outputs {tuple(outputs.shape)} at block {block_index},"
                f" which has {expected}"
            )
        self._model = keras.Model(inputs, outputs)
        _keep_only_the_batch(self._model)
        self._weights = list(self._model.trainable_variables)
        self._others = list(self._model.non_trainable_variables)
        if any(v.dtype != "float32" for v in (*self._weights, *self._others)):
            raise UserError(f"op {op_name!r} has variables that are not float32, or random numbers")
        self.num_weights = sum(map(_size, self._weights))
        self.num_statistics = sum(map(_size, self._others))

    def initial_weights(self) -> np.ndarray:
        """Return float32 [num_weights]."""
        return _flattened(self._weights)

    def initial_statistics(self) -> np.ndarray:
        """Return float32 [num_statistics]."""
        return _flattened(self._others)

    def is_kernel(self) -> np.ndarray:
        """Return a mask of the weights of kernels, bool [num_weights]."""
        sizes = [_size(v) for v in self._weights]
        return np.repeat([v.name == "kernel" for v in self._weights], sizes).astype(bool)

    def keras_weights(
        self, weights: np.ndarray, statistics: np.ndarray
    ) -> dict[str, list[np.ndarray]]:
        """Return the variables of each layer that has any, by its name."""
        values = {}
        for variables, vector in ((self._weights, weights), (self._others, statistics)):
            ends = np.cumsum([0, *map(_size, variables)])
            for variable, start in zip(variables, ends[:-1], strict=True):
                part = np.asarray(vector[start : start + _size(variable)])
                values[id(variable)] = part.reshape(variable.shape)
        return {
            layer.name: [values[id(variable)] for variable in layer.weights]
            for layer in self._model.layers
            if layer.weights
        }

    def __call__(
        self, inputs: tf.Tensor, weights: tf.Tensor, statistics: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Run the op; see PackedOp."""
        values = _split_as(self._weights, weights)
        others = _split_as(self._others, statistics)
        outputs, used = self._model.stateless_call(values, others, inputs, training=training)
        if not training:
            return outputs, statistics
        flat = [tf.reshape(value, [-1]) for value in used]
        rest = statistics[self.num_statistics :]
        return outputs, tf.stop_gradient(tf.concat([*flat, rest], axis=0))


def _keep_only_the_batch(layer: keras.layers.Layer) -> None:
    """Let normalisations hand out the batch's statistics, which the supernet itself averages."""
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.0
    for inner in getattr(layer, "layers", ()):
        _keep_only_the_batch(inner)


def _size(variable: keras.Variable) -> int:
    return int(np.prod(variable.shape))


def _flattened(variables: Sequence[keras.Variable]) -> np.ndarray:
    parts = [np.zeros(0), *(np.ravel(variable.numpy()) for variable in variables)]
    return np.concatenate(parts).astype(np.float32)


def _split_as(variables: Sequence[keras.Variable], vector: tf.Tensor) -> list[tf.Tensor]:
    """Return the beginning of a vector in parts of the variables' shapes."""
    ends = np.cumsum([0, *map(_size, variables)])
    return [
        tf.reshape(vector[start:end], variable.shape)
        for variable, start, end in zip(variables, ends[:-1], ends[1:], strict=True)
    ]


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
        return batch_norm_training(inputs, gamma, beta, EPSILON)
    mean, variance = moments
    outputs = tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, EPSILON)
    return outputs, mean, variance


def _num_kernel_weights(layer: Layer) -> int:
    return int(np.prod(kernel_shape(layer)))
