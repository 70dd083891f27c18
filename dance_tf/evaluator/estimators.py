"""The cost estimation network: latency, energy and area of an architecture and an accelerator.

A trunk of residual fully connected blocks, as in DANCE (2020), that is forwarded the
accelerator as its heads; see `networks`.

Differs from the paper: the metrics are linear in the mixture weights, as the expected
cost is, with coefficients that the trunk computes from the accelerator. A network that
takes both side by side can be as accurate and still have the wrong gradient, which is
all that the search uses. Besides, linear with positive coefficients means that no
architecture's relative error is larger than the largest of its coefficients. Area depends
on the accelerator alone and is kept as it is. The paper's own forms are
`PlainCostEstimationNetwork`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from dance_tf.evaluator.networks import Trunk, head_one_hot, split_heads

__all__ = ["CostEstimationNetwork", "PlainCostEstimationNetwork"]

# What float32 sums of about a hundred terms may add to a relative error.
_ROUNDING = 1e-5


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
            cell_mask: Which cells cost anything, bool [D, O]: not Zero, not forbidden.
            head_sizes: Number of values of each head.
            num_blocks: Residual blocks.
            units: Width.
            seed: Of the initial weights.
        """
        super().__init__(name="cost_estimation")
        self.cell_mask = np.asarray(cell_mask, bool)
        self.head_sizes = tuple(head_sizes)
        self._live = np.flatnonzero(self.cell_mask)
        self._num_columns = len(self._live) + 1  # the cells, and the fixed layers as one
        self.trunk = Trunk(num_blocks, units, seed=seed, name="trunk")
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

    def normalise(self, table: Any) -> None:
        """Take from a table: areas, and mean and deviation of the log coefficients."""
        logs = np.log(self.table_coefficients(table))
        logs = np.ma.masked_invalid(logs)  # Cells that an accelerator cannot run are infinite.
        self.mean.assign(logs.mean(axis=0).filled(0.0))
        self.deviation.assign(np.maximum(logs.std(axis=0).filled(0.0), 1e-3))
        self.area_mm2.assign(np.reshape(table.area_mm2, self.head_sizes))

    def bound_errors(self, table: Any) -> None:
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
        return np.concatenate(columns).T

    def coefficients(self, accelerator: Any) -> Any:
        """Return positive coefficients of heads [B, H]: latencies, then energies."""
        outputs = self.outlet(self.trunk(accelerator))
        return keras.ops.exp(self.mean + self.deviation * outputs)

    def costs(self, accelerator: Any) -> tuple[Any, Any]:
        """Return coefficients [B, ...] and area [B] of heads [B, H]: all that metrics need."""
        return self.coefficients(accelerator), self.area(accelerator)

    def pairwise(self, mixture_weights: Any, coefficients: Any) -> Any:
        """Return latency and energy of all pairs, float32 [B, N] each.

        Args:
            mixture_weights: [B, D, O].
            coefficients: [N, ...].
        """
        cells, num = self._cells(mixture_weights), self._num_columns
        return tuple(
            keras.ops.matmul(cells, keras.ops.transpose(part))
            for part in (coefficients[:, :num], coefficients[:, num:])
        )

    def pairwise_metrics(self, mixture_weights: Any, coefficients: Any, area: Any) -> Any:
        """Return the metrics of all pairs, float32 [B, N, 3]; area [N], else as `pairwise`."""
        latency, energy = self.pairwise(mixture_weights, coefficients)
        area = keras.ops.broadcast_to(area, keras.ops.shape(latency))
        return keras.ops.stack([latency, energy, area], axis=-1)

    def area(self, accelerator: Any) -> Any:
        """Return the area of heads [B, H], float32 [B]; of probabilities the expected one."""
        heads = split_heads(accelerator, self.head_sizes)
        area = keras.ops.matmul(
            heads[0], keras.ops.reshape(self.area_mm2, (self.head_sizes[0], -1))
        )
        for head, size in zip(heads[1:], self.head_sizes[1:], strict=True):
            area = keras.ops.reshape(area, (-1, size, area.shape[-1] // size))
            area = keras.ops.sum(area * head[:, :, None], axis=1)
        return area[:, 0]

    def combine(self, mixture_weights: Any, coefficients: Any, area: Any) -> Any:
        """Return metrics, float32 [B, 3], of one row of coefficients and area each."""
        cells, num = self._cells(mixture_weights), self._num_columns
        latency = keras.ops.sum(cells * coefficients[:, :num], axis=1)
        energy = keras.ops.sum(cells * coefficients[:, num:], axis=1)
        return keras.ops.stack([latency, energy, area], axis=1)

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
        return self.combine(mixture_weights, *self.costs(accelerator))


class PlainCostEstimationNetwork(keras.Model):
    """The paper's form, kept to compare with: everything goes in side by side.

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
            num_blocks: Residual blocks.
            units: Width.
            seed: Of the initial weights.
        """
        super().__init__(name="plain_cost_estimation")
        self.is_forwarded = is_forwarded
        self.trunk = Trunk(num_blocks, units, seed=seed, name="trunk")
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

    def normalise(self, table: Any) -> None:
        """Set mean and deviation of the log metrics of uniform mixtures on all accelerators."""
        uniform = table.space.op_mask / table.space.op_mask.sum(axis=1, keepdims=True)
        metrics = np.asarray(table.expected_metrics(uniform[None].astype(np.float32)))[0]
        logs = np.log(metrics[np.isfinite(metrics).all(axis=1)])
        self.mean.assign(logs.mean(axis=0))
        self.deviation.assign(np.maximum(logs.std(axis=0), 1e-3))

    def call(self, inputs: Any) -> Any:
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
