"""Best of both worlds: one reward for network and accelerator, and three ways to search it.

    reward = weighted sum of accuracy and cost, where all thresholds are kept,
    else a punishment that grows with the excess over them, and no credit for accuracy

- "combined": one controller samples network and accelerator.
- "phase": a controller each. In a network phase the accelerator is frozen, in a phase of the
  accelerator the network is, at the best pair of the phase before.
- "separate": the network is searched for accuracy alone; whenever one is the most accurate so
  far, the accelerator is searched for it.

Differs from the paper:
- Accuracy counts as -log(error), cost as cost_weight * log(cost); a ladder of weights for a
  front takes the place of a ladder of thresholds. Advantages are scaled.
- Thresholds are the limits.
- Phases are shorter, for budgets of hundreds of networks: 20 networks, then 200 accelerators,
  which cost no training; before the first network phase there is one of the accelerator.
- Separate: other networks are handed in on the accelerator of the most accurate.

Source: Abdelfattah et al. (2020), Best of Both Worlds: AutoML Codesign of a CNN and its
Hardware Accelerator (DAC), sections III and IV.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

import keras
import numpy as np

from dance_tf.search.strategies.controllers import (
    BATCH_SIZE,
    Controller,
    MovingBaseline,
    accelerator_choices,
    episodes,
    excess_and_log_costs,
    highest_log_cost,
)
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials, over_cost_weights

__all__ = ["BestOfBoth"]

#: Batches of a network phase; those of a phase of the accelerator, and the episodes of each.
_NETWORK_BATCHES = 4
_ACCELERATOR_BATCHES = 10
_ACCELERATOR_EPISODES = 20


class BestOfBoth:
    """Controllers with one reward.

    Args:
        kind: How network and accelerator are searched.
    """

    def __init__(self, kind: Literal["combined", "phase", "separate"]) -> None:
        self.name, self._kind = f"best_of_both_{kind}", kind

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield samples; see SearchStrategy."""
        if self._kind == "separate":  # a network search that no cost is part of
            return _Separate(problem, seed).trials(seed)
        search = _Combined if self._kind == "combined" else _Phase
        return over_cost_weights(problem, seed, lambda p, s: search(p, s).trials(s))


class _Search:
    """One search for one trade-off."""

    def __init__(self, problem: StrategyProblem, seed: int) -> None:
        self._problem, self._num_blocks = problem, problem.space.num_blocks
        self._least_reward = -problem.goal.value(1.0, highest_log_cost(problem, seed))

    def trials(self, seed: int) -> Trials:
        return episodes(self._begin, self._play, seed)

    def _begin(self, seed: int) -> None:
        raise NotImplementedError

    def _play(self) -> Generator[Pair, float, None]:
        raise NotImplementedError

    def _controller(self, choices: np.ndarray, seed: int) -> Controller:
        optimizer = keras.optimizers.Adam(0.02, clipnorm=5.0)
        return Controller(choices, seed, optimizer, num_layers=1, entropy_weight=0.01)

    def _row(self, heads: np.ndarray) -> int:
        return int(self._problem.table.accelerators.index_of_heads(heads))

    def _rewarded(self, pair: Pair) -> Generator[Pair, float, float]:
        """Train a pair within the thresholds, and return its reward."""
        misses, log_costs = excess_and_log_costs(self._problem, pair.ops, np.asarray([pair[1]]))
        if misses[0] > 0:
            return self._least_reward - min(float(misses[0]), 1.0)
        error = yield pair
        return -self._problem.goal.value(error, float(log_costs[0]))


class _Combined(_Search):
    def _begin(self, seed: int) -> None:
        choices = accelerator_choices(self._problem, with_ops=True)
        self._both, self._baseline = self._controller(choices, seed), MovingBaseline(0.9)

    def _play(self) -> Generator[Pair, float, None]:
        sampled, rewards = self._both.sample(BATCH_SIZE), []
        for decisions in sampled:
            ops = tuple(decisions[: self._num_blocks].tolist())
            reward = yield from self._rewarded(Pair(ops, self._row(decisions[self._num_blocks :])))
            rewards.append(reward)
        self._both.learn(sampled, self._baseline.advantages(np.asarray(rewards)))


class _Phase(_Search):
    def _begin(self, seed: int) -> None:
        self._networks = self._controller(self._problem.space.op_mask, seed)
        self._hardware = self._controller(accelerator_choices(self._problem), seed + 1)
        self._of_networks, self._of_hardware = MovingBaseline(0.9), MovingBaseline(0.9)
        rng, costs = np.random.default_rng(seed), self._problem.costs
        self._ops = self._problem.random_network(rng)
        for _ in range(100):  # a network that can keep to the thresholds, where one turns up
            if costs.best(self._ops).accelerator >= 0:
                break
            self._ops = self._problem.random_network(rng)
        self._row_now, self._num_batches = self._search_accelerator(self._ops), 0

    def _search_accelerator(self, ops: tuple[int, ...]) -> int:
        """Return the best accelerator for a network that a phase samples."""
        found: list[tuple[float, float, int]] = []
        for _ in range(_ACCELERATOR_BATCHES):
            sampled = self._hardware.sample(_ACCELERATOR_EPISODES)
            rows = self._problem.table.accelerators.index_of_heads(sampled)
            misses, log_costs = excess_and_log_costs(self._problem, ops, rows)
            found += zip(misses.tolist(), log_costs.tolist(), rows.tolist(), strict=True)
            rewards = -log_costs - 10.0 * misses
            self._hardware.learn(sampled, self._of_hardware.advantages(rewards))
        return min(found)[2]

    def _play(self) -> Generator[Pair, float, None]:
        if self._num_batches == _NETWORK_BATCHES:
            self._row_now, self._num_batches = self._search_accelerator(self._ops), 0
        sampled, rewards = self._networks.sample(BATCH_SIZE), []
        for ops in map(tuple, sampled.tolist()):
            reward = yield from self._rewarded(Pair(ops, self._row_now))
            rewards.append(reward)
        self._networks.learn(sampled, self._of_networks.advantages(np.asarray(rewards)))
        self._ops = tuple(sampled[int(np.argmax(rewards))].tolist())
        self._num_batches += 1


class _Separate(_Phase):
    """Network first, for its accuracy; then the accelerator."""

    def _begin(self, seed: int) -> None:
        super()._begin(seed)
        self._least_error = np.inf

    def _play(self) -> Generator[Pair, float, None]:
        sampled, rewards = self._networks.sample(BATCH_SIZE), []
        for ops in map(tuple, sampled.tolist()):
            error = yield Pair(ops, self._row_now)
            rewards.append(-float(np.log(max(error, 1e-4))))
            if error < self._least_error:
                self._least_error, row = error, self._search_accelerator(ops)
                self._row_now = row
                yield Pair(ops, row)
        self._networks.learn(sampled, self._of_networks.advantages(np.asarray(rewards)))
