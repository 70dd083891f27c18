"""Regularised evolution of pairs of network and accelerator.

A population of pairs is a queue. In each step some are drawn, the best of them becomes a
parent, its child enters the queue and the oldest leaves. A child differs from its parent in
the op of one block, or in one field of the accelerator by a step or a few. Children outside
the limits are not trained.

Differs from the paper:
- Pairs evolve, not cells; the value of a pair weighs its cost.
- Where a front is asked for, each tournament draws its own weight of the cost, log-uniformly.
- Smaller population and tournaments, for budgets of hundreds instead of tens of thousands.
- A pair that no other beats in both error and cost stays a possible parent after it has left
  the queue: an error here is the same whenever it is asked for.
- A child that has been tried before is drawn again.

Source: Real et al. (2019), Regularized Evolution for Image Classifier Architecture Search,
algorithm 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.search.strategies.problem import (
    COST_WEIGHTS,
    Goal,
    Pair,
    StrategyProblem,
    Trials,
)
from dance_tf.search.sweep.fronts import front_rows

__all__ = [
    "RegularisedEvolution",
    "aging_evolution",
    "random_pair",
    "weight_drawer",
    "with_another_op",
    "with_field_moved",
]

#: Draws after which a child, or a pair within limits, is taken not to exist.
_MOST_DRAWS = 1000
_MOST_CHILDREN = 20

#: Pairs in a row that have been tried before, after which nothing is left.
_MOST_KNOWN = 200

#: Share of the children that differ from their parents in the accelerator.
_ACCELERATOR_SHARE = 0.5

#: Most steps that a field of the accelerator moves at once.
_MOST_STEPS = 3


class _Member(NamedTuple):
    """One pair of the population."""

    pair: Pair
    error: float
    log_cost: float


def with_another_op(
    ops: tuple[int, ...], op_mask: np.ndarray, rng: np.random.Generator
) -> tuple[int, ...]:
    """Return a network with another op in one block; as it is where no block has a choice.

    Args:
        ops: Index of each block's op, D.
        op_mask: Ops that each block has, bool [D, O].
        rng: Source of the draws.
    """
    blocks = np.flatnonzero(op_mask.sum(axis=1) > 1)
    if not len(blocks):
        return ops
    block = int(rng.choice(blocks))
    others = np.flatnonzero(op_mask[block] & (np.arange(op_mask.shape[1]) != ops[block]))
    return (*ops[:block], int(rng.choice(others)), *ops[block + 1 :])


def with_field_moved(accelerators: AcceleratorSpace, row: int, rng: np.random.Generator) -> int:
    """Return the row of an accelerator with one field moved by a few steps, within its values.

    Dataflows have no order: any other one is a step away.
    """
    sizes, heads = np.asarray(accelerators.head_sizes), accelerators.head_indices(row).copy()
    fields = np.flatnonzero(sizes > 1)
    if not len(fields):
        return row
    field = int(rng.choice(fields))
    if field == len(sizes) - 1:
        heads[field] = (heads[field] + rng.integers(1, sizes[field])) % sizes[field]
    else:
        step = int(rng.integers(1, _MOST_STEPS + 1)) * (1 if rng.random() < 0.5 else -1)
        heads[field] = np.clip(heads[field] + step, 0, sizes[field] - 1)
    return int(accelerators.index_of_heads(heads))


def random_pair(problem: StrategyProblem, rng: np.random.Generator) -> Pair | None:
    """Draw a network and an accelerator within the limits; None where none turns up."""
    for _ in range(_MOST_DRAWS):
        ops = problem.random_network(rng)
        within = np.flatnonzero(problem.costs.is_within(problem.costs.metrics(ops)))
        if len(within):
            return Pair(ops, int(rng.choice(within)))
    return None


def weight_drawer(goal: Goal, rng: np.random.Generator) -> Callable[[], float]:
    """Return a function that gives the goal's cost_weight, or draws one for a front."""
    if goal.cost_weight is not None:
        weight = goal.cost_weight
        return lambda: weight
    low, high = np.log(COST_WEIGHTS[0]), np.log(COST_WEIGHTS[-1])
    return lambda: float(np.exp(rng.uniform(low, high)))


def aging_evolution(
    first: Callable[[], Pair | None],
    child: Callable[[Pair], Pair | None],
    log_cost: Callable[[Pair], float],
    cost_weight: Callable[[], float],
    rng: np.random.Generator,
    *,
    population_size: int = 24,
    tournament_size: int = 16,
) -> Trials:
    """Yield the pairs of an aging evolution, until no pair can be drawn.

    Args:
        first: Function that draws a pair for the beginning, and where children run out; None
            ends the evolution.
        child: Function that draws a changed pair; None for one that is of no use.
        log_cost: Logarithm of the cost of a pair.
        cost_weight: Function that gives the weight of log_cost beside log(error), asked for
            in each tournament.
        rng: Source of the tournaments' draws.
        population_size: Length of the queue.
        tournament_size: Pairs drawn, of which the best is the parent.
    """
    population: deque[_Member] = deque(maxlen=population_size)
    front: list[_Member] = []
    tried: set[Pair] = set()
    num_known = 0
    while True:
        pair: Pair | None = None
        if len(population) == population_size:
            pool = list(dict.fromkeys([*front, *population]))
            drawn = [pool[i] for i in rng.permutation(len(pool))[:tournament_size]]
            goal = Goal(cost_weight())
            parent = min(drawn, key=lambda member: goal.value(member.error, member.log_cost))
            children = (child(parent.pair) for _ in range(_MOST_CHILDREN))
            pair = next((c for c in children if c is not None and c not in tried), None)
        if pair is None:
            pair = first()
        num_known = num_known + 1 if pair in tried else 0
        if pair is None or num_known == _MOST_KNOWN:
            return
        tried.add(pair)
        member = _Member(pair, (yield pair), log_cost(pair))
        population.append(member)
        front.append(member)
        front = [front[row] for row in front_rows([known[1:] for known in front])]


class RegularisedEvolution:
    """Aging evolution of pairs."""

    name = "regularised_evolution"

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield the first pairs, then children; see SearchStrategy."""
        rng, costs = np.random.default_rng(seed), problem.costs
        mask, accelerators = problem.space.op_mask, problem.table.accelerators

        def child(parent: Pair) -> Pair | None:
            ops, row = parent
            if rng.random() < _ACCELERATOR_SHARE:
                row = with_field_moved(accelerators, row, rng)
            else:
                ops = with_another_op(ops, mask, rng)
            return Pair(ops, row) if costs.is_within(costs.at(ops, row).metrics) else None

        return aging_evolution(
            lambda: random_pair(problem, rng),
            child,
            lambda pair: costs.at(*pair).log_cost,
            weight_drawer(problem.goal, rng),
            rng,
        )
