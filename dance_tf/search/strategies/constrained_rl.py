"""Reinforcement learning under resource constraints, after Lu et al.

A controller samples the op of each block. The hardware is no decision of it: the best
accelerator within the limits is searched exactly. A network that has none is not trained, and
its reward is the least; else the reward is how accurate it is.

Differs from the paper:
- Decisions are ops of blocks, not filters, strides and bit widths; the accelerator is searched
  among those of the space, not by a dynamic program over an FPGA's partitions.
- The reward is -log(error), less cost_weight * log(cost) where the goal weighs the cost; a
  network outside the limits counts as one of error 1 at the highest cost. Advantages are scaled.
- A front is searched with a ladder of caps on the cost, a controller for each.

Source: Lu et al. (2019), On Neural Architecture Search for Resource-Constrained Hardware
Platforms (ICCAD): two LSTM layers of 35 units, SGD with a rate of 0.2, batches of 5, baseline
of the mean of 20 rewards and a moving mean after that.
"""

from __future__ import annotations

from collections.abc import Generator

import keras
import numpy as np

from dance_tf.search.strategies.controllers import (
    BATCH_SIZE,
    Controller,
    MovingBaseline,
    episodes,
    highest_log_cost,
    random_candidates,
)
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials, over_rungs

__all__ = ["ConstrainedRl"]

#: Caps on the cost for a front, as quantiles of random networks.
_CAPS = (0.05, 0.2, 0.4, 0.65, 1.0)


class ConstrainedRl:
    """Controller of ops, with an exact search of the accelerator inside."""

    name = "constrained_rl"

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield feasible samples; see SearchStrategy."""
        if problem.goal.cost_weight is not None:
            return self._search(problem, np.inf, seed)
        log_costs = random_candidates(problem, seed)[1]
        caps = np.quantile(log_costs, _CAPS) if len(log_costs) else np.full(len(_CAPS), np.inf)
        return over_rungs(caps.tolist(), seed, lambda cap, own: self._search(problem, cap, own))

    def _search(self, problem: StrategyProblem, cap: float, seed: int) -> Trials:
        costs, goal = problem.costs, problem.goal
        least_reward = -goal.value(1.0, highest_log_cost(problem, seed))
        controller: Controller
        baseline: MovingBaseline

        def begin(new_seed: int) -> None:
            nonlocal controller, baseline
            controller = Controller(
                problem.space.op_mask, new_seed, keras.optimizers.SGD(0.2, clipnorm=5.0)
            )
            baseline = MovingBaseline(decay=1 - 2 / 20, num_first=20)

        def play() -> Generator[Pair, float, None]:
            sampled = controller.sample(BATCH_SIZE)
            rewards = np.full(BATCH_SIZE, least_reward)
            for episode, ops in enumerate(map(tuple, sampled.tolist())):
                best = costs.best(ops)
                if best.accelerator >= 0 and best.log_cost <= cap:
                    error = yield Pair(ops, best.accelerator)
                    rewards[episode] = -goal.value(error, best.log_cost)
            controller.learn(sampled, baseline.advantages(rewards))

        return episodes(begin, play, seed)
