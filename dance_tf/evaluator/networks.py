"""Networks of the neural evaluator: hardware generation and cost estimation.

Each has a trunk of residual fully connected blocks, as in DANCE (2020). The generation
network turns an architecture and an objective into the best accelerator; the estimation
network turns an accelerator into coefficients, with which the metrics are linear in the
mixture weights. The accelerator passes between the two as its four categorical heads side
by side, [B, H], H being the sum of the head sizes: one-hot per head, or probabilities.

Differs from the paper: the objective is an input, so that new weights need no new
training; and the choice is one softmax over the candidates, the accelerators that are
ever best, of which the four heads are the marginals. Independent heads are as accurate,
but where two accelerators are nearly as good they mix them into a third that is far worse.
The candidates are ranked by the cost that the estimation network predicts for each; the
output of the trunk decides between candidates that are nearly as good. The estimation
network of the paper, which takes everything side by side, is kept to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import objective_values

__all__ = [
    "CostEstimationNetwork",
    "HardwareGenerationNetwork",
    "PlainCostEstimationNetwork",
    "Scopes",
    "Trunk",
    "constant_weights",
    "head_one_hot",
    "objective_gaps",
    "split_heads",
]

# Relative error that float32 sums of about a hundred terms may add.
_ROUNDING = 1e-5

#: Maker of scopes in which a graph takes weights as constants.
Scopes: TypeAlias = Callable[[], AbstractContextManager]

# Logits per unit of log objective before training: 0.1 % of it then weighs 1.
_FIRST_SHARPNESS = 1000.0


def head_one_hot(head_indices: ArrayLike, head_sizes: Sequence[int]) -> tf.Tensor:
    """Return positions [..., 4] as one-hot heads side by side, float32 [..., H]."""
    columns = tf.unstack(tf.cast(head_indices, tf.int32), axis=-1)
    heads = [tf.one_hot(c, n) for c, n in zip(columns, head_sizes, strict=True)]
    return tf.concat(heads, axis=-1)


def split_heads(heads: tf.Tensor, head_sizes: Sequence[int]) -> list[tf.Tensor]:
    """Return heads side by side [..., H] as one tensor per head."""
    return tf.split(heads, list(head_sizes), axis=-1)


def objective_gaps(vectors: tf.Tensor, metrics: tf.Tensor, reference: ArrayLike) -> tf.Tensor:
    """Return log objective less its minimum over the candidates, float32 [B, C].

    Args:
        vectors: Objectives, float32 [B, 1, 4].
        metrics: Metrics of the candidates, float32 [B, C, 3].
        reference: Metrics that normalise the objectives, [3].
    """
    values = tf.math.log(objective_values(vectors, metrics, reference))
    return values - tf.reduce_min(values, axis=-1, keepdims=True)


def constant_weights(*networks: keras.Model) -> Scopes:
    """Return a maker of scopes in which the networks' weights, as they are now, are constants."""
    weights = [(v, v.numpy()) for network in networks for v in network.variables]

    def scope() -> AbstractContextManager:
        constants = [(variable, tf.constant(value)) for variable, value in weights]
        return keras.StatelessScope(state_mapping=constants)

    return scope


class Trunk(keras.layers.Layer):
    """A dense layer to `units`, then `num_blocks` residual blocks of two dense layers."""

    def __init__(self, num_blocks: int, units: int, *, seed: int) -> None:
        super().__init__(name="trunk")

        def dense(
            index: int, scale: float = 2.0, activation: str | None = None
        ) -> keras.layers.Dense:
            initializer = keras.initializers.VarianceScaling(scale, seed=seed * 1000 + index)
            return keras.layers.Dense(units, activation, kernel_initializer=initializer)

        self.num_blocks = num_blocks
        self.inlet = dense(0, activation="relu")
        # The second layer of a block starts small: a deep trunk then starts as a shallow one.
        self.firsts = [dense(2 * b + 1, activation="relu") for b in range(num_blocks)]
        self.seconds = [dense(2 * b + 2, scale=0.2) for b in range(num_blocks)]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.inlet.build(input_shape)
        for layer in (*self.firsts, *self.seconds):
            layer.build((None, self.inlet.units))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
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
            num_outputs: Number of candidates, or of values of all heads together.
            is_ranked: Whether the predicted objectives of the candidates are an input.
            num_blocks: Number of residual blocks.
            units: Width of the trunk.
            seed: Seed of the initial weights.
        """
        super().__init__(name="hardware_generation")
        self.trunk = Trunk(num_blocks, units, seed=seed)
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

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return logits, float32 [B, outputs].

        Args:
            inputs: Mixture weights [B, D, O], objective vectors [B, 4], and if the network
                is ranked the gaps between log predicted objectives and their minimum,
                [B, outputs].
        """
        mixture_weights, objectives, *gaps = inputs
        cells = keras.ops.reshape(mixture_weights, (keras.ops.shape(mixture_weights)[0], -1))
        is_linear, weights = objectives[:, :1], objectives[:, 1:]
        # The best accelerator stays the same when all weights grow by the same factor.
        weights = weights / keras.ops.sum(weights, axis=-1, keepdims=True)
        features = [cells, is_linear, is_linear * weights, (1.0 - is_linear) * weights]
        logits = self.outlet(self.trunk(keras.ops.concatenate(features, axis=-1)))
        if self.is_ranked:
            logits -= keras.ops.exp(self.log_sharpness) * gaps[0]
        return logits


class CostEstimationNetwork(keras.Model):
    """Forwarded accelerator and architecture to latency_ms, energy_mj and area_mm2.

    The trunk turns the accelerator into coefficients, exp(mean + deviation * output):
    one latency and one energy for each cell and for the fixed layers.
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
            cell_mask: True for cells that cost anything, bool [D, O]: not Zero, not forbidden.
            head_sizes: Number of values of each head.
            num_blocks: Number of residual blocks.
            units: Width of the trunk.
            seed: Seed of the initial weights.
        """
        super().__init__(name="cost_estimation")
        self.cell_mask = np.asarray(cell_mask, bool)
        self.head_sizes = tuple(head_sizes)
        self._live = np.flatnonzero(self.cell_mask)
        self._num_columns = len(self._live) + 1  # the cells, and the fixed layers as one
        self.trunk = Trunk(num_blocks, units, seed=seed)
        self.outlet = keras.layers.Dense(
            2 * self._num_columns,
            kernel_initializer=keras.initializers.VarianceScaling(0.1, seed=seed * 1000 + 999),
            name="coefficients",
        )
        shape = (2 * self._num_columns,)
        self.mean = self.add_weight(shape=shape, trainable=False, name="log_mean")
        self.deviation = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="log_deviation"
        )
        self.area_mm2 = self.add_weight(shape=self.head_sizes, trainable=False, name="area_mm2")
        # The largest relative error of a coefficient of each accelerator; unknown at first.
        self.error_bound = self.add_weight(
            shape=self.head_sizes,
            initializer=keras.initializers.Constant(np.inf),
            trainable=False,
            name="error_bound",
        )
        self.trunk.build((None, sum(head_sizes)))
        self.outlet.build((None, units))
        self.built = True

    def normalise(self, table: CostTable) -> None:
        """Set areas, and mean and deviation of the log coefficients, to those of a table."""
        logs = np.log(self.table_coefficients(table))
        logs = np.ma.masked_invalid(logs)  # Cells that an accelerator cannot run are infinite.
        self.mean.assign(logs.mean(axis=0).filled(0.0))
        self.deviation.assign(np.maximum(logs.std(axis=0).filled(0.0), 1e-3))
        self.area_mm2.assign(np.reshape(table.area_mm2, self.head_sizes))

    def bound_errors(self, table: CostTable) -> None:
        """Set `error_bound` of each accelerator by comparing its coefficients with a table.

        Metrics are sums of coefficients with weights that are not negative, so no
        architecture, hard or soft, has a larger relative error there. Infinite where the
        accelerator cannot run some cell.
        """
        heads = head_one_hot(table.accelerators.head_indices(), self.head_sizes)
        exact = self.table_coefficients(table)
        errors = np.abs(np.asarray(self.coefficients(heads)) / exact - 1.0)
        bound = np.where(np.isfinite(exact).all(axis=1), errors.max(axis=1), np.inf)
        self.error_bound.assign(np.reshape(bound + _ROUNDING, self.head_sizes))

    def table_coefficients(self, table: CostTable) -> np.ndarray:
        """Return the exact coefficients of each accelerator, float32 [A, ...]."""
        num_accelerators = len(table.area_mm2)
        columns = [
            np.concatenate([cells.reshape(-1, num_accelerators)[self._live], fixed[None]])
            for cells, fixed in (
                (table.latency_ms, table.fixed_latency_ms),
                (table.energy_mj, table.fixed_energy_mj),
            )
        ]
        return np.concatenate(columns).T

    def coefficients(self, accelerator: tf.Tensor) -> tf.Tensor:
        """Return positive coefficients of heads [B, H]: latencies, then energies."""
        outputs = self.outlet(self.trunk(accelerator))
        return keras.ops.exp(self.mean + self.deviation * outputs)

    def costs(self, accelerator: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return coefficients [B, ...] and area [B] of heads [B, H]: all that metrics need."""
        return self.coefficients(accelerator), self.area(accelerator)

    def pairwise(
        self, mixture_weights: tf.Tensor, coefficients: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return latency and energy of all pairs, float32 [B, N] each.

        Args:
            mixture_weights: [B, D, O].
            coefficients: [N, ...].
        """
        cells, num = self._cells(mixture_weights), self._num_columns
        latency, energy = (
            keras.ops.matmul(cells, keras.ops.transpose(part))
            for part in (coefficients[:, :num], coefficients[:, num:])
        )
        return latency, energy

    def pairwise_metrics(
        self, mixture_weights: tf.Tensor, coefficients: tf.Tensor, area: tf.Tensor
    ) -> tf.Tensor:
        """Return the metrics of all pairs, float32 [B, N, 3]; see `pairwise`, area is [N]."""
        latency, energy = self.pairwise(mixture_weights, coefficients)
        area = keras.ops.broadcast_to(area, keras.ops.shape(latency))
        return keras.ops.stack([latency, energy, area], axis=-1)

    def area(self, accelerator: tf.Tensor) -> tf.Tensor:
        """Return the area of heads [B, H], float32 [B]; the expected area of probabilities."""
        heads = split_heads(accelerator, self.head_sizes)
        area = keras.ops.matmul(
            heads[0], keras.ops.reshape(self.area_mm2, (self.head_sizes[0], -1))
        )
        for head, size in zip(heads[1:], self.head_sizes[1:], strict=True):
            area = keras.ops.reshape(area, (-1, size, area.shape[-1] // size))
            area = keras.ops.sum(area * head[:, :, None], axis=1)
        return area[:, 0]

    def combine(
        self, mixture_weights: tf.Tensor, coefficients: tf.Tensor, area: tf.Tensor
    ) -> tf.Tensor:
        """Return metrics, float32 [B, 3], of coefficients [B, ...] and area [B]."""
        cells, num = self._cells(mixture_weights), self._num_columns
        latency = keras.ops.sum(cells * coefficients[:, :num], axis=1)
        energy = keras.ops.sum(cells * coefficients[:, num:], axis=1)
        return keras.ops.stack([latency, energy, area], axis=1)

    def _cells(self, mixture_weights: tf.Tensor) -> tf.Tensor:
        """Return the weights of the cells that cost anything, and 1 for the fixed layers."""
        cells = keras.ops.reshape(mixture_weights, (-1, self.cell_mask.size))
        cells = keras.ops.take(cells, self._live, axis=1)
        return keras.ops.concatenate([cells, keras.ops.ones_like(cells[:, :1])], axis=1)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return metrics, float32 [B, 3].

        Args:
            inputs: Mixture weights [B, D, O] and forwarded heads [B, H].
        """
        mixture_weights, accelerator = inputs
        return self.combine(mixture_weights, *self.costs(accelerator))


class PlainCostEstimationNetwork(keras.Model):
    """Cost estimation as in the paper: architecture and accelerator go in side by side.

    Without feature forwarding it is asked about an architecture alone, and answers for the
    best accelerator under the one objective that it was trained on.
    """

    def __init__(
        self,
        *,
        num_cells: int,
        head_sizes: Sequence[int],
        is_forwarded: bool,
        num_blocks: int = 5,
        units: int = 128,
        seed: int = 1,
    ) -> None:
        """Make the network; `normalise` sets its constants.

        Args:
            num_cells: Length of the flattened mixture weights, D * O.
            head_sizes: Number of values of each head.
            is_forwarded: Whether the accelerator is an input.
            num_blocks: Number of residual blocks.
            units: Width of the trunk.
            seed: Seed of the initial weights.
        """
        super().__init__(name="plain_cost_estimation")
        self.is_forwarded = is_forwarded
        self.trunk = Trunk(num_blocks, units, seed=seed)
        self.outlet = keras.layers.Dense(
            3,
            kernel_initializer=keras.initializers.VarianceScaling(0.1, seed=seed * 1000 + 999),
            name="metrics",
        )
        self.mean = self.add_weight(shape=(3,), trainable=False, name="log_mean")
        self.deviation = self.add_weight(
            shape=(3,), initializer="ones", trainable=False, name="log_deviation"
        )
        self.trunk.build((None, num_cells + is_forwarded * sum(head_sizes)))
        self.outlet.build((None, units))
        self.built = True

    def normalise(self, table: CostTable) -> None:
        """Set mean and deviation of the log metrics of uniform mixtures on all accelerators."""
        uniform = table.space.op_mask / table.space.op_mask.sum(axis=1, keepdims=True)
        metrics = np.asarray(table.expected_metrics(uniform[None].astype(np.float32)))[0]
        logs = np.log(metrics[np.isfinite(metrics).all(axis=1)])
        self.mean.assign(logs.mean(axis=0))
        self.deviation.assign(np.maximum(logs.std(axis=0), 1e-3))

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return metrics, float32 [B, 3].

        Args:
            inputs: Mixture weights [B, D, O] and forwarded heads [B, H].
        """
        mixture_weights, accelerator = inputs
        features = keras.ops.reshape(mixture_weights, (keras.ops.shape(mixture_weights)[0], -1))
        if self.is_forwarded:
            features = keras.ops.concatenate([features, accelerator], axis=-1)
        outputs = self.outlet(self.trunk(features))
        return keras.ops.exp(self.mean + self.deviation * outputs)
