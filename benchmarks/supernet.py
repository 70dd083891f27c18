"""Seconds of a step of each supernet, beside one that evaluates all candidate ops."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from dance_tf.supernet.blocks import MixedOp
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.sgd import RowSGD
from dance_tf.supernet.supernet import SUPERNETS, Supernet

__all__ = ["measure_steps"]

# Steps before the clock starts: the first one traces.
_NUM_WARM = 2


class _AllOfBlock(MixedOp):
    """Runs every op of the block, and adds the outputs up by their gates."""

    def call(
        self,
        inputs: tf.Tensor,
        op_index: tf.Tensor,
        gates: tf.Tensor | None = None,
        training: bool = False,
        inactive_index: tf.Tensor | None = None,
    ) -> tf.Tensor:
        del op_index, inactive_index
        assert gates is not None  # Both steps that run all candidates give them.
        outputs = []
        for o, op in enumerate(self._ops):
            if op.num_weights:
                row, statistics = self.packed.value[o], self.statistics.value[o]
                outputs.append(gates[o] * op(inputs, row, statistics, training)[0])
        return tf.add_n(outputs)


class _AllCandidates(Supernet):
    def _block(self, block_index: int, seed: int) -> MixedOp:
        return _AllOfBlock(self.space, block_index, seed=seed)


class _Steps:
    """The steps of one supernet on one batch of random images."""

    def __init__(self, supernet: Supernet, images: tf.Tensor, labels: tf.Tensor) -> None:
        self._supernet, self._images, self._labels = supernet, images, labels
        self._optimizer = RowSGD(0.01, is_kernel=supernet.is_kernel)
        self._optimizer.build(supernet.network_weights)

    def _loss(self, op_indices: tf.Tensor, gates: tf.Tensor | None) -> tf.Tensor:
        logits = self._supernet.call_path(self._images, op_indices, gates, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self._labels, logits)
        return tf.reduce_mean(losses)

    @tf.function
    def train_path(self, op_indices: tf.Tensor) -> tf.Tensor:
        """Train the weights of a path."""
        return self._train(op_indices, None)

    @tf.function
    def train_mixture(self, op_indices: tf.Tensor) -> tf.Tensor:
        """Train the weights under a mixture of all ops."""
        space = self._supernet.space
        return self._train(op_indices, tf.constant(space.op_mask / space.num_ops, tf.float32))

    def _train(self, op_indices: tf.Tensor, gates: tf.Tensor | None) -> tf.Tensor:
        weights = self._supernet.network_weights
        values = [weight.value for weight in weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = self._loss(op_indices, gates)
        self._optimizer.apply(tape.gradient(loss, values), weights)
        return loss

    @tf.function
    def gate_gradient(self, op_indices: tf.Tensor) -> tf.Tensor:
        """Return the gradient in the gates, [D, O], at those of a path."""
        gates = tf.one_hot(op_indices, self._supernet.space.num_ops)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(gates)
            loss = self._loss(op_indices, gates)
        return tape.gradient(loss, gates)

    @tf.function
    def losses_of(self, paths: tf.Tensor) -> tf.Tensor:
        """Return the losses of several paths, [K], which "score_function" compares."""
        return tf.map_fn(
            lambda path: self._loss(path, None),
            paths,
            parallel_iterations=1,
            fn_output_signature=tf.float32,
        )


def measure_steps(
    space: NetworkSpace,
    *,
    batch_size: int,
    num_steps: int,
    num_paths: int = 4,
    seed: int = 0,
) -> dict[str, float]:
    """Return the mean seconds of each kind of step.

    The kinds take turns on the same sampled paths, so other work on the machine slows
    all alike.

    Args:
        space: Network space.
        batch_size: Images in a step.
        num_steps: Timed steps of each kind.
        num_paths: Paths that a step of "score_function" compares.
        seed: Seed of weights, images and paths.
    Returns:
        Per supernet `..._train_path`, `..._gate_gradient` and `..._score_function`; and
        `all_candidates_train`, `all_candidates_gate_gradient`, which evaluate every op of
        every block.
    """
    random = np.random.RandomState(seed)
    shape = (batch_size, *space.input_shape)
    images = tf.constant(random.rand(*shape), tf.float32)
    labels = tf.constant(random.randint(0, space.num_classes, batch_size))
    kinds: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {}
    held = []  # Functions of a method do not keep its object alive.
    for kind in SUPERNETS:
        steps = _Steps(Supernet(space, seed, kind), images, labels)
        held.append(steps)
        kinds[f"{kind}_train_path"] = steps.train_path
        kinds[f"{kind}_gate_gradient"] = steps.gate_gradient
        kinds[f"{kind}_score_function"] = steps.losses_of
    steps = _Steps(_AllCandidates(space, seed), images, labels)
    kinds["all_candidates_train"] = steps.train_mixture
    kinds["all_candidates_gate_gradient"] = steps.gate_gradient
    seconds = dict.fromkeys(kinds, 0.0)
    for step in range(_NUM_WARM + num_steps):
        paths = tf.constant(space.sample(num_paths, seed + step))
        for name, run in kinds.items():
            began = time.perf_counter()
            run(paths if name.endswith("score_function") else paths[0]).numpy()
            if step >= _NUM_WARM:
                seconds[name] += (time.perf_counter() - began) / num_steps
    return seconds
