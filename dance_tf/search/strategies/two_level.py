"""Two-level co-exploration of hardware and software.

The controller samples networks and accelerators. The fast level trains nothing: it tunes the
accelerator of each sampled network by the cost model, and edits networks that miss the
specification. The slow level trains those that are left, and updates the controller by
accuracy and efficiency together.

    fast reward = -log(cost) - punishment of the excess over the limits
    slow reward = -log(error) - cost_weight * log(cost);  fixed and low for rejected networks

Differs from the paper:
- One accelerator, not a pipeline of FPGAs: efficiency is the goal's cost, not the utilisation
  of pipeline stages.
- The specification is the goal's limits on all metrics, not a throughput alone. A network that
  misses it has up to three ops replaced by ones of fewer MACs.
- A front is searched with a ladder of weights in place of beta. Advantages are scaled.

Source: Jiang et al. (2020), Hardware/Software Co-Exploration of Neural Architectures (TCAD),
section IV; moving baseline of 0.8 from its predecessor FNAS (DAC 2019).
"""

from __future__ import annotations

from collections.abc import Generator

import keras
import numpy as np

from dance_tf.hardware.layers import op_macs
from dance_tf.search.strategies.controllers import (
    BATCH_SIZE,
    Controller,
    MovingBaseline,
    accelerator_choices,
    advantages_of_tries,
    episodes,
    excess_and_log_costs,
    highest_log_cost,
)
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials, over_cost_weights

__all__ = ["TwoLevel"]

#: Steps of the fast level for each of the slow one, and accelerators that each step samples.
_FAST_STEPS = 3
_NUM_ACCELERATORS = 8

#: Edits of a network that misses the specification.
_MOST_EDITS = 3


class TwoLevel:
    """Controller with a fast level on the cost model and a slow one on trainings."""

    name = "two_level"

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield the pairs that reach the slow level; see SearchStrategy."""
        return over_cost_weights(problem, seed, _search)


def _search(problem: StrategyProblem, seed: int) -> Trials:
    goal, num_blocks = problem.goal, problem.space.num_blocks
    accelerators, choices = problem.table.accelerators, accelerator_choices(problem, with_ops=True)
    only_hardware = np.arange(len(choices)) >= num_blocks
    macs = np.where(problem.space.op_mask, op_macs(problem.space)[1], np.inf)
    least_reward = -goal.value(1.0, highest_log_cost(problem, seed))
    rng = np.random.default_rng(seed)
    controller: Controller
    baseline: MovingBaseline

    def begin(new_seed: int) -> None:
        nonlocal controller, baseline
        optimizer = keras.optimizers.Adam(0.02, clipnorm=5.0)
        controller = Controller(choices, new_seed, optimizer, num_layers=1, entropy_weight=0.01)
        baseline = MovingBaseline(decay=0.8)

    def tuned(sampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return samples on the best accelerators of the fast level, and their excess."""
        best, misses = sampled.copy(), np.full(len(sampled), np.inf)
        least = np.full(len(sampled), np.inf)
        given = np.repeat(sampled, _NUM_ACCELERATORS, axis=0)
        given[:, num_blocks:] = -1
        for _ in range(_FAST_STEPS):
            drawn = controller.sample(len(given), given)
            values = np.zeros((len(sampled), _NUM_ACCELERATORS))
            for episode, tries in enumerate(drawn.reshape(*values.shape, -1)):
                rows = accelerators.index_of_heads(tries[:, num_blocks:])
                ops = tries[0, :num_blocks].tolist()
                of_tries, log_costs = excess_and_log_costs(problem, ops, rows)
                values[episode] = log_costs + 10.0 * of_tries
                at = int(values[episode].argmin())
                if values[episode, at] < least[episode]:
                    least[episode] = values[episode, at]
                    best[episode], misses[episode] = tries[at], of_tries[at]
            advantages = advantages_of_tries(-values)[:, None]
            controller.learn(drawn, advantages * only_hardware)
        return best, misses

    def pruned(decisions: np.ndarray) -> float:
        """Replace ops by ones of fewer MACs, in place, until it fits; return the excess left."""
        row, miss = accelerators.index_of_heads(decisions[num_blocks:]), np.inf
        for _ in range(_MOST_EDITS):
            own = macs[np.arange(num_blocks), decisions[:num_blocks]]
            blocks = np.flatnonzero((macs < own[:, None]).any(axis=1))
            if not len(blocks):
                break
            block = int(rng.choice(blocks))
            decisions[block] = rng.choice(np.flatnonzero(macs[block] < own[block]))
            ops = decisions[:num_blocks].tolist()
            miss = float(excess_and_log_costs(problem, ops, np.asarray([row]))[0][0])
            if miss <= 0:
                break
        return miss

    def play() -> Generator[Pair, float, None]:
        best, misses = tuned(controller.sample(BATCH_SIZE))
        rewards = np.full(BATCH_SIZE, least_reward)
        for episode, decisions in enumerate(best):
            if misses[episode] > 0:
                edited = decisions.copy()
                if pruned(edited) > 0:
                    continue
                decisions[:] = edited
            ops = tuple(decisions[:num_blocks].tolist())
            pair = Pair(ops, int(accelerators.index_of_heads(decisions[num_blocks:])))
            error = yield pair
            rewards[episode] = -goal.value(error, problem.costs.at(*pair).log_cost)
        controller.learn(best, baseline.advantages(rewards))

    return episodes(begin, play, seed)
