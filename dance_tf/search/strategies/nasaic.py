"""NASAIC: a controller of network and accelerator under design specifications.

A controller samples the ops, then the four fields of the accelerator. Where the pair misses
the specifications, the accelerator alone is sampled anew, up to ten times. What still misses
them is not trained, and is punished by how far it misses; the rest is trained:

    reward = accuracy - rho * sum over metrics of max(value - spec, 0) / (bound - spec)

Differs from the paper:
- One network and one accelerator, not several networks on several sub-accelerators.
- Specifications are the limits. Without limits there are five sets of them in turn, quantiles
  of the metrics of random networks on their best accelerators, a controller for each.
- Accuracy counts as -log(error), less cost_weight * log(cost) where the goal weighs the cost.
  Advantages are scaled.
- The samples of the accelerator alone are learnt from too, by their cost and excess.

Source: Yang et al. (2020), Co-Exploration of Neural Architectures and Heterogeneous ASIC
Accelerator Designs Targeting Multiple Tasks (DAC): RMSProp, rate halved every 50 steps.
"""

from __future__ import annotations

from collections.abc import Generator

import keras
import numpy as np

from dance_tf.hardware.objective import Limits
from dance_tf.search.strategies.controllers import (
    BATCH_SIZE,
    Controller,
    MovingBaseline,
    accelerator_choices,
    advantages_of_tries,
    episodes,
    excess_and_log_costs,
    highest_log_cost,
    random_candidates,
)
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials, over_rungs

__all__ = ["Nasaic"]

#: Specifications without limits, as quantiles of random networks.
_SPECS = (0.1, 0.3, 0.5, 0.7, 0.9)

#: Samples of the accelerator alone.
_NUM_RESAMPLES = 10

#: Weight of the excess over specifications in the reward, rho.
_EXCESS_WEIGHT = 10.0


class Nasaic:
    """Controller of ops and accelerator, with specifications."""

    name = "nasaic"

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield samples that meet the specifications; see SearchStrategy."""
        limits = problem.goal.limits or Limits()
        metrics, _ = random_candidates(problem, seed)
        if limits != Limits() or not len(metrics):
            return self._search(problem, limits.vector, seed)
        specs = list(np.quantile(metrics, _SPECS, axis=0))
        return over_rungs(specs, seed, lambda spec, own: self._search(problem, spec, own))

    def _search(self, problem: StrategyProblem, specs: np.ndarray, seed: int) -> Trials:
        costs, goal, num_blocks = problem.costs, problem.goal, problem.space.num_blocks
        accelerators = problem.table.accelerators
        choices = accelerator_choices(problem, with_ops=True)
        least_reward = -goal.value(1.0, highest_log_cost(problem, seed))
        only_hardware = np.arange(len(choices)) >= num_blocks
        specs = np.asarray(specs, np.float64)
        controller: Controller
        baseline: MovingBaseline

        def begin(new_seed: int) -> None:
            nonlocal controller, baseline
            rate = keras.optimizers.schedules.ExponentialDecay(0.02, 50, 0.5, staircase=True)
            optimizer = keras.optimizers.RMSprop(rate, clipnorm=5.0)
            controller = Controller(choices, new_seed, optimizer, num_layers=1)
            baseline = MovingBaseline(decay=0.9)

        def rows_of(decisions: np.ndarray) -> np.ndarray:
            rows: np.ndarray = accelerators.index_of_heads(decisions[:, num_blocks:])
            return rows

        def resample(sampled: np.ndarray, missing: list[int], misses: np.ndarray) -> None:
            """Sample accelerators anew for some episodes, in place, and learn from all of it."""
            given = np.repeat(sampled[missing], _NUM_RESAMPLES, axis=0)
            given[:, num_blocks:] = -1
            again = controller.sample(len(given), given).reshape(len(missing), _NUM_RESAMPLES, -1)
            values = []
            for episode, tries in zip(missing, again, strict=True):
                ops = tries[0, :num_blocks].tolist()
                of_tries, log_costs = excess_and_log_costs(problem, ops, rows_of(tries), specs)
                values.append(-_EXCESS_WEIGHT * of_tries - log_costs)
                taken = int(np.argmin(of_tries))  # the first that meets them, where there is one
                sampled[episode], misses[episode] = tries[taken], of_tries[taken]
            advantages = advantages_of_tries(np.asarray(values))[:, None]
            controller.learn(again.reshape(len(given), -1), advantages * only_hardware)

        def play() -> Generator[Pair, float, None]:
            sampled = controller.sample(BATCH_SIZE)
            misses = np.asarray(
                [
                    excess_and_log_costs(problem, ops, row[None], specs)[0][0]
                    for ops, row in zip(
                        sampled[:, :num_blocks].tolist(), rows_of(sampled), strict=True
                    )
                ]
            )
            missing = np.flatnonzero(misses > 0).tolist()
            if missing:
                resample(sampled, missing, misses)
            rewards = least_reward - 0.1 * _EXCESS_WEIGHT * np.minimum(misses, 1.0)
            rows = rows_of(sampled).tolist()
            for episode in np.flatnonzero(misses <= 0).tolist():
                pair = Pair(tuple(sampled[episode, :num_blocks].tolist()), rows[episode])
                error = yield pair
                rewards[episode] = -goal.value(error, costs.at(*pair).log_cost)
            controller.learn(sampled, baseline.advantages(rewards))

        return episodes(begin, play, seed)
