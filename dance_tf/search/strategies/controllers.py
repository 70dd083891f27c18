"""LSTM controllers that sample decisions one after the other, trained by REINFORCE.

    x_t = embedding_{t-1}[decision_{t-1}],  h_t = LSTM(x_t, h_{t-1})
    p_t = softmax(h_t kernel_t + bias_t), over the values that the decision has
    loss = -mean over episodes of  sum_t advantage log p_t[decision_t]

Each decision has an embedding and a classifier of its own. Decisions are the op of each
block, and where a strategy asks for it the four fields of the accelerator.

Source: Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist
Reinforcement Learning; Zoph and Le (2017), Neural Architecture Search with Reinforcement
Learning, for the controller.
"""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dance_tf.hardware.objective import Limits
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials

__all__ = [
    "BATCH_SIZE",
    "Controller",
    "MovingBaseline",
    "accelerator_choices",
    "advantages_of_tries",
    "episodes",
    "excess_and_log_costs",
    "highest_log_cost",
    "random_candidates",
]

#: Episodes of an update.
BATCH_SIZE = 5

#: Batches in a row without a new network after which a controller begins anew, and beginnings
#: without a new network after which there is nothing left to try.
_MOST_STALE = 10
_MOST_BEGINNINGS = 4

#: Rewards that the scale of advantages is taken from, and the most that an advantage can be.
_NUM_SCALED_BY = 50
_MOST_ADVANTAGE = 3.0

#: Logit of a value that a decision does not have.
_MASKED = -1e9


class _Program(NamedTuple):
    """Traced functions of all controllers of one shape and optimizer.

    The weights are one vector; the state is that vector and the optimizer's variables.
    """

    cells: list[keras.layers.LSTMCell]
    first_optimizer_state: list[tf.Tensor]
    sample: Callable[..., tf.Tensor]
    learn: Callable[..., list[tf.Tensor]]


@functools.cache
def _program(
    num_decisions: int, num_values: int, num_units: int, num_layers: int, optimizer_json: str
) -> _Program:
    cells = [keras.layers.LSTMCell(num_units) for _ in range(num_layers)]
    for cell in cells:
        cell.build((None, num_units))
    shapes = [
        (num_decisions, num_values, num_units),
        (num_decisions, num_units, num_values),
        (num_decisions, num_values),
        *(variable.shape for cell in cells for variable in cell.trainable_variables),
    ]
    sizes = [int(np.prod(shape)) for shape in shapes]
    state_of = [[v.value for v in cell.non_trainable_variables] for cell in cells]

    def split(weights: tf.Tensor) -> list[tf.Tensor]:
        parts = tf.split(weights, sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]

    def steps(
        weights: tf.Tensor,
        choose: Callable[[int, tf.Tensor], tf.Tensor],
        log_mask: tf.Tensor,
        batch_size: tf.Tensor,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        embeddings, kernels, biases, *of_cells = split(weights)
        inputs = tf.zeros([batch_size, num_units])
        states = [[inputs, inputs] for _ in cells]
        all_logits, decisions = [], []
        num_of_cell = len(of_cells) // num_layers
        for t in range(num_decisions):
            hidden = inputs
            for i, cell in enumerate(cells):
                own = of_cells[i * num_of_cell : (i + 1) * num_of_cell]
                (hidden, states[i]), _ = cell.stateless_call(own, state_of[i], hidden, states[i])
            logits = tf.matmul(hidden, kernels[t]) + biases[t] + log_mask[t]
            decision = choose(t, logits)
            all_logits.append(logits)
            decisions.append(decision)
            inputs = tf.gather(embeddings[t], decision)
        return all_logits, decisions

    number, count = tf.float32, tf.int32
    # Each controller's state passes through these, so that a step is one call of a graph.
    optimizer = keras.optimizers.deserialize(json.loads(optimizer_json))
    kept = tf.Variable(tf.zeros([sum(sizes)]))
    optimizer.build([kept])
    optimizer_variables = [variable.value for variable in optimizer.variables]

    @tf.function(
        autograph=False,
        input_signature=(
            tf.TensorSpec([sum(sizes)], number),
            tf.TensorSpec([None, num_decisions, num_values], number),
            tf.TensorSpec([None, num_decisions], count),
            tf.TensorSpec([num_decisions, num_values], number),
        ),
    )
    def sample(
        weights: tf.Tensor, noise: tf.Tensor, given: tf.Tensor, log_mask: tf.Tensor
    ) -> tf.Tensor:
        def choose(t: int, logits: tf.Tensor) -> tf.Tensor:
            drawn = tf.argmax(logits + noise[:, t], axis=-1, output_type=count)
            return tf.where(given[:, t] >= 0, given[:, t], drawn)

        return tf.stack(steps(weights, choose, log_mask, tf.shape(given)[0])[1], axis=1)

    @tf.function(
        autograph=False,
        input_signature=(
            [tf.TensorSpec(v.shape, v.dtype) for v in (kept, *optimizer_variables)],
            tf.TensorSpec([None, num_decisions], count),
            tf.TensorSpec([None, num_decisions], number),
            tf.TensorSpec([num_decisions, num_values], number),
            tf.TensorSpec([], number),
        ),
    )
    def learn(
        state: list[tf.Tensor],
        decisions: tf.Tensor,
        advantages: tf.Tensor,
        log_mask: tf.Tensor,
        entropy_weight: tf.Tensor,
    ) -> list[tf.Tensor]:
        for variable, value in zip((kept, *optimizer_variables), state, strict=True):
            variable.assign(value)
        weights = state[0]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            per_step, _ = steps(
                weights, lambda t, _: decisions[:, t], log_mask, tf.shape(decisions)[0]
            )
            logs = tf.nn.log_softmax(tf.stack(per_step, axis=1))
            taken = tf.gather(logs, decisions, batch_dims=2)
            entropy = -tf.reduce_sum(tf.exp(logs) * tf.maximum(logs, _MASKED), axis=[1, 2])
            loss = -tf.reduce_mean(
                tf.reduce_sum(advantages * taken, axis=1) + entropy_weight * entropy
            )
        optimizer.apply([tape.gradient(loss, weights)], [kept])
        return [variable.read_value() for variable in (kept, *optimizer_variables)]

    first = [tf.identity(variable) for variable in optimizer_variables]
    return _Program(cells, first, sample, learn)


class Controller:
    """A policy over a sequence of decisions.

    Args:
        choices: Values that each decision has, bool [T, V].
        seed: Seed of the weights and of all draws.
        optimizer: Optimizer of the weights, of which the configuration is taken.
        num_units: Units of an LSTM layer and of an embedding.
        num_layers: LSTM layers.
        entropy_weight: Weight of the policy's entropy, which keeps it from settling early.
    """

    def __init__(
        self,
        choices: np.ndarray,
        seed: int,
        optimizer: keras.optimizers.Optimizer,
        *,
        num_units: int = 35,
        num_layers: int = 2,
        entropy_weight: float = 0.0,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._choices, self._shape = choices, choices.shape
        # The name, which counts the optimizers made so far, makes no difference to a program.
        settings = keras.optimizers.serialize(optimizer)
        settings["config"] = {k: v for k, v in settings["config"].items() if k != "name"}
        optimizer_json = json.dumps(settings, sort_keys=True)
        self._program = _program(*choices.shape, num_units, num_layers, optimizer_json)
        self._log_mask = np.where(choices, 0.0, _MASKED).astype(np.float32)
        self._entropy_weight = np.float32(entropy_weight)
        weights = tf.constant(self._first_weights(num_units))
        self._state = [weights, *self._program.first_optimizer_state]

    def sample(self, num: int, given: np.ndarray | None = None) -> np.ndarray:
        """Draw decisions, int32 [num, T].

        Args:
            num: Number of episodes.
            given: Decisions that are not drawn, int [num, T]; -1: drawn.
        """
        noise = self._rng.gumbel(size=(num, *self._shape)).astype(np.float32)
        if given is None:
            given = np.full((num, self._shape[0]), -1)
        given = np.asarray(given, np.int32)
        drawn: np.ndarray = self._program.sample(
            self._state[0], noise, given, self._log_mask
        ).numpy()
        return drawn

    def learn(self, decisions: np.ndarray, advantages: np.ndarray) -> None:
        """Take a step of REINFORCE.

        Args:
            decisions: int [B, T].
            advantages: Rewards above the baseline, float [B] or, where some decisions are
                not to be learnt from, [B, T].
        """
        advantages = np.asarray(advantages, np.float32)
        if advantages.ndim == 1:
            advantages = np.repeat(advantages[:, None], self._shape[0], axis=1)
        self._state = self._program.learn(
            self._state, np.asarray(decisions, np.int32), advantages, self._log_mask,
            self._entropy_weight,
        )  # fmt: skip

    def _first_weights(self, num_units: int) -> np.ndarray:
        num_decisions, num_values = self._shape
        small = keras.initializers.RandomUniform
        seeds = iter(self._rng.integers(2**31, size=2 + 2 * len(self._program.cells)).tolist())
        parts = [
            small(-0.1, 0.1, seed=next(seeds))((num_decisions, num_values, num_units)),
            small(-0.1, 0.1, seed=next(seeds))((num_decisions, num_units, num_values)),
            np.zeros((num_decisions, num_values)),
        ]
        for cell in self._program.cells:
            kernel, recurrent, bias = (variable.shape for variable in cell.trainable_variables)
            forget = np.zeros(bias)
            forget[num_units : 2 * num_units] = 1.0
            parts += [
                keras.initializers.GlorotUniform(seed=next(seeds))(kernel),
                keras.initializers.Orthogonal(seed=next(seeds))(recurrent),
                forget,
            ]
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


class MovingBaseline:
    """Moving mean of rewards, which makes advantages of them.

    Advantages are divided by the standard deviation of the latest rewards.

    Args:
        decay: Weight of what has been, in each update by one reward.
        num_first: Rewards at the beginning of which the plain mean is taken.
    """

    def __init__(self, decay: float, num_first: int = 1) -> None:
        self._decay, self._num_first, self._num, self._mean = decay, num_first, 0, 0.0
        self._latest: deque[float] = deque(maxlen=_NUM_SCALED_BY)

    def advantages(self, rewards: np.ndarray) -> np.ndarray:
        """Return the advantages, float64 [B], of rewards [B], then take them in."""
        rewards = np.asarray(rewards, np.float64)
        self._latest.extend(rewards.tolist())
        mean = self._mean if self._num else float(rewards.mean())
        scale = float(np.std(self._latest)) + 1e-6
        for reward in rewards:
            self._num += 1
            share = 1 / self._num if self._num <= self._num_first else 1 - self._decay
            self._mean += share * (float(reward) - self._mean)
        return np.clip((rewards - mean) / scale, -_MOST_ADVANTAGE, _MOST_ADVANTAGE)


def advantages_of_tries(rewards: np.ndarray) -> np.ndarray:
    """Return the advantages, float64 [B * N], of rewards [B, N] over the mean of each row."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    scaled: np.ndarray = centred / (centred.std() + 1e-6)
    return np.clip(scaled, -_MOST_ADVANTAGE, _MOST_ADVANTAGE).reshape(-1)


def accelerator_choices(problem: StrategyProblem, with_ops: bool = False) -> np.ndarray:
    """Return the values that each field of the accelerator has, bool [4, V].

    Args:
        problem: Problem, with the accelerators.
        with_ops: Whether the blocks' ops come first, [D + 4, V].
    """
    sizes = problem.table.accelerators.head_sizes
    ops = problem.space.op_mask if with_ops else np.zeros((0, 0), bool)
    num_values = max(*sizes, ops.shape[1])
    fields = np.arange(num_values) < np.asarray(sizes)[:, None]
    return np.concatenate([np.pad(ops, ((0, 0), (0, num_values - ops.shape[1]))), fields])


def random_candidates(
    problem: StrategyProblem, seed: int, num: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Return metrics [N, 3] and log costs [N] of random networks on their best accelerators.

    Networks without an accelerator within the limits are left out; N may be 0.
    """
    rng = np.random.default_rng(seed)
    found = [problem.costs.best(problem.random_network(rng)) for _ in range(num)]
    found = [candidate for candidate in found if candidate.accelerator >= 0]
    metrics = np.asarray([candidate.metrics for candidate in found]).reshape(-1, 3)
    return metrics, np.asarray([candidate.log_cost for candidate in found])


def highest_log_cost(problem: StrategyProblem, seed: int) -> float:
    """Return the highest log cost of some random networks; 0 where none is within the limits."""
    log_costs = random_candidates(problem, seed)[1]
    return float(log_costs.max()) if len(log_costs) else 0.0


def excess_and_log_costs(
    problem: StrategyProblem, ops: Sequence[int], rows: np.ndarray, limits: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a network's excess over limits and its log costs on accelerators, float64 [N] each.

    Args:
        problem: Problem, whose own limits always count.
        ops: Index of each block's op, D.
        rows: Accelerators, int [N].
        limits: Most of each metric, float [3]; None: the goal's.
    Returns:
        Shares of the limits by which they are exceeded, added, 10 at most for each; 0 within.
        Log costs of what cannot run are high, but finite.
    """
    metrics = problem.costs.metrics(ops, rows)
    if limits is None:
        limits = (problem.goal.limits or Limits()).vector
    finite = np.where(np.isfinite(metrics), metrics, 1e6)
    excess = np.clip(finite / limits - 1.0, 0.0, 10.0).sum(axis=-1)
    is_within = problem.costs.is_within(metrics)
    return np.where(is_within, excess, np.maximum(excess, 1e-6)), problem.costs.log_costs(finite)


def episodes(
    begin: Callable[[int], None], play: Callable[[], Generator[Pair, float, None]], seed: int
) -> Trials:
    """Yield the pairs of batch after batch, beginning anew where no new networks come.

    Args:
        begin: Function that makes new controllers of a seed.
        play: Function that plays one batch and learns from it, yielding the pairs to train.
        seed: Seed of the beginnings.
    """
    seeds, known, num_beginnings = np.random.SeedSequence(seed), set[tuple[int, ...]](), 0
    while num_beginnings < _MOST_BEGINNINGS:
        begin(int(seeds.spawn(1)[0].generate_state(1)[0]))
        num_beginnings, num_stale = num_beginnings + 1, 0
        while num_stale < _MOST_STALE:
            num_stale += 1
            batch, answer = play(), None
            while True:
                try:
                    pair = next(batch) if answer is None else batch.send(answer)
                except StopIteration:
                    break
                answer = yield pair
                if pair.ops not in known:
                    known.add(pair.ops)
                    num_beginnings, num_stale = 0, 0
