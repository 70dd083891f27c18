"""Estimators of the gradient of the held-out cross-entropy in the architecture parameters.

    score_function    compares the losses of a few sampled paths
    straight_through  one path, gates of the Gumbel softmax
    one_path          one path, ProxylessNAS's binary gates
    two_path          two ops of each block, one of which is active, and their binary gates

The gate of an op multiplies its output. Its gradient is the inner product of that output
with the gradient of the loss in the block's output: what the loss would change by, to
first order, if the op were added.

Source: Cai et al. (2019), ProxylessNAS, section 3.2 (binary gates; two sampled paths) and
the authors' code (the rescaling of two paths).

Differs from the paper: the score function is ours, and the default. It is without bias for
either kind of supernet. Where each op has weights of its own, one path with gates says
nothing of the ops that were not drawn, and the estimate was so small that any hardware
cost outweighed it; with shared weights all estimators have about the right size.
`python -m studies.compare_arch_gradients` measures them against the effect of each op;
its findings on a supernet of each kind are in docs/measured_searches.md.

Differs from the paper: where Zero is the active op, the authors' code leaves the block's
parameters as they are. Under a hardware cost from outside, Zero would then be chosen and
kept without ever being compared. Here the other op of `two_path` has its gradient beside
Zero's, which is 0, so that the two move apart; and the hardware cost counts in every step.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from dance_tf.config import SearchConfig
from dance_tf.supernet.supernet import Supernet

__all__ = ["ESTIMATORS", "Estimate", "cross_entropy", "estimate", "keep_totals"]


class Estimate(NamedTuple):
    """One step's view of the cross-entropy and of the mixture, for a gradient tape."""

    cross_entropy: tf.Tensor  # float32 [], of the sampled paths
    surrogate: tf.Tensor  # float32 [], whose gradient in the logits is the estimate
    mixture_weights: tf.Tensor  # float32 [D, O], for the hardware cost
    pair: tf.Tensor | None = None  # float32 [D, O], 1 at the ops whose total the step must keep


def estimate(
    supernet: Supernet,
    config: SearchConfig,
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
) -> Estimate:
    """Estimate by what `search.arch_gradient` names; the draw is a function of the seed.

    Args:
        supernet: Supernet whose paths are sampled.
        config: Estimator, number of paths and temperature.
        images: float32 [B, H, W, C], held out.
        labels: int [B].
        seed: int32 [2].
    """
    return ESTIMATORS[config.arch_gradient](supernet, config, images, labels, seed)


def keep_totals(before: tf.Tensor, after: tf.Tensor, pair: tf.Tensor) -> tf.Tensor:
    """Return logits after a step, shifted so that pairs are as probable as before it.

    A step on two paths compares two ops, and says nothing of how they stand to the others.
    Its gradient adds up to 0 over the two, but Adam scales each logit by itself.

        shift = logsumexp(after[pair]) - logsumexp(before[pair])

    Args:
        before, after: float32 [D, O].
        pair: float32 [D, O], 1 at the ops that the step compared. Other logits have not moved.
    """

    def log_total(logits: tf.Tensor) -> tf.Tensor:
        masked = tf.where(pair > 0, logits, -tf.float32.max)
        return tf.reduce_logsumexp(masked, axis=-1, keepdims=True)

    return after - pair * (log_total(after) - log_total(before))


def _score_function(
    supernet: Supernet,
    config: SearchConfig,
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
) -> Estimate:
    """Estimate from K paths on one batch, without bias.

        surrogate = sum_k (CE_k - mean of the others' CE) * log p(path_k) / K

    Source: Williams (1992), REINFORCE, with the leave-one-out baseline of Kool et al.
    (2019). Zero gets its gradient like any other op: from the paths that hold it.
    """
    seeds = tf.random.stateless_uniform([config.arch_paths, 2], seed, None, None, tf.int32)

    def run(path_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        op_indices, _ = supernet.sample_gates(path_seed, config.gumbel_temperature)
        logits = supernet.call_path(images, op_indices, None, training=True)
        return op_indices, cross_entropy(labels, logits)

    op_indices, losses = tf.nest.map_structure(
        tf.stop_gradient,
        # One after the other: a path costs as much memory as a batch.
        tf.map_fn(run, seeds, parallel_iterations=1, fn_output_signature=(tf.int32, tf.float32)),
    )
    mean = tf.reduce_mean(losses)
    advantages = (losses - mean) / (config.arch_paths - 1)  # (CE_k - others' mean) / K
    mixture_weights = supernet.mixture_weights()
    one_hot = tf.one_hot(op_indices, mixture_weights.shape[-1])
    log_p = tf.reduce_sum(tf.math.log(tf.reduce_sum(one_hot * mixture_weights, -1)), axis=-1)
    return Estimate(mean, tf.reduce_sum(advantages * log_p), mixture_weights)


def _straight_through(
    supernet: Supernet,
    config: SearchConfig,
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
) -> Estimate:
    """Estimate from one path whose gates have the gradient of the Gumbel softmax."""
    op_indices, gates = supernet.sample_gates(seed, config.gumbel_temperature)
    logits = supernet.call_path(images, op_indices, gates, training=True)
    loss = cross_entropy(labels, logits)
    return Estimate(loss, loss, supernet.mixture_weights())


def _one_path(
    supernet: Supernet,
    config: SearchConfig,
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
) -> Estimate:
    """Estimate from one path whose gates have the gradient of the mixture weights.

    Only what is computed has a gradient: of a block with weights for each op, the gate of
    the sampled op; of one with shared weights, every gate. Where the first kind of block
    has drawn Zero, the cross-entropy says nothing of it.
    """
    op_indices, _ = supernet.sample_gates(seed)
    mixture_weights = supernet.mixture_weights()
    gates = _passing_on(tf.one_hot(op_indices, mixture_weights.shape[-1]), mixture_weights)
    loss = cross_entropy(labels, supernet.call_path(images, op_indices, gates, training=True))
    return Estimate(loss, loss, mixture_weights)


def _two_path(
    supernet: Supernet,
    config: SearchConfig,
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
) -> Estimate:
    """Estimate from two ops of each block, with the gates of both.

    The two are drawn without replacement by the mixture weights. q, the mixture weights of
    the two alone, says which one is active and is what the gradient passes through:

        d CE / d logit_i = q_i q_j (gate gradient_i - gate gradient_j)

    Differs from the paper: the authors' code takes the expected cost over the two ops,
    which an objective of the whole network does not allow. Here the evaluator sees the
    whole mixture, and the gradient of its cost passes through q as well. The cost thus
    moves the same two logits with the same factor as the cross-entropy, and lambda_2 keeps
    its meaning; a gradient in all logits would be undone in part by the rescaling.
    """
    pair, active, inactive = supernet.sample_pair(seed)
    logits = tf.where(pair > 0, supernet.arch_logits.value, -tf.float32.max)
    shares = tf.nn.softmax(logits, axis=-1)  # q; exactly 0 outside the pair
    gates = _passing_on(tf.one_hot(active, pair.shape[-1]), shares)
    loss = cross_entropy(
        labels, supernet.call_path(images, active, gates, training=True, inactive=inactive)
    )
    mixture_weights = _passing_on(supernet.mixture_weights(), shares)
    return Estimate(loss, loss, mixture_weights, pair)


#: Estimator by its name; config.ARCH_GRADIENTS has the same names.
ESTIMATORS = {
    "score_function": _score_function,
    "straight_through": _straight_through,
    "one_path": _one_path,
    "two_path": _two_path,
}


def _passing_on(value: tf.Tensor, carrier: tf.Tensor) -> tf.Tensor:
    """Return `value` with the gradient of `carrier`."""
    return tf.stop_gradient(value) + (carrier - tf.stop_gradient(carrier))


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0) -> tf.Tensor:
    """Return the mean cross-entropy of a batch, nats.

    Args:
        labels: int [B].
        logits: float32 [B, classes].
        label_smoothing: Share of a label that is spread over all classes.
    """
    num_classes = logits.shape[-1]
    targets = tf.one_hot(
        labels,
        num_classes,
        on_value=1.0 - label_smoothing + label_smoothing / num_classes,
        off_value=label_smoothing / num_classes,
    )
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
