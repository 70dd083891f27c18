"""One block of the supernet: its candidate ops, of which a call runs one."""

from __future__ import annotations

import functools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dance_tf.supernet.ops import PackedOp, moved_statistics
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["MixedOp"]


class MixedOp(keras.layers.Layer):
    """All candidate ops of one block, each with weights of its own; a call runs one of them.

    Args:
        space: Network space.
        block_index: Which block.
        seed: Of the run.

    Attributes:
        packed: float32 [O, largest number of weights]; row o is op o's, padded with zeros.
        statistics: float32 [O, largest number of statistics], not trainable.
        is_kernel: Which of `packed` are weights of kernels, bool.
    """

    def __init__(self, space: NetworkSpace, block_index: int, *, seed: int) -> None:
        super().__init__(name=f"block{block_index}")
        self.block = space.blocks[block_index]
        self._is_allowed = space.op_mask[block_index]
        self._ops = [
            PackedOp(space.op_layers(block_index, name), seed=seed) for name in space.op_names
        ]
        values, self.is_kernel = self._initial_weights()
        self.packed = self._variable("packed", values)
        self.statistics = self._variable(
            "statistics", _padded([op.initial_statistics() for op in self._ops]), trainable=False
        )
        self.built = True

    def _variable(self, name: str, values: np.ndarray, trainable: bool = True) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=values.shape,
            initializer=lambda shape, dtype: tf.constant(values, dtype),
            trainable=trainable,
        )

    def _initial_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of `packed`, and `is_kernel`."""
        return (
            _padded([op.initial_weights() for op in self._ops]),
            _padded([op.is_kernel() for op in self._ops]),
        )

    def _weights_of(self, op_index: Any) -> Any:
        """Return one op's numbers of `packed`, at least as many as it needs."""
        return tf.gather(self.packed.value, op_index)

    def call(
        self,
        inputs: tf.Tensor,
        op_index: tf.Tensor,
        gates: Any = None,
        training: bool = False,
        inactive_index: Any = None,
    ) -> tf.Tensor:
        """Return the outputs of op `op_index`; in training, move its statistics.

        Args:
            inputs: float32 [B, H, W, C].
            op_index: int32 [].
            gates: float32 [O] or None: factors of the ops' outputs.
            training: Batch statistics instead of the moving ones.
            inactive_index: int32 [] or None: another op, whose outputs times its gate are
                added. They pass a gradient to the gate, but not to inputs and weights.
        """
        outputs = self._run_one(inputs, op_index, training)
        if gates is not None:
            outputs *= tf.gather(gates, op_index)
        if inactive_index is not None:
            others = self._run_one(tf.stop_gradient(inputs), inactive_index, training)
            outputs += tf.stop_gradient(others) * tf.gather(gates, inactive_index)
        return outputs

    def _run_one(self, inputs: tf.Tensor, op_index: tf.Tensor, training: bool) -> tf.Tensor:
        weights = self._weights_of(op_index)
        statistics = tf.gather(self.statistics.value, op_index)
        branches = [
            functools.partial(self._branch, o, inputs, weights, statistics, training)
            for o in range(len(self._ops))
        ]
        outputs, used = tf.switch_case(op_index, branches)
        if training:
            self._move_statistics(op_index, statistics, used)
        return outputs

    def _move_statistics(self, op_index: tf.Tensor, old: tf.Tensor, used: tf.Tensor) -> None:
        moved = moved_statistics(old, used)
        self.statistics.value.scatter_update(tf.IndexedSlices(moved, op_index))

    def _branch(
        self, o: int, inputs: Any, weights: Any, statistics: Any, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self._ops[o].num_weights:
            return self._ops[o](inputs, weights, statistics, training)
        size, channels = self.block.output_size, self.block.out_channels
        value = 0.0 if self._is_allowed[o] else math.nan
        return tf.fill([tf.shape(inputs)[0], size, size, channels], value), statistics

    def keras_weights(self, op_index: int) -> list[np.ndarray]:
        """Return copies of one op's variables, in the order of `mbconv_layers`."""
        return self._ops[op_index].to_keras(
            np.asarray(self._weights_of(op_index)), self.statistics.numpy()[op_index]
        )


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """Stack vectors of different lengths, with zeros after the shorter ones."""
    padded = np.zeros((len(rows), max(map(len, rows))), rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
