"""Random search: networks drawn uniformly, accelerators at random within the limits.

The least that any strategy has to beat. `best_accelerator` gives each network the exact best
one instead of a random one, which costs no training.
"""

from __future__ import annotations

import numpy as np

from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials

__all__ = ["RandomPairs"]


class RandomPairs:
    """Random networks.

    Args:
        use_best_accelerator: Whether each has its exact best accelerator, or a random one.
    """

    def __init__(self, use_best_accelerator: bool = False) -> None:
        self.name = "random_networks" if use_best_accelerator else "random_pairs"
        self._use_best = use_best_accelerator

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield random pairs that are within the limits; see SearchStrategy."""
        rng, costs = np.random.default_rng(seed), problem.costs
        while True:
            ops = problem.random_network(rng)
            if self._use_best:
                row = costs.best(ops).accelerator
                if row >= 0:
                    yield Pair(ops, row)
                continue
            within = np.flatnonzero(costs.is_within(costs.metrics(ops)))
            if len(within):
                yield Pair(ops, int(rng.choice(within)))
