"""Random search: networks drawn uniformly, accelerators at random within the limits.

The least that any strategy has to beat. `best_accelerator` gives each network the exact best
one instead of a random one, which costs no training.
"""

from __future__ import annotations

import numpy as np

from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials

__all__ = ["RandomPairs"]

#: Networks in a row that no accelerator runs within the limits, after which none is expected to.
_MOST_MISSES = 5000


class RandomPairs:
    """Random networks.

    Args:
        use_best_accelerator: Whether each has its exact best accelerator, or a random one.
    """

    def __init__(self, use_best_accelerator: bool = False) -> None:
        self.name = "random_networks" if use_best_accelerator else "random_pairs"
        self._use_best = use_best_accelerator

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield random pairs within the limits, while there are any; see SearchStrategy."""
        rng, costs, num_misses = np.random.default_rng(seed), problem.costs, 0
        while num_misses < _MOST_MISSES:
            ops = problem.random_network(rng)
            if self._use_best:
                within = np.asarray([costs.best(ops).accelerator])
                within = within[within >= 0]
            else:
                within = np.flatnonzero(costs.is_within(costs.metrics(ops)))
            num_misses = 0 if len(within) else num_misses + 1
            if len(within):
                yield Pair(ops, int(within[0] if self._use_best else rng.choice(within)))
