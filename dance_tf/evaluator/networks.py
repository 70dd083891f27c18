"""The two networks of the evaluator: hardware generation and cost estimation.

Both are trunks of residual fully connected blocks, as in DANCE (2020). The accelerator
passes between them as its four categorical heads side by side, [B, H], H being the sum
of the head sizes: one-hot per head, or probabilities.

Differs from the paper: the generation network takes the objective as an input, so that
new weights need no new training; and the estimation network returns metrics that are
linear in the mixture weights, as the expected cost is, with coefficients that its trunk
computes from the forwarded accelerator. A network that takes both side by side can be
as accurate and still have the wrong gradient, which is all that the search uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["CostEstimationNetwork", "HardwareGenerationNetwork", "head_one_hot", "split_heads"]


def head_one_hot(head_indices: Any, head_sizes: Sequence[int]) -> tf.Tensor:
    """Return positions [..., 4] as one-hot heads side by side, float32 [..., H]."""
    columns = tf.unstack(tf.cast(head_indices, tf.int32), axis=-1)
    heads = [tf.one_hot(c, n) for c, n in zip(columns, head_sizes, strict=True)]
    return tf.concat(heads, axis=-1)


def split_heads(heads: Any, head_sizes: Sequence[int]) -> list[tf.Tensor]:
    """Return heads side by side [..., H] as one tensor per head."""
    return tf.split(heads, list(head_sizes), axis=-1)


class _Trunk(keras.layers.Layer):
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
    """Architecture and objective to the logits of the four heads of the best accelerator."""

    def __init__(
        self,
        *,
        num_cells: int,
        head_sizes: Sequence[int],
        num_blocks: int = 5,
        units: int = 128,
        seed: int = 0,
    ) -> None:
        """Make the network.

        Args:
            num_cells: Length of the flattened mixture weights, D * O.
            head_sizes: Number of values of each head.
            num_blocks: Residual blocks.
            units: Width.
            seed: Of the initial weights.
        """
        super().__init__(name="hardware_generation")
        self.head_sizes = tuple(head_sizes)
        self.trunk = _Trunk(num_blocks, units, seed=seed, name="trunk")
        self.outlet = keras.layers.Dense(
            sum(self.head_sizes),
            kernel_initializer=keras.initializers.VarianceScaling(0.1, seed=seed * 1000 + 999),
            name="heads",
        )
        self.trunk.build((None, num_cells + 7))
        self.outlet.build((None, units))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return logits, float32 [B, H].

        Args:
            inputs: Mixture weights [B, D, O] and objective vectors [B, 4].
        """
        mixture_weights, objectives = inputs
        cells = keras.ops.reshape(mixture_weights, (keras.ops.shape(mixture_weights)[0], -1))
        is_linear, weights = objectives[:, :1], objectives[:, 1:]
        # The best accelerator stays when all weights grow alike, in either kind.
        weights = weights / keras.ops.sum(weights, axis=-1, keepdims=True)
        features = [cells, is_linear, is_linear * weights, (1.0 - is_linear) * weights]
        return self.outlet(self.trunk(keras.ops.concatenate(features, axis=-1)))


class CostEstimationNetwork(keras.Model):
    """Forwarded accelerator and architecture to latency_ms, energy_mj and area_mm2.

    The trunk turns the accelerator into coefficients, exp(mean + deviation * output):
    one latency and one energy for each cell and for the fixed layers, and the area.
    """

    def __init__(
        self,
        *,
        cell_mask: np.ndarray,
        head_sizes: Sequence[int],
        num_blocks: int = 5,
        units: int = 128,
        seed: int = 1,
    ) -> None:
        """Make the network; `normalise` sets its constants.

        Args:
            cell_mask: Which cells cost anything, bool [D, O]: not Zero, not forbidden.
            head_sizes: Number of values of each head.
            num_blocks: Residual blocks.
            units: Width.
            seed: Of the initial weights.
        """
        super().__init__(name="cost_estimation")
        self.cell_mask = np.asarray(cell_mask, bool)
        self._live = np.flatnonzero(self.cell_mask)
        self._num_columns = len(self._live) + 1  # the cells, and the fixed layers as one
        self.trunk = _Trunk(num_blocks, units, seed=seed, name="trunk")
        self.outlet = keras.layers.Dense(
            2 * self._num_columns + 1,
            kernel_initializer=keras.initializers.VarianceScaling(0.1, seed=seed * 1000 + 999),
            name="coefficients",
        )
        shape = (2 * self._num_columns + 1,)
        self.mean = self.add_weight(shape=shape, trainable=False, name="log_mean")
        self.deviation = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="log_deviation"
        )
        self.trunk.build((None, sum(head_sizes)))
        self.outlet.build((None, units))
        self.built = True

    def normalise(self, table: Any) -> None:
        """Set mean and deviation of the log coefficients over the accelerators of a table."""
        logs = np.log(self.table_coefficients(table))
        logs = np.ma.masked_invalid(logs)  # Cells that an accelerator cannot run are infinite.
        self.mean.assign(logs.mean(axis=0).filled(0.0))
        self.deviation.assign(np.maximum(logs.std(axis=0).filled(0.0), 1e-3))

    def table_coefficients(self, table: Any) -> np.ndarray:
        """Return what `coefficients` should be for each accelerator, float32 [A, ...]."""
        num_accelerators = len(table.area_mm2)
        columns = [
            np.concatenate([cells.reshape(-1, num_accelerators)[self._live], fixed[None]])
            for cells, fixed in (
                (table.latency_ms, table.fixed_latency_ms),
                (table.energy_mj, table.fixed_energy_mj),
            )
        ]
        return np.concatenate([*columns, table.area_mm2[None]]).T

    def coefficients(self, accelerator: Any) -> Any:
        """Return positive coefficients of heads [B, H]: latencies, energies, area."""
        outputs = self.outlet(self.trunk(accelerator))
        return keras.ops.exp(self.mean + self.deviation * outputs)

    def pairwise(self, mixture_weights: Any, coefficients: Any) -> Any:
        """Return metrics, float32 [N, B, 3], of coefficients [N, ...] at all mixtures [B, D, O]."""
        cells = self._cells(mixture_weights)
        num = self._num_columns
        latency = keras.ops.matmul(coefficients[:, :num], keras.ops.transpose(cells))
        energy = keras.ops.matmul(coefficients[:, num:-1], keras.ops.transpose(cells))
        area = keras.ops.broadcast_to(coefficients[:, -1:], keras.ops.shape(latency))
        return keras.ops.stack([latency, energy, area], axis=-1)

    def _cells(self, mixture_weights: Any) -> Any:
        """Return the weights of the cells that cost anything, and 1 for the fixed layers."""
        cells = keras.ops.reshape(mixture_weights, (-1, self.cell_mask.size))
        cells = keras.ops.take(cells, self._live, axis=1)
        return keras.ops.concatenate([cells, keras.ops.ones_like(cells[:, :1])], axis=1)

    def call(self, inputs: Any) -> Any:
        """Return metrics, float32 [B, 3].

        Args:
            inputs: Mixture weights [B, D, O] and forwarded heads [B, H].
        """
        mixture_weights, accelerator = inputs
        cells, coefficients = self._cells(mixture_weights), self.coefficients(accelerator)
        num = self._num_columns
        latency = keras.ops.sum(cells * coefficients[:, :num], axis=1)
        energy = keras.ops.sum(cells * coefficients[:, num:-1], axis=1)
        return keras.ops.stack([latency, energy, coefficients[:, -1]], axis=1)
