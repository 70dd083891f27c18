"""Notice that a search is ending in Zero everywhere, and weaken the hardware cost.

At each tenth of the architecture steps, but for the last, the logits are taken as far on
as they will go at the pace so far, at most as far again as they have gone. Where the
mixture weight of Zero, averaged over the skippable blocks, is then above
search.max_zero_share, the search is collapsing. The k-th time, lambda_2 is multiplied by
search.lambda_2_backoff ** k, and the architecture parameters start anew: under a cost that
was too strong, none of their decisions stands. The weights of the network stay.
"""

from __future__ import annotations

import numpy as np

from dance_tf.config import SearchConfig
from dance_tf.files import Json
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["CollapseGuard", "describe", "zero_weight"]

_NUM_CHECKS = 10


def zero_weight(space: NetworkSpace, mixture_weights: np.ndarray) -> float:
    """Return the weight of Zero, averaged over the skippable blocks, of a mixture [D, O]."""
    mask = space.skip_mask
    if not mask.any():
        return 0.0
    return float(np.sum(np.where(mask, mixture_weights, 0.0)) / mask.any(axis=1).sum())


class CollapseGuard:
    """Watches the logits of one search; a function of them and of its own state alone.

    Args:
        space: Network space.
        config: Configuration, of which max_zero_share, lambda_2 and lambda_2_backoff are used.
        num_steps: Architecture steps of the whole search.
        start_logits: Logits before the first of them, float32 [D, O].
        is_limited: True if there are hard limits. They may ask for Zero, so that a collapse
            is told of and changes nothing.

    Attributes:
        factor: Factor of lambda_2 as of now.
        collapses: Collapses that were noticed, as JSON data, oldest first.
    """

    def __init__(
        self,
        space: NetworkSpace,
        config: SearchConfig,
        num_steps: int,
        start_logits: np.ndarray,
        is_limited: bool,
    ) -> None:
        self._space, self._config, self._num_steps = space, config, num_steps
        self.start_logits, self._start_step = start_logits, 0
        self._can_back_off = config.lambda_2 > 0 and config.lambda_2_backoff < 1 and not is_limited
        self.factor = 1.0
        self.collapses: list[dict[str, Json]] = []

    def check(self, num_done: int, logits: np.ndarray) -> dict[str, Json] | None:
        """Return the collapse to tell of after an architecture step; None while all is well.

        Args:
            num_done: Architecture steps done.
            logits: Architecture parameters after the step, float32 [D, O].
        Returns:
            The new last entry of `collapses`. Where its `is_restarted` is true, the
            architecture parameters are to be set to `start_logits`.
        """
        interval = max(1, self._num_steps // _NUM_CHECKS)
        left = self._num_steps - num_done
        if num_done % interval or left < interval:
            return None
        share = self._expected_zero_weight(num_done, logits)
        is_told = bool(self.collapses) and not self._can_back_off
        if share <= self._config.max_zero_share or is_told:
            return None
        before = self._config.lambda_2 * self.factor
        if self._can_back_off:
            times = len(self.collapses) + 1
            self.factor *= self._config.lambda_2_backoff**times
            self._start_step = num_done
        self.collapses.append(
            {
                "architecture_step": num_done,
                "expected_zero_weight": share,
                "lambda_2_before": before,
                "lambda_2_after": self._config.lambda_2 * self.factor,
                "is_restarted": self._can_back_off,
            }
        )
        return self.collapses[-1]

    def _expected_zero_weight(self, num_done: int, logits: np.ndarray) -> float:
        num_since = num_done - self._start_step
        further = min(1.0, (self._num_steps - num_done) / num_since)
        logits = np.asarray(logits, np.float64)
        expected = logits + further * (logits - self.start_logits)
        expected = np.where(self._space.op_mask, expected, -np.inf)
        weights = np.exp(expected - expected.max(axis=1, keepdims=True))
        return zero_weight(self._space, weights / weights.sum(axis=1, keepdims=True))

    def state(self) -> dict[str, Json]:
        """Return what a checkpoint has to hold, as JSON data."""
        return {
            "factor": self.factor,
            "start_step": self._start_step,
            "start_logits": self.start_logits.tolist(),
            "collapses": self.collapses,
        }

    def restore(self, state: dict[str, Json]) -> None:
        """Take over what `state` returned."""
        self.factor, self._start_step = state["factor"], state["start_step"]
        self.start_logits = np.asarray(state["start_logits"], np.float32)
        self.collapses = list(state["collapses"])


def describe(collapse: dict[str, Json]) -> str:
    """Return an entry of `CollapseGuard.collapses` as a sentence."""
    text = (
        f"at architecture step {collapse['architecture_step']} the skippable blocks were on the"
        f" way to {collapse['expected_zero_weight']:.0%} Zero"
    )
    if not collapse["is_restarted"]:
        return text
    return (
        f"{text}: lambda_2 went from {collapse['lambda_2_before']:g} to"
        f" {collapse['lambda_2_after']:g}, and the architecture parameters started anew"
    )
