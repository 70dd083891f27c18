"""Baselines that do not search network and accelerator together.

All let networks alone evolve by regularised evolution, and differ in what the evolution knows
of the accelerator:

- "accuracy_first" minimises the error, and looks the exact best accelerator up afterwards.
- "macs_penalty" minimises log(error) + 2 * cost_weight * log(MACs), and looks the exact best
  accelerator up afterwards. Twice, because latency and energy both grow with the MACs.
- "fixed_accelerator" minimises log(error) + cost_weight * log(cost) on one accelerator for
  all networks, the best for the uniform mixture of all ops.

The first two do not know the limits either: where no accelerator is within them for a network,
it is handed in on the one that exceeds them least.

Differs from the paper:
- The searches are evolutions over trained networks, not gradient searches on a supernet.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from dance_tf.hardware.layers import op_macs
from dance_tf.hardware.objective import Limits
from dance_tf.search.strategies.problem import Pair, PairCosts, StrategyProblem, Trials
from dance_tf.search.strategies.regularised_evolution import (
    aging_evolution,
    weight_drawer,
    with_another_op,
)

__all__ = ["Baseline", "best_for_mixture", "least_excess"]

#: Draws after which no network is taken to be within the limits of the fixed accelerator.
_MOST_DRAWS = 1000


def least_excess(costs: PairCosts, ops: tuple[int, ...], limits: Limits | None) -> int:
    """Return the accelerator, a row, that exceeds limits least by the largest of its shares."""
    metrics = costs.metrics(ops)
    shares = np.where(np.isfinite(metrics), metrics, np.inf) / (limits or Limits()).vector
    return int(np.argmin(np.where(np.isfinite(metrics).all(axis=1), shares.max(axis=1), np.inf)))


def best_for_mixture(problem: StrategyProblem) -> int:
    """Return the row of the accelerator that is the best for the uniform mixture of all ops.

    Only accelerators on which the network of the cheapest ops keeps to the limits are looked at,
    where there are any.
    """
    costs, mask = problem.costs, problem.space.op_mask
    latency_ms, energy_mj = (
        column[1:].reshape(*mask.shape, -1) for column in problem.table.columns()
    )
    is_there = mask[..., None] & np.isfinite(latency_ms)
    mixture = [
        (np.where(is_there, cells, 0.0).sum(axis=1) / is_there.sum(axis=1)).sum(axis=0)
        for cells in (latency_ms, energy_mj)
    ]
    fixed = costs.metrics([int(row.argmax()) for row in mask])[:, 2]  # mm2
    metrics = np.stack(
        [
            mixture[0] + problem.table.fixed_latency_ms,
            mixture[1] + problem.table.fixed_energy_mj,
            fixed,
        ],
        axis=1,
    )
    least = np.where(is_there, latency_ms, np.inf).min(axis=2).argmin(axis=1)
    is_within = costs.is_within(costs.metrics([int(op) for op in least]))
    values = costs.log_costs(metrics)
    return int(np.argmin(np.where(is_within, values, np.inf) if is_within.any() else values))


class Baseline:
    """A network search that is not a co-search.

    Args:
        kind: What the network search knows of the accelerator, and the name.
    """

    def __init__(
        self, kind: Literal["accuracy_first", "macs_penalty", "fixed_accelerator"]
    ) -> None:
        self.name = kind

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield the networks of an evolution; see SearchStrategy."""
        rng = np.random.default_rng(seed)
        place = _OnFixed(problem) if self.name == "fixed_accelerator" else _OnBest(problem)
        fixed_macs, macs = op_macs(problem.space)
        blocks = np.arange(problem.space.num_blocks)

        def log_cost(pair: Pair) -> float:
            if self.name == "macs_penalty":
                return 2.0 * float(np.log(fixed_macs + macs[blocks, pair.ops].sum()))
            return problem.costs.at(*pair).log_cost

        def first() -> Pair | None:
            draws = (place(problem.random_network(rng)) for _ in range(_MOST_DRAWS))
            return next((pair for pair in draws if pair is not None), None)

        return aging_evolution(
            first,
            lambda pair: place(with_another_op(pair.ops, problem.space.op_mask, rng)),
            log_cost,
            (lambda: 0.0) if self.name == "accuracy_first" else weight_drawer(problem.goal, rng),
            rng,
        )


class _OnBest:
    """Networks on their exact best accelerators, within the limits where there is one."""

    def __init__(self, problem: StrategyProblem) -> None:
        self._problem = problem

    def __call__(self, ops: tuple[int, ...]) -> Pair:
        costs = self._problem.costs
        row = costs.best(ops).accelerator
        return Pair(ops, row if row >= 0 else least_excess(costs, ops, self._problem.goal.limits))


class _OnFixed:
    """Networks on the accelerator that is best for the uniform mixture; None outside the limits."""

    def __init__(self, problem: StrategyProblem) -> None:
        self._costs, self.row = problem.costs, best_for_mixture(problem)

    def __call__(self, ops: tuple[int, ...]) -> Pair | None:
        is_within = self._costs.is_within(self._costs.at(ops, self.row).metrics)
        return Pair(ops, self.row) if is_within else None
