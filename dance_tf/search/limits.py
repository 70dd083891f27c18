"""Hard limits during the search: steps that would leave a cost above its limit are altered.

    violated: cost_i of the network that would be derived now > limit_i
    step'  =  step + the smallest vector with  gradient_i . step' <= -delta  for all violated i

delta is a share of the limit; it grows with each alteration and starts again after a step
that needs none. A step is altered again, by a further delta, where the first alteration
leaves another network above a limit to be derived, at most ten times.

Source: HDX (2022), the gradient manipulation.

Differs from the paper: HDX alters the gradient. Adam scales each coordinate of what it
gets, so that an altered gradient need not lower the cost; the step of the optimizer itself
is altered here. And a limit counts as violated where the network that would be derived
violates it, not the mixture, whose expected cost nobody has to pay.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from dance_tf.config import SearchConfig
from dance_tf.hardware.objective import Limits

__all__ = ["LimitKeeper", "limits_of", "smallest_correction"]

# The most that a correction moves a logit: a factor of e in the odds. Where the mixture has
# hardened, gradients vanish and first-order steps would be endless.
_LARGEST_MOVE = 1.0

# Alterations of one step.
_MOST_CORRECTIONS = 10


def limits_of(config: SearchConfig) -> Limits | None:
    """Return the limits that a config gives; None if it gives none."""
    limits = Limits(config.max_latency_ms, config.max_energy_mj, config.max_area_mm2)
    return None if limits == Limits() else limits


def smallest_correction(step: np.ndarray, gradients: np.ndarray, fall: float) -> np.ndarray:
    """Return the smallest m with gradients @ (step + m) <= -fall, float64 [N].

    The conditions that hold with equality are found by trying all sets of them, smallest
    first. Where gradients point in opposite directions, so that no step lowers both, the
    one that the step raises most is corrected for.

    Args:
        step: float64 [N].
        gradients: float64 [K, N], K small.
        fall: Positive.
    """
    missing = gradients @ step + fall  # [K], positive where the fall is too small
    scale = np.abs(missing).max(initial=0.0) + fall
    for size in range(len(gradients) + 1):
        for rows in map(list, itertools.combinations(range(len(gradients)), size)):
            some = gradients[rows]
            multipliers = np.linalg.lstsq(some @ some.T, missing[rows], rcond=None)[0]
            correction = -some.T @ multipliers
            left = gradients @ correction + missing
            if (multipliers >= 0).all() and (left <= 1e-9 * scale).all():
                return correction
    worst = gradients[np.argmax(missing)]
    return -worst * missing.max() / max(float(worst @ worst), np.finfo(np.float64).tiny)


class LimitKeeper:
    """Alters architecture steps that leave the derived network above a limit.

    Args:
        supernet: What has `arch_logits`, `mixture_weights` and `space`.
        evaluator: A `choice.ChosenEvaluator` within the limits.
        limits: What the network may cost.
        objective_vector: float32 [4]; which accelerator is best.
        config: limit_delta and limit_growth.

    Attributes:
        delta: What a violated cost has to fall by in a step, as a share of its limit.
    """

    def __init__(
        self,
        supernet: Any,
        evaluator: Any,
        limits: Limits,
        objective_vector: np.ndarray,
        config: SearchConfig,
    ) -> None:
        self._supernet, self._evaluator = supernet, evaluator
        self._limits, self._vectors = limits.vector, tf.constant(objective_vector[None])
        self._start, self._growth = config.limit_delta, config.limit_growth
        self.delta = self._start

    def keep(self, before: np.ndarray) -> tuple[bool, float]:
        """Alter the step that has just been made, where it has to be.

        Args:
            before: Logits before it, float32 [D, O].
        Returns:
            Whether it was altered, and the largest cost of the network that would be
            derived after the unaltered step, as a share of its limit, minus 1.
        """
        was_altered, excess = is_altered, _ = self._correct(before)
        for _ in range(_MOST_CORRECTIONS - 1):
            if not is_altered:
                break
            is_altered, _ = self._correct(self._supernet.arch_logits.numpy())
        if not was_altered:
            self.delta = self._start
        return was_altered, excess

    def _correct(self, before: np.ndarray) -> tuple[bool, float]:
        """Alter the step from `before` to where the logits are, once."""
        metrics, gradients = (np.asarray(x, np.float64) for x in self._look())
        excess = float((metrics / self._limits).max()) - 1.0
        gradients = gradients.reshape(2, -1)
        is_violated = metrics[:2].astype(np.float32) > self._limits[:2]
        is_violated &= np.isfinite(gradients).all(axis=1) & gradients.any(axis=1)
        if not is_violated.any():
            return False, excess
        logits = self._supernet.arch_logits
        after = logits.numpy()
        step = (after - before).ravel().astype(np.float64)
        move = smallest_correction(step, gradients[is_violated], self.delta)
        largest = np.abs(move).max()
        if largest > _LARGEST_MOVE:
            move *= _LARGEST_MOVE / largest
        logits.assign(after + move.reshape(after.shape).astype(np.float32))
        self.delta *= 1.0 + self._growth
        return True, excess

    @tf.function(autograph=False)
    def _look(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the derived network's metrics [3] and the gradients of the shares [2, D, O].

        The gradients are those of the mixture's latency and energy on the accelerator of
        the derived network, as shares of their limits. The area has none: it is the
        accelerator's.
        """
        logits = self._supernet.arch_logits.value
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(logits)
            mixture = self._supernet.mixture_weights()
            op_indices = tf.argmax(mixture, axis=-1)
            derived = tf.one_hot(op_indices, mixture.shape[-1])
            evaluation = self._evaluator.evaluate(derived[None], self._vectors)
            metrics = self._evaluator.estimate(mixture[None], evaluation.accelerator_index)[0]
            shares = tf.unstack(metrics[:2] / self._limits[:2])
        gradients = [tape.gradient(share, logits) for share in shares]
        return evaluation.metrics[0], tf.stack(gradients)
