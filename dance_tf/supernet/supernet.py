"""The supernet, whose candidate ops share one training, and the networks derived from it.

A step runs one path: in each block `tf.switch_case` runs the sampled op alone, inside
one traced function for all paths. The weights of a block's ops are the rows of one
variable, so the gradient of a step, and an optimizer that honours it, touches the rows
of the sampled ops only. Gates on the ops that are computed may have a gradient, of which
search/arch_gradients.py makes one of the architecture parameters.

Source: sampled paths and pairs from Cai et al. (2019), ProxylessNAS; gates of the Gumbel
softmax from Dong and Yang (2019), GDAS, equation 5.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dance_tf.structs import Architecture
from dance_tf.supernet.mixed_op import MixedOp
from dance_tf.supernet.network import build_network, fixed_keras_layers
from dance_tf.supernet.ops import apply_layers, layer_seed
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.superkernel import SuperkernelOp

__all__ = ["SUPERNETS", "Supernet", "build_network", "derive"]

#: Of the initial architecture parameters (ProxylessNAS).
_LOGIT_STDDEV = 1e-3

#: Smallest uniform number, so that its Gumbel noise is finite.
_TINY = float(np.finfo(np.float32).tiny)


#: How a block holds its ops, by the name of the supernet. `proxyless`: each op has weights
#: of its own, as in ProxylessNAS. `superkernel`: all are slices of the largest.
SUPERNETS: dict[str, type[MixedOp]] = {"proxyless": MixedOp, "superkernel": SuperkernelOp}


class Supernet(keras.Model):
    """All networks of a space with shared weights, and the architecture parameters.

    Args:
        space: Network space.
        seed: Of the initial weights and architecture parameters.
        kind: Name in SUPERNETS.

    Attributes:
        arch_logits: float32 [D, O], not trainable, so that no optimizer of the weights
            finds it: a tape has to watch it. Logits of ops that a block lacks are not used.
    """

    def __init__(self, space: NetworkSpace, seed: int = 0, kind: str = "proxyless") -> None:
        super().__init__(name="supernet")
        self.space, self.kind = space, kind
        self._op_mask = space.op_mask
        self._before, self._after = fixed_keras_layers(space, seed=seed, is_for_training=True)
        self._blocks = [self._block(d, seed) for d in range(space.num_blocks)]
        # tf.train.Checkpoint finds attributes, but not what lies in Keras's lists.
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
        _build_chain(self._before, space.input_size, space.image_channels)
        _build_chain(self._after, last.output_size, last.out_channels)
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
        """Trainable variables: of the fixed layers, and one of each block's ops."""
        return self.trainable_weights

    def is_kernel(self, variable: keras.Variable) -> np.ndarray | bool:
        """Return which numbers of a network weight are of kernels (and decay)."""
        for block in self._blocks:
            if variable is block.packed:
                return block.is_kernel
        return variable.name == "kernel"

    def call(self, images: Any, training: bool | None = None) -> tf.Tensor:
        """Return the logits of the architecture of the largest architecture parameters."""
        logits = tf.where(self._op_mask, self.arch_logits.value, -math.inf)
        op_indices = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return self.call_path(images, op_indices, None, bool(training))

    def call_path(
        self,
        images: Any,
        op_indices: Any,
        gates: Any = None,
        training: bool = False,
        inactive: Any = None,
    ) -> tf.Tensor:
        """Run one network of the space; no other op is computed or changed.

        Args:
            images: float32 [B, H, W, C] in 0..1.
            op_indices: int32 [D]. Logits are NaN where a block does not have the op.
            gates: float32 [D, O] or None: factors of the ops' outputs, inside the identity
                of a skippable block. The gate of `zero` has gradient 0: so has its output.
            training: Batch statistics instead of the moving ones, which are updated.
            inactive: int32 [D] or None: ops that are computed as well, beside those of
                `op_indices`, for the gradient of their gates. Where a block has one op
                alone, it is computed once.
        Returns:
            Logits, float32 [B, classes].
        """
        op_indices = tf.convert_to_tensor(op_indices, tf.int32)
        x = apply_layers(self._before, images, training)
        for d, mixed_op in enumerate(self._blocks):
            has_inactive = inactive is not None and self._op_mask[d].sum() > 1
            outputs = mixed_op(
                x,
                op_indices[d],
                None if gates is None else gates[d],
                training=training,
                inactive_index=inactive[d] if has_inactive else None,
            )
            x = x + outputs if mixed_op.block.is_skippable else outputs
        return apply_layers(self._after, x, training)

    def mixture_weights(self) -> tf.Tensor:
        """Return the softmax of the logits over each block's ops, float32 [D, O].

        Exactly 0 where a block does not have the op; differentiable in `arch_logits`.
        """
        return _masked_softmax(self.arch_logits.value, self._op_mask)

    def sample_uniform(self, seed: Any) -> tf.Tensor:
        """Draw op indices, int32 [D], each op of a block as likely as the others.

        Args:
            seed: int32 [2]; the draw is a function of it.
        """
        noise = tf.random.stateless_uniform(self._op_mask.shape, seed)
        return tf.argmax(tf.where(self._op_mask, noise, -1.0), axis=-1, output_type=tf.int32)

    def sample_gates(self, seed: Any, temperature: Any = 1.0) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw op indices by the mixture weights, with gates that pass a gradient on.

        gates = one_hot + soft - stop_gradient(soft), where soft is the Gumbel softmax of the
        logits and one_hot its argmax, distributed as the mixture weights at any temperature.

        Args:
            seed: int32 [2]; the draw is a function of it.
            temperature: Of the Gumbel softmax.
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

    def sample_pair(self, seed: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draw two ops of each block, without replacement, by the mixture weights.

        Args:
            seed: int32 [2]; the draw is a function of it.
        Returns:
            The pair, float32 [D, O], 1 at its ops; of these the op that is active, drawn by
            the mixture weights of the two alone, and the other one, int32 [D] each. A block
            with one op alone has it as both.
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
        weights = [w for layer in self._before for w in layer.get_weights()]
        for block, op_index in zip(self._blocks, self.space.to_indices(architecture), strict=True):
            weights += block.keras_weights(op_index)
        network.set_weights(weights + [w for layer in self._after for w in layer.get_weights()])
        return network


def derive(supernet: Supernet) -> Architecture:
    """Return the architecture of the largest logit in each block.

    The space's fixed layers remain whatever is chosen, so it always has weighted ops.
    """
    space = supernet.space
    logits = np.where(space.op_mask, supernet.arch_logits.numpy(), -np.inf)
    return space.from_indices(np.argmax(logits, axis=-1))


def _masked_softmax(logits: tf.Tensor, mask: np.ndarray) -> tf.Tensor:
    """Return the softmax over the last axis; exactly 0, with gradient 0, outside the mask."""
    return tf.nn.softmax(tf.where(mask, logits, -math.inf), axis=-1)


def _build_chain(layers: list[keras.layers.Layer], size: int, channels: int) -> None:
    shape: Any = (None, size, size, channels)
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
