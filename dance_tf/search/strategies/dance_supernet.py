"""DANCE on inherited accuracies alone: no network is trained before the end.

Errors of many networks with the weights of one supernet are fitted once, by the predictor of
search/accuracy; co-searches by gradient then go over a ladder of lambda_2, and the derived
networks are handed in for training in the order in which they add to the predicted front.
What their trainings say changes nothing any more.

Differs from the paper: the architecture step goes by a model of inherited errors, not by the
cross-entropy of each batch, so that the supernet is asked once for all searches.
"""

from __future__ import annotations

import numpy as np

from dance_tf.search.accuracy.predictor import FittedPredictor
from dance_tf.search.strategies.dance_predictor import CoSearches, choose
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials

__all__ = ["DanceSupernet"]

_NUM_ROUNDS = 6  # of co-searches from new starts, after which nothing new is expected


class DanceSupernet:
    """Gradient co-search under a predictor of inherited errors.

    Args:
        inherited: Predictor fitted to errors with inherited weights.
        num_searches: Co-searches that run side by side.
        num_steps: Architecture steps of each.
    """

    name = "dance_supernet"

    def __init__(
        self, inherited: FittedPredictor, num_searches: int = 64, num_steps: int = 80
    ) -> None:
        self._inherited = inherited
        self._num_searches, self._num_steps = num_searches, num_steps

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield networks on their exact best accelerators; see SearchStrategy."""
        rng, model = np.random.default_rng(seed), self._inherited.model
        searches = CoSearches(problem, model, self._num_searches, self._num_steps)
        mean = np.tile(self._inherited.coefficients, (self._num_searches, 1))
        known: dict[tuple[int, ...], float] = {}
        for _ in range(_NUM_ROUNDS):
            pool = [ops for ops in searches.derive(mean, rng) if ops not in known]
            for ops in choose(problem, self._inherited, known, pool, len(pool), rng):
                yield Pair(ops, problem.costs.best(ops).accelerator)
                known[ops] = float(self._inherited.errors([ops])[0])
