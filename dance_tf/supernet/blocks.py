"""A block of the supernet: its candidate ops, of which a call runs one.

In a `MixedOp` each op has weights of its own, which are a row of one variable. In a
`SuperkernelOp` every MBConv is a slice of the largest one: a smaller kernel is its centre, a
smaller expansion the first of its expanded channels; gamma and beta go with the channels.
Other ops have weights of their own, an MBConv with squeeze and excite among them. A sampled
op runs its slice alone, and takes the time of that op. Under gates the slices become masks:
one pass of the largest op then has the gradient of every slice.

Moving statistics are kept per candidate in both, since the outputs of a 3x3 kernel have
another mean than those of a 7x7 one.

Source: Stamoulis et al. (2019), Single-Path NAS, section 3. There, trained thresholds on
the norms of slices choose; here, samples of the architecture parameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.supernet.op_kinds import MBConv
from dance_tf.supernet.ops import kernel_shape, moved_statistics
from dance_tf.supernet.packed_ops import (
    KerasOp,
    PackedOp,
    normalise,
    packed_op,
)
from dance_tf.supernet.primitives import activate, blended_depthwise_conv, pointwise_conv
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["MixedOp", "SuperkernelOp"]


class MixedOp(keras.layers.Layer):
    """All candidate ops of one block, each with weights of its own; a call runs one of them.

    Args:
        space: Network space.
        block_index: Index of the block.
        seed: Seed of the run.
        ops: Packed forms of the ops, where they have been made already.

    Attributes:
        packed: Weights, float32 [O, largest number of weights]; row o belongs to op o and is
            padded with zeros.
        statistics: Moving statistics, float32 [O, largest number of statistics], not
            trainable.
        is_kernel: Mask of `packed`, True for weights of kernels.
    """

    def __init__(
        self,
        space: NetworkSpace,
        block_index: int,
        *,
        seed: int,
        ops: Sequence[PackedOp | KerasOp] | None = None,
    ) -> None:
        super().__init__(name=f"block{block_index}")
        self.block = space.blocks[block_index]
        self._is_allowed = space.op_mask[block_index]
        self._ops = ops or _packed(space, block_index, seed)
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

    def _weights_of(self, op_index: tf.Tensor | int) -> tf.Tensor:
        """Return the part of `packed` that belongs to one op, padded or not."""
        return tf.gather(self.packed.value, op_index)

    def call(
        self,
        inputs: tf.Tensor,
        op_index: tf.Tensor,
        gates: tf.Tensor | None = None,
        training: bool = False,
        inactive_index: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return the outputs of op `op_index`; in training, move its statistics.

        Args:
            inputs: Features, float32 [B, H, W, C].
            op_index: Op to run, int32 [].
            gates: Factors of the ops' outputs, float32 [O], or None.
            training: Whether to normalise by the batch instead of by moving statistics.
            inactive_index: Another op, int32 [], or None. Its outputs times its gate are
                added; they pass a gradient to the gate, but not to inputs and weights.
        """
        outputs = self._run_one(inputs, op_index, training)
        if gates is not None:
            outputs *= tf.gather(gates, op_index)
        if inactive_index is not None:
            inactive = self._run_one(tf.stop_gradient(inputs), inactive_index, training)
            outputs += tf.stop_gradient(inactive) * tf.gather(gates, inactive_index)
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
        self,
        o: int,
        inputs: tf.Tensor,
        weights: tf.Tensor,
        statistics: tf.Tensor,
        training: bool,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if not self._ops[o].is_empty:
            return self._ops[o](inputs, weights, statistics, training)
        shape = (*self.block.output_shape, self.block.out_channels)
        value = 0.0 if self._is_allowed[o] else math.nan
        return tf.fill([tf.shape(inputs)[0], *shape], value), statistics

    def keras_weights(self, op_index: int) -> dict[str, list[np.ndarray]]:
        """Return copies of one op's variables by the name of their layer in a network."""
        return self._ops[op_index].keras_weights(
            np.asarray(self._weights_of(op_index)), self.statistics.numpy()[op_index]
        )


def _packed(space: NetworkSpace, block_index: int, seed: int) -> list[PackedOp | KerasOp]:
    """Return the packed forms of all ops of a block."""
    return [packed_op(space, block_index, name, seed=seed) for name in space.op_names]


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """Stack vectors of different lengths, with zeros after the shorter ones."""
    padded = np.zeros((len(rows), max(map(len, rows))), rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


class SuperkernelOp(MixedOp):
    """All candidate ops of one block, the MBConvs as slices of the largest.

    Args:
        space: Network space.
        block_index: Index of the block.
        seed: Seed of the run.

    Attributes:
        packed: Weights of the largest op, then those of the ops that are no slices, float32
            [number of them].
    """

    def __init__(self, space: NetworkSpace, block_index: int, *, seed: int) -> None:
        block = space.blocks[block_index]
        #: Kernel and expanded channels of the ops that are slices, None of the others.
        shapes: list[tuple[int, int] | None] = []
        for name in space.op_names:
            op = space.op(name)
            if isinstance(op, MBConv) and not op.squeeze_excite and not op.activation:
                shapes.append((op.kernel, op.inner_channels(block)))
            else:
                shapes.append(None)
        if not any(shapes):
            raise UserError(
                f"space {space.name!r}: a superkernel needs an mbconv among the ops, without _se"
                " and with the space's activation: use search.supernet=proxyless"
            )
        kernels, channels = (
            sorted(set(values)) for values in zip(*filter(None, shapes), strict=True)
        )
        expansion = channels[-1] / block.in_channels
        largest = MBConv(kernels[-1], 1, width=expansion)
        prefix = f"block{block_index}/mbconv{kernels[-1]}_e{expansion:g}"
        layers = largest.layers(block, prefix)
        self._activation = space.activation
        self._largest = PackedOp(layers, seed=seed, activation=space.activation)
        self._stride = layers[1].stride[0]
        #: Ops that are no slices and have layers, by their index.
        ops = _packed(space, block_index, seed)
        self._others = {
            index: op for index, op in enumerate(ops) if shapes[index] is None and not op.is_empty
        }
        self._kernels, self._is_series = kernels, block.is_series
        #: Expanded channels that each width adds to the smaller one.
        self._slabs = np.diff([0, *channels])
        #: 1 for the ops that have at least each kernel, and at least each width; float32.
        self._has_kernel, self._has_channels = (
            np.array([[s is not None and s[axis] >= v for v in values] for s in shapes], np.float32)
            for axis, values in enumerate((kernels, channels))
        )
        slices = [self._slice(*s) if s else self._unsliced(o) for o, s in enumerate(shapes)]
        #: Positions in `packed` of the weights of each op, op after op; and starts of the ops.
        self._positions = tf.constant(np.concatenate([weights for weights, _ in slices]))
        self._starts = tf.constant(np.cumsum([0, *(len(weights) for weights, _ in slices)]))
        #: Positions of each op's statistics among those of the largest op and the others,
        #: [O, S]; their number for none.
        self._num_statistics = sum(op.num_statistics for op in self._packed_ops)
        most = max(op.num_statistics for op in self._packed_ops)
        self._statistics_at = np.full((len(slices), most), self._num_statistics)
        for row, (_, statistics) in zip(self._statistics_at, slices, strict=True):
            row[: len(statistics)] = statistics
        super().__init__(space, block_index, seed=seed, ops=ops)

    def _slice(self, kernel: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions of an op's weights and statistics in the vectors of the largest op."""
        largest = self._largest
        arrays = largest.to_keras(np.arange(largest.num_weights), np.arange(largest.num_statistics))
        margin = (self._kernels[-1] - kernel) // 2
        columns = slice(margin, margin + kernel)
        rows = slice(None) if self._is_series else columns
        expand, depthwise, project = arrays[:5], arrays[5:10], arrays[10:]
        expand = [array[..., :channels] for array in expand]
        depthwise = [
            depthwise[0][rows, columns, :channels],
            *(array[:channels] for array in depthwise[1:]),
        ]
        project = [project[0][:, :, :channels], *project[1:]]
        weights, statistics = [], []
        for kernel_array, gamma, beta, mean, variance in (expand, depthwise, project):
            weights += [kernel_array, gamma, beta]
            statistics += [mean, variance]
        return _flat(weights), _flat(statistics)

    @property
    def _packed_ops(self) -> list[PackedOp | KerasOp]:
        return [self._largest, *self._others.values()]

    def _unsliced(self, op_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions as `_slice` does, of an op that is no slice."""
        num_weights, num_statistics = self._largest.num_weights, self._largest.num_statistics
        for index, op in self._others.items():
            if index == op_index:
                return (
                    num_weights + np.arange(op.num_weights),
                    num_statistics + np.arange(op.num_statistics),
                )
            num_weights += op.num_weights
            num_statistics += op.num_statistics
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def _initial_weights(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.concatenate([op.initial_weights() for op in self._packed_ops]),
            np.concatenate([op.is_kernel() for op in self._packed_ops]),
        )

    def _weights_of(self, op_index: tf.Tensor | int) -> tf.Tensor:
        positions = self._positions[self._starts[op_index] : self._starts[op_index + 1]]
        return tf.gather(self.packed.value, positions)

    def call(
        self,
        inputs: tf.Tensor,
        op_index: tf.Tensor,
        gates: tf.Tensor | None = None,
        training: bool = False,
        inactive_index: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return the outputs of op `op_index`; in training, move its statistics.

        With gates, the kernel beyond each size is multiplied by the share of the ops that
        have it, and so are the channels; the outputs by the sum of the MBConvs' gates.
        One-hot gates of `op_index` give the outputs of that op, and a gradient to all gates.
        Where they choose Zero, the smallest op stands for all MBConvs.

        Args:
            inputs: Features, float32 [B, H, W, C].
            op_index: Op whose statistics are used, or moved, int32 [].
            gates: Factors of the ops' outputs, float32 [O], or None.
            training: Whether to normalise by the batch instead of by moving statistics.
            inactive_index: Another op, int32 [], or None. With it there are no masks: the
                two slices are run one by one, and their gates alone have a gradient.
        """
        if gates is None or inactive_index is not None:
            return super().call(inputs, op_index, gates, training, inactive_index)
        places = tf.gather(self._statistics_at, op_index)
        statistics = tf.gather(self.statistics.value, op_index)
        spread = tf.scatter_nd(places[:, None], statistics, [self._num_statistics + 1])[:-1]
        outputs, used = self._run_masked(inputs, gates, spread, training)
        if training:
            used = tf.gather(tf.concat([used, [0.0]], axis=0), places)
            self._move_statistics(op_index, statistics, used)
        # As without gates, NaN shows the mistake of asking for an op that the block lacks.
        is_allowed = tf.gather(self._is_allowed, op_index)
        return tf.where(is_allowed, outputs, math.nan)

    def _run_masked(
        self, inputs: tf.Tensor, gates: tf.Tensor, statistics: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Run the largest op under masks, and each of the others under its gate.

        Returns:
            Outputs, and the statistics used, in the order of those of `_packed_ops`.
        """
        largest, layers = self._largest, self._largest.layers
        weights, moments = largest.split(self.packed.value, statistics)
        total = tf.reduce_sum(gates * self._has_kernel[:, 0])
        # The smallest kernel and width are in every slice. Where Zero is chosen, total is 0.
        ring_shares, slab_shares = (
            tf.math.divide_no_nan(tf.linalg.matvec(has.T[1:], gates), total)
            for has in (self._has_kernel, self._has_channels)
        )
        channel_shares = tf.repeat(tf.concat([[1.0], slab_shares], axis=0), self._slabs)
        used = []

        def normalised(x: tf.Tensor, index: int) -> tf.Tensor:
            gamma, beta = weights[3 * index + 1 : 3 * index + 3]
            stored = moments[2 * index : 2 * index + 2]
            x, *found = normalise(x, gamma, beta, stored, training)
            used.extend(found)
            return x

        kernels = [
            tf.reshape(weights[3 * i], kernel_shape(layer)) for i, layer in enumerate(layers)
        ]
        x = pointwise_conv(inputs, kernels[0][0, 0])
        x = activate(normalised(x, 0), self._activation)
        x = blended_depthwise_conv(x, *self._rings(kernels[1]), ring_shares, self._stride)
        x = activate(normalised(x, 1), self._activation)
        # A matrix product gives the gradient of the shares faster than two passes over x.
        x = normalised(pointwise_conv(x, kernels[2][0, 0] * channel_shares[:, None]), 2)
        outputs = x * total
        rest, own = weights[-1], moments[-1]
        for index, op in self._others.items():
            own_outputs, moved = op(inputs, rest, own[: op.num_statistics], training)
            outputs += own_outputs * gates[index]
            used.append(moved)
            rest, own = rest[op.num_weights :], own[op.num_statistics :]
        return outputs, tf.stop_gradient(tf.concat(used, axis=0))

    def _rings(self, kernel: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return the smallest kernel, and the ring that each next one adds around it."""
        sizes = self._kernels
        margins = [(sizes[-1] - size) // 2 for size in sizes]
        centres = [
            kernel[slice(None) if self._is_series else slice(m, m + size), m : m + size]
            for m, size in zip(margins, sizes, strict=True)
        ]
        rings = []
        for inner, size, centre in zip(sizes, sizes[1:], centres[1:], strict=False):
            mask, width = np.ones((*centre.shape[:2], 1, 1), np.float32), (size - inner) // 2
            rows = slice(None) if self._is_series else slice(width, -width)
            mask[rows, width:-width] = 0.0
            rings.append(centre * mask)
        return centres[0], rings


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays])
