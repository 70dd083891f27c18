"""Networks of a space: one alone, and the supernet, which trains all of them together.

A step runs one path: in each block `tf.switch_case` runs the sampled op alone, inside
one traced function for all paths. The weights of a block's ops are the rows of one
variable, so the gradient of a step, and an optimizer that honours it, touches the rows
of the sampled ops only. Gates on the ops that are computed may have a gradient, from which
search/arch_gradients.py derives that of the architecture parameters.

Source: sampled paths and pairs from Cai et al. (2019), ProxylessNAS; gates of the Gumbel
softmax from Dong and Yang (2019), GDAS, equation 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.structs import Architecture
from dance_tf.supernet.blocks import MixedOp, SuperkernelOp
from dance_tf.supernet.candidate_ops import leaves_out
from dance_tf.supernet.ops import (
    apply_layers,
    apply_op,
    conv_bn_layers,
    layer_seed,
    op_keras_layers,
)
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["SUPERNETS", "Supernet", "build_network", "derive"]

#: Standard deviation of the initial architecture parameters (ProxylessNAS).
_LOGIT_STDDEV = 1e-3

#: Least uniform number, which keeps its Gumbel noise finite.
_TINY = float(np.finfo(np.float32).tiny)


#: Blocks by the name of the supernet. `proxyless`: each op has weights of its own, as in
#: ProxylessNAS. `superkernel`: all ops are slices of the largest.
SUPERNETS: dict[str, type[MixedOp]] = {"proxyless": MixedOp, "superkernel": SuperkernelOp}


class _LayerOptions(TypedDict):
    seed: int
    is_for_training: bool
    activation: str


def _fixed_keras_layers(
    space: NetworkSpace, *, seed: int, is_for_training: bool
) -> tuple[list[keras.layers.Layer], list[keras.layers.Layer]]:
    """Return the layers that every network has, those before and those after the blocks."""
    stem, *others = space.layers_before()
    first = [layer for layer in others if layer.name != "positions"]
    *head, classifier = space.layers_after()
    options: _LayerOptions = {
        "seed": seed,
        "is_for_training": is_for_training,
        "activation": space.activation,
    }
    before: list[keras.layers.Layer] = []
    if space.is_series:
        shape = (*space.size, space.image_channels)
        before.append(keras.layers.Reshape(shape, name="one_row"))
    before += [
        keras.layers.Rescaling(2.0, -1.0, name="to_plus_minus_one"),
        *conv_bn_layers(stem, **options),
    ]
    if space.has_positions:
        before.append(_position_layer(space, seed))
    before += op_keras_layers(first, **options)
    after = [
        *(layer for of_head in head for layer in conv_bn_layers(of_head, **options)),
        keras.layers.GlobalAveragePooling2D(name="pool"),
        keras.layers.Dense(
            classifier.K,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=0.01, seed=layer_seed(seed, classifier.name)
            ),
            name=classifier.name,
        ),
    ]
    return before, after


def _position_layer(space: NetworkSpace, seed: int) -> keras.layers.Layer:
    """Return a layer that adds a learnt vector to each place of the stem's outputs.

    A 1x1 convolution with a bias for each place, which begins as the identity plus noise.
    """
    height, width = space.stem_shape
    return keras.layers.EinsumDense(
        "bhwc,cd->bhwd",
        output_shape=(height, width, space.stem_channels),
        bias_axes="hwd",
        kernel_initializer="identity",
        bias_initializer=keras.initializers.RandomNormal(
            stddev=0.5, seed=layer_seed(seed, "positions")
        ),
        name="positions",
    )


def build_network(
    space: NetworkSpace,
    architecture: Architecture,
    *,
    seed: int = 0,
    is_for_training: bool = False,
) -> keras.Model:
    """Build one network of a space.

    Its convolutions are those of `space.layers(architecture)`, in that order.

    >>> import dance_tf
    >>> space = dance_tf.make_space(dance_tf.preset("tiny").space)
    >>> network = dance_tf.build_network(space, space.from_indices([0, 6]))
    >>> network.input_shape, network.output_shape
    ((None, 8, 8, 3), (None, 10))

    Args:
        space: Network space.
        architecture: One op per block.
        seed: Seed of the initial weights.
        is_for_training: Fast layers instead of stock ones. The weights of the two fit
            each other (`get_weights`, `set_weights`); save the stock one.
    Returns:
        Network from images [B, H, W, C] or series [B, T, C], in 0..1, to logits [B, classes].
    Raises:
        UserError: If the architecture is not one of the space.
    """
    ops = space.validate(architecture).ops
    before, after = _fixed_keras_layers(space, seed=seed, is_for_training=is_for_training)
    inputs = keras.Input(space.input_shape, name="series" if space.is_series else "images")
    x = apply_layers(before, inputs)
    for index, (block, op_name) in enumerate(zip(space.blocks, ops, strict=True)):
        if leaves_out(op_name, block):
            continue
        outputs = apply_op(space, index, op_name, x, seed=seed, is_for_training=is_for_training)
        if block.is_skippable:
            outputs = keras.layers.Add(name=f"block{index}_add")([x, outputs])
        x = outputs
    return keras.Model(inputs, apply_layers(after, x), name=space.name)


class Supernet(keras.Model):
    """All networks of a space with shared weights, and the architecture parameters.

    >>> import dance_tf
    >>> import tensorflow as tf
    >>> space = dance_tf.make_space(dance_tf.preset("tiny").space)
    >>> supernet = dance_tf.Supernet(space)
    >>> supernet.call_path(tf.zeros([4, 8, 8, 3]), [0, 6]).shape
    TensorShape([4, 10])
    >>> supernet.mixture_weights().shape  # blocks, candidate ops
    TensorShape([2, 7])

    Args:
        space: Network space.
        seed: Seed of the initial weights and architecture parameters.
        kind: Name in SUPERNETS.

    Attributes:
        arch_logits: Architecture parameters, float32 [D, O], not trainable, so that no
            optimizer of the weights finds them: a tape has to watch them. Logits of ops that
            a block lacks are not used.
    """

    def __init__(self, space: NetworkSpace, seed: int = 0, kind: str = "proxyless") -> None:
        super().__init__(name="supernet")
        self.space, self.kind = space, kind
        self._op_mask = space.op_mask
        self._before, self._after = _fixed_keras_layers(space, seed=seed, is_for_training=True)
        self._blocks = [self._block(d, seed) for d in range(space.num_blocks)]
        # tf.train.Checkpoint finds attributes, but not layers in the lists of Keras.
        for layer in (*self._before, *self._blocks, *self._after):
            setattr(self, f"layer_{layer.name}", layer)
        self.arch_logits = self.add_weight(
            name="arch_logits",
            shape=(space.num_blocks, space.num_ops),
            initializer="zeros",
            trainable=False,
        )
        self.reset_architecture(seed)
        last = space.blocks[-1]
        _build_chain(self._before, space.input_shape)
        _build_chain(self._after, (*last.output_shape, last.out_channels))
        self.built = True

    def reset_architecture(self, seed: int) -> None:
        """Set the architecture parameters to those that a new supernet of the seed has."""
        initialise = keras.initializers.RandomNormal(
            stddev=_LOGIT_STDDEV, seed=layer_seed(seed, "arch_logits")
        )
        self.arch_logits.assign(initialise(self.arch_logits.shape))

    def _block(self, block_index: int, seed: int) -> MixedOp:
        return SUPERNETS[self.kind](self.space, block_index, seed=seed)

    @property
    def network_weights(self) -> list[keras.Variable]:
        """Trainable variables: those of the fixed layers, and one for the ops of each block."""
        return self.trainable_weights

    def is_kernel(self, variable: keras.Variable) -> np.ndarray | bool:
        """Return a mask of the numbers of a network weight that belong to kernels (and decay)."""
        for block in self._blocks:
            if variable is block.packed:
                return block.is_kernel
        return variable.name == "kernel"

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return the logits of the architecture with the largest architecture parameters."""
        logits = tf.where(self._op_mask, self.arch_logits.value, -math.inf)
        op_indices = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return self.call_path(images, op_indices, None, bool(training))

    def call_path(
        self,
        images: tf.Tensor,
        op_indices: Sequence[int] | tf.Tensor,
        gates: tf.Tensor | None = None,
        training: bool = False,
        inactive: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Run one network of the space; no other op is computed or changed.

        Args:
            images: Images, float32 [B, H, W, C], or series [B, T, C], in 0..1.
            op_indices: Op of each block, int32 [D]. Logits are NaN where a block lacks it.
            gates: Factors of the ops' outputs, inside the identity of a skippable block,
                float32 [D, O], or None. The gate of `zero`, whose output is 0, has gradient 0.
            training: Whether to normalise by the batch, and update the moving statistics.
            inactive: Ops that are computed beside those of `op_indices` for the gradient of
                their gates, int32 [D], or None. The op of a block that has one alone is
                computed once.
        Returns:
            Logits, float32 [B, classes].
        """
        op_indices = tf.convert_to_tensor(op_indices, tf.int32)
        x = apply_layers(self._before, images, training)
        for d, mixed_op in enumerate(self._blocks):
            has_inactive = self._op_mask[d].sum() > 1
            outputs = mixed_op(
                x,
                op_indices[d],
                None if gates is None else gates[d],
                training=training,
                inactive_index=None if inactive is None or not has_inactive else inactive[d],
            )
            x = x + outputs if mixed_op.block.is_skippable else outputs
        return apply_layers(self._after, x, training)

    def mixture_weights(self) -> tf.Tensor:
        """Return the softmax of the logits over each block's ops, float32 [D, O].

        Exactly 0 where a block does not have the op; differentiable in `arch_logits`.
        """
        return _masked_softmax(self.arch_logits.value, self._op_mask)

    def sample_uniform(self, seed: ArrayLike) -> tf.Tensor:
        """Draw op indices, int32 [D], all ops of a block equally likely.

        Args:
            seed: Seed of the draw, int32 [2].
        """
        noise = tf.random.stateless_uniform(self._op_mask.shape, seed)
        return tf.argmax(tf.where(self._op_mask, noise, -1.0), axis=-1, output_type=tf.int32)

    def sample_fair(self, seed: ArrayLike, index: tf.Tensor | int) -> tf.Tensor:
        """Return one of O paths that together have each op of each block equally often.

        Source: FairNAS (Chu et al., 2019), strict fairness; there the O gradients are added
        up to one step, here each path is a step of its own.

        Args:
            seed: Seed of the O paths, int32 [2].
            index: Number of the path among them, from 0.
        Returns:
            Op indices, int32 [D]. Blocks that lack ops go through those they have.
        """
        noise = tf.random.stateless_uniform(self._op_mask.shape, seed)
        order = tf.argsort(tf.where(self._op_mask, noise, 2.0), axis=-1)
        place = index % tf.constant(self._op_mask.sum(axis=1), tf.int32)
        return tf.gather(order, place, batch_dims=1)

    def sample_gates(
        self, seed: ArrayLike, temperature: tf.Tensor | float = 1.0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw op indices by the mixture weights, with gates that pass a gradient on.

        gates = one_hot + soft - stop_gradient(soft), where soft is the Gumbel softmax of the
        logits and one_hot its argmax, distributed as the mixture weights at any temperature.

        Args:
            seed: Seed of the draw, int32 [2].
            temperature: Temperature of the Gumbel softmax.
        Returns:
            Op indices, int32 [D], and gates, float32 [D, O], whose values are one-hot.
        """
        uniform = tf.random.stateless_uniform(self._op_mask.shape, seed, minval=_TINY)
        noisy = self.arch_logits.value - tf.math.log(-tf.math.log(uniform))
        soft = _masked_softmax(noisy / temperature, self._op_mask)
        noisy = tf.where(self._op_mask, noisy, -math.inf)
        op_indices = tf.argmax(noisy, axis=-1, output_type=tf.int32)
        one_hot = tf.one_hot(op_indices, self.space.num_ops)
        return op_indices, one_hot + (soft - tf.stop_gradient(soft))

    def sample_pair(self, seed: ArrayLike) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draw two ops of each block, without replacement, by the mixture weights.

        Args:
            seed: Seed of the draw, int32 [2].
        Returns:
            The pair, float32 [D, O], 1 at its ops; the active op of it, drawn by the mixture
            weights of the two alone, and the inactive one, int32 [D] each. A block with one
            op alone has it as both.
        """
        num_blocks, num_ops = self._op_mask.shape
        uniform = tf.random.stateless_uniform([num_blocks, num_ops + 1], seed, minval=_TINY)
        noisy = self.arch_logits.value - tf.math.log(-tf.math.log(uniform[:, :num_ops]))
        # The two largest of noisy logits are a sample without replacement.
        two = tf.math.top_k(tf.where(self._op_mask, noisy, -math.inf), k=2).indices
        two = tf.where(self._op_mask.sum(axis=1)[:, None] > 1, two, two[:, :1])
        logits = tf.gather(self.arch_logits.value, two, batch_dims=1)
        is_first = uniform[:, num_ops] < tf.sigmoid(logits[:, 0] - logits[:, 1])
        active = tf.where(is_first, two[:, 0], two[:, 1])
        inactive = tf.where(is_first, two[:, 1], two[:, 0])
        pair = tf.reduce_max(tf.one_hot(two, num_ops), axis=1)
        return pair, active, inactive

    def inherited_network(self, architecture: Architecture) -> keras.Model:
        """Build a network of stock layers with copies of the shared weights."""
        network = build_network(self.space, architecture)
        fixed = (*self._before, *self._after)
        weights = {layer.name: layer.get_weights() for layer in fixed if layer.weights}
        for block, op_index in zip(self._blocks, self.space.to_indices(architecture), strict=True):
            weights |= block.keras_weights(op_index)
        for name, values in weights.items():
            network.get_layer(name).set_weights(values)
        return network


def derive(supernet: Supernet) -> Architecture:
    """Return the architecture with the largest logit in each block.

    >>> import dance_tf
    >>> space = dance_tf.make_space(dance_tf.preset("tiny").space)
    >>> supernet = dance_tf.Supernet(space)
    >>> _ = supernet.arch_logits.assign([[0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]])
    >>> dance_tf.derive(supernet).ops
    ('mbconv5_e3', 'zero')
    """
    space = supernet.space
    logits = np.where(space.op_mask, supernet.arch_logits.numpy(), -np.inf)
    return space.from_indices(np.argmax(logits, axis=-1))


def _masked_softmax(logits: tf.Tensor, mask: np.ndarray) -> tf.Tensor:
    """Return the softmax over the last axis; exactly 0, with gradient 0, outside the mask."""
    return tf.nn.softmax(tf.where(mask, logits, -math.inf), axis=-1)


def _build_chain(layers: list[keras.layers.Layer], input_shape: tuple[int, ...]) -> None:
    shape: tuple[int | None, ...] = (None, *input_shape)
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
