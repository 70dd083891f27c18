"""The hardware generation network: which accelerator is the best for an architecture.

A trunk of residual fully connected blocks, as in DANCE (2020). The accelerator passes
between the networks as its four categorical heads side by side, [B, H], H being the sum
of the head sizes: one-hot per head, or probabilities.

Differs from the paper: the objective is an input, so that new weights need no new
training; and the choice is one softmax over the candidates, the accelerators that are
ever best, of which the four heads are the marginals. Independent heads are as accurate,
but where two accelerators are nearly as good they mix them into a third that is far worse.
The candidates are ranked by the cost that the estimation network predicts for each; what
the trunk adds decides between those that are nearly as good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dance_tf.hardware.objective import objective_values

__all__ = [
    "HardwareGenerationNetwork",
    "Trunk",
    "constant_weights",
    "head_one_hot",
    "objective_gaps",
    "split_heads",
]

# Logits per unit of log objective before training: 0.1 % of it then weighs 1.
_FIRST_SHARPNESS = 1000.0


def head_one_hot(head_indices: Any, head_sizes: Sequence[int]) -> tf.Tensor:
    """Return positions [..., 4] as one-hot heads side by side, float32 [..., H]."""
    columns = tf.unstack(tf.cast(head_indices, tf.int32), axis=-1)
    heads = [tf.one_hot(c, n) for c, n in zip(columns, head_sizes, strict=True)]
    return tf.concat(heads, axis=-1)


def split_heads(heads: Any, head_sizes: Sequence[int]) -> list[tf.Tensor]:
    """Return heads side by side [..., H] as one tensor per head."""
    return tf.split(heads, list(head_sizes), axis=-1)


def objective_gaps(vectors: Any, metrics: Any, reference: Any) -> tf.Tensor:
    """Return log objective less the least of it, float32 [B, C].

    Args:
        vectors: Objectives, float32 [B, 1, 4].
        metrics: float32 [B, C, 3].
        reference: As for objective_values.
    """
    values = tf.math.log(objective_values(vectors, metrics, reference))
    return values - tf.reduce_min(values, axis=-1, keepdims=True)


def constant_weights(*networks: keras.Model) -> Callable[[], Any]:
    """Return a maker of scopes in which the networks' weights, as they are now, are constants."""
    weights = [(v, v.numpy()) for network in networks for v in network.variables]

    def scope() -> Any:
        constants = [(variable, tf.constant(value)) for variable, value in weights]
        return keras.StatelessScope(state_mapping=constants)

    return scope


class Trunk(keras.layers.Layer):
    """A dense layer to `units`, then `num_blocks` residual blocks of two dense layers."""

    def __init__(self, num_blocks: int, units: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def dense(index: int, scale: float = 2.0, activation: str | None = None) -> Any:
            initializer = keras.initializers.VarianceScaling(scale, seed=seed * 1000 + index)
            return keras.layers.Dense(units, activation, kernel_initializer=initializer)

        self.num_blocks = num_blocks
        self.inlet = dense(0, activation="relu")
        # The second layer of a block starts small: a deep trunk then starts as a shallow one.
        self.firsts = [dense(2 * b + 1, activation="relu") for b in range(num_blocks)]
        self.seconds = [dense(2 * b + 2, scale=0.2) for b in range(num_blocks)]

    def build(self, input_shape: Any) -> None:
        self.inlet.build(input_shape)
        for layer in (*self.firsts, *self.seconds):
            layer.build((None, self.inlet.units))

    def call(self, inputs: Any) -> Any:
        hidden = self.inlet(inputs)
        for first, second in zip(self.firsts, self.seconds, strict=True):
            hidden = hidden + second(first(hidden))
        return hidden


class HardwareGenerationNetwork(keras.Model):
    """Architecture and objective to the logits of the best accelerator."""

    def __init__(
        self,
        *,
        num_cells: int,
        num_outputs: int,
        is_ranked: bool = True,
        num_blocks: int = 5,
        units: int = 128,
        seed: int = 0,
    ) -> None:
        """Make the network.

        Args:
            num_cells: Length of the flattened mixture weights, D * O.
            num_outputs: Number of candidates, or of the values of all heads.
            is_ranked: Whether the predicted objectives of the candidates are an input.
            num_blocks: Residual blocks.
            units: Width.
            seed: Of the initial weights.
        """
        super().__init__(name="hardware_generation")
        self.trunk = Trunk(num_blocks, units, seed=seed, name="trunk")
        self.outlet = keras.layers.Dense(
            num_outputs,
            kernel_initializer=keras.initializers.VarianceScaling(0.1, seed=seed * 1000 + 999),
            name="choice",
        )
        self.is_ranked = is_ranked
        if is_ranked:
            first = keras.initializers.Constant(np.log(_FIRST_SHARPNESS))
            self.log_sharpness = self.add_weight(shape=(), initializer=first, name="log_sharpness")
        self.trunk.build((None, num_cells + 7))
        self.outlet.build((None, units))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return logits, float32 [B, outputs].

        Args:
            inputs: Mixture weights [B, D, O], objective vectors [B, 4], and if the network
                is ranked log predicted objectives less the least of them, [B, outputs].
        """
        mixture_weights, objectives, *gaps = inputs
        cells = keras.ops.reshape(mixture_weights, (keras.ops.shape(mixture_weights)[0], -1))
        is_linear, weights = objectives[:, :1], objectives[:, 1:]
        # The best accelerator stays when all weights grow alike, in either kind.
        weights = weights / keras.ops.sum(weights, axis=-1, keepdims=True)
        features = [cells, is_linear, is_linear * weights, (1.0 - is_linear) * weights]
        logits = self.outlet(self.trunk(keras.ops.concatenate(features, axis=-1)))
        if self.is_ranked:
            logits -= keras.ops.exp(self.log_sharpness) * gaps[0]
        return logits
