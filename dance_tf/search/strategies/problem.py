"""Problem that all strategies are given, and the loop that runs one of them.

A strategy is a generator: it yields a network and an accelerator, and is sent the error that
the source of accuracy gives for the network. It never sees anything else of the accuracies,
so that every strategy pays for the same things: each different network is one training, and
costs are looked up in the exact table.

With a goal of one trade-off, the strategy minimises

    log(error) + cost_weight * log(cost)

over pairs within the limits, where cost is the objective (EDAP unless told otherwise) at the
accelerator of the pair. With no cost_weight it looks for the whole front of error and cost.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import EDAP, Limits, Objective
from dance_tf.hardware.oracle import contender_rows
from dance_tf.protocols import AccuracySource
from dance_tf.supernet.search_space import NetworkSpace

__all__ = [
    "COST_WEIGHTS",
    "Believing",
    "Candidate",
    "Goal",
    "Pair",
    "PairCosts",
    "SearchStrategy",
    "StrategyProblem",
    "Trace",
    "Trial",
    "Trials",
    "interleaved",
    "over_cost_weights",
    "over_rungs",
    "run_strategy",
]

#: Trade-offs that a strategy of one trade-off goes through in turn to find a front.
COST_WEIGHTS = (0.02, 0.05, 0.1, 0.25, 0.6)

#: Repeated networks in a row after which a strategy has nothing more to say.
_MOST_REPEATS = 2000

#: Error that stands for none at all, where a logarithm is taken.
_LEAST_ERROR = 1e-4


class Pair(NamedTuple):
    """A network and an accelerator."""

    ops: tuple[int, ...]  # index of each block's op, D
    accelerator: int  # row of the accelerator space


_ALL = slice(None)

_Rung = TypeVar("_Rung")

#: Pairs out, errors (shares of images classified wrong) in.
Trials: TypeAlias = Generator[Pair, float, None]


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a search is for.

    Attributes:
        cost_weight: Weight of log(cost) beside log(error); None: the whole front.
        limits: Limits on the pair's cost; None: none.
        objective: Cost of a pair.
    """

    cost_weight: float | None = None
    limits: Limits | None = None
    objective: Objective = EDAP

    def value(self, error: float, log_cost: float) -> float:
        """Return what a search for one trade-off minimises; without one, log(error)."""
        return float(np.log(max(error, _LEAST_ERROR))) + (self.cost_weight or 0.0) * log_cost


class Candidate(NamedTuple):
    """A network on its best accelerator within the limits of a goal."""

    accelerator: int  # row of the accelerator space; -1: none is within the limits
    metrics: np.ndarray  # float64 [3], in the order of structs.METRICS; infinite for none
    log_cost: float  # logarithm of the objective; infinite for none


class PairCosts:
    """Exact costs of pairs from a cost table, remembered per network.

    Args:
        table: Exact costs of the space.
        goal: Objective and limits.

    Attributes:
        num_calls: Number of networks whose costs have been looked up.
    """

    def __init__(self, table: CostTable, goal: Goal) -> None:
        latency_ms, energy_mj = table.columns()
        shape = (*table.latency_ms.shape[:2], len(table.area_mm2))
        cells = np.stack([latency_ms[1:].reshape(shape), energy_mj[1:].reshape(shape)], axis=2)
        self._cells = cells.astype(np.float64)  # [D, O, 2, A]
        self._fixed = np.stack([latency_ms[0], energy_mj[0]]).astype(np.float64)  # [2, A]
        self._area = np.asarray(table.area_mm2, np.float64)
        # Other accelerators are the best for no network.
        self._contenders = np.asarray(contender_rows(table))
        self._contending = np.ascontiguousarray(self._cells[..., self._contenders])
        self._goal, self._reference = goal, np.asarray(table.reference, np.float64)
        self._best: dict[tuple[int, ...], Candidate] = {}
        self.num_calls = 0

    def metrics(self, ops: Sequence[int], rows: np.ndarray | slice = _ALL) -> np.ndarray:
        """Return a network's metrics on accelerators, all if not told which, float64 [A, 3]."""
        self.num_calls += 1
        sums = self._fixed[:, rows].copy()
        for block, op in enumerate(ops):
            sums += self._cells[block, op][:, rows]
        return np.concatenate([sums, self._area[None, rows]]).T

    def log_costs(self, metrics: np.ndarray) -> np.ndarray:
        """Return the logarithm of the objective, float64 [...], of metrics [..., 3]."""
        shares = metrics / self._reference
        weights = np.asarray(self._goal.objective.weights)
        if self._goal.objective.kind == "linear":
            return np.log((np.where(weights > 0, shares, 0.0) * weights).sum(axis=-1))
        return (np.where(weights > 0, np.log(shares), 0.0) * weights).sum(axis=-1)

    def is_within(self, metrics: np.ndarray) -> np.ndarray:
        """Return whether metrics [..., 3] can be run and keep to the limits, bool [...]."""
        limits = (self._goal.limits or Limits()).vector
        return np.isfinite(metrics).all(axis=-1) & (metrics.astype(np.float32) <= limits).all(-1)

    def best(self, ops: Sequence[int]) -> Candidate:
        """Return the network on its best accelerator within the limits."""
        key = tuple(int(op) for op in ops)
        if key not in self._best:
            self.num_calls += 1
            sums = self._fixed[:, self._contenders]
            for block, op in enumerate(key):
                sums += self._contending[block, op]
            metrics = np.concatenate([sums, self._area[None, self._contenders]]).T
            values = np.where(self.is_within(metrics), self.log_costs(metrics), np.inf)
            at = int(np.argmin(values))
            if np.isfinite(values[at]):
                row = int(self._contenders[at])
                self._best[key] = Candidate(row, metrics[at], float(values[at]))
            else:
                self._best[key] = Candidate(-1, np.full(3, np.inf), np.inf)
        return self._best[key]

    def at(self, ops: Sequence[int], accelerator: int) -> Candidate:
        """Return the network on one accelerator, whether or not it is within the limits."""
        metrics = self.metrics(ops, np.asarray([accelerator]))[0]
        return Candidate(accelerator, metrics, float(self.log_costs(metrics)))


@dataclasses.dataclass(frozen=True)
class StrategyProblem:
    """All that a strategy knows: space, costs and goal.

    Attributes:
        space: Networks.
        table: Exact costs of the space.
        goal: What the search is for.
        costs: Exact costs of pairs under the goal, in NumPy.
    """

    space: NetworkSpace
    table: CostTable
    goal: Goal

    @functools.cached_property
    def costs(self) -> PairCosts:
        """Exact costs of pairs under the goal."""
        return PairCosts(self.table, self.goal)

    def random_network(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw a network, uniformly over the space."""
        return tuple(int(rng.choice(np.flatnonzero(row))) for row in self.space.op_mask)

    def weighing(self, cost_weight: float | None) -> StrategyProblem:
        """Return the same problem with another cost_weight."""
        goal = dataclasses.replace(self.goal, cost_weight=cost_weight)
        return dataclasses.replace(self, goal=goal)


class SearchStrategy(Protocol):
    """A way to search network and accelerator together."""

    @property
    def name(self) -> str:
        """Name, as results and command lines give it."""

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield pairs to be trained without end, or until nothing is left to try.

        `error = yield Pair(ops, accelerator)`. The budget is not known in advance. Asking
        again for a network costs nothing; its error is the same. All draws come from `seed`.
        """


@runtime_checkable
class Believing(Protocol):
    """A strategy that has an opinion of its own on the networks that it has seen."""

    def believed_errors(
        self, problem: StrategyProblem, networks: np.ndarray, errors: np.ndarray
    ) -> np.ndarray:
        """Return the errors, float64 [N], that another training is expected to have.

        Args:
            problem: Problem of the run.
            networks: Networks that were trained, int [N, D].
            errors: Errors that were seen, float [N].
        """


class Trial(NamedTuple):
    """One pair that a strategy has asked for."""

    pair: Pair
    error: float  # share of images classified wrong
    num_trained: int  # different networks asked for up to this one, itself included


class Trace(NamedTuple):
    """All that a run of a strategy asked for, in order."""

    trials: tuple[Trial, ...]

    def up_to(self, budget: int) -> Trace:
        """Return the part of the first `budget` different networks."""
        return Trace(tuple(trial for trial in self.trials if trial.num_trained <= budget))

    @property
    def errors(self) -> dict[tuple[int, ...], float]:
        """Error of each network asked for, by its op indices, in order."""
        return {trial.pair.ops: trial.error for trial in self.trials}

    def with_errors(self, errors: Sequence[float]) -> Trace:
        """Return the same pairs with other errors, in the order of `errors`."""
        new = dict(zip(self.errors, errors, strict=True))
        return Trace(tuple(trial._replace(error=new[trial.pair.ops]) for trial in self.trials))


def run_strategy(
    strategy: SearchStrategy,
    problem: StrategyProblem,
    source: AccuracySource,
    budget: int,
    seed: int,
    on_trial: Callable[[int], None] | None = None,
) -> Trace:
    """Run a strategy until it has asked for `budget` different networks.

    Args:
        strategy: Strategy to run.
        problem: Its problem.
        source: Source of the errors.
        budget: Different networks to ask for; fewer are asked for where the space holds no
            more, or the strategy ends or only repeats itself.
        seed: Seed of the strategy's draws.
        on_trial: Function called with the number of different networks so far.
    """
    trials: list[Trial] = []
    known: dict[tuple[int, ...], float] = {}
    budget, num_repeats = min(budget, problem.space.num_architectures), 0
    generator = strategy.trials(problem, seed)
    answer: float | None = None
    while len(known) < budget and num_repeats < _MOST_REPEATS:
        try:
            pair = next(generator) if answer is None else generator.send(answer)
        except StopIteration:
            break
        num_repeats += 1
        if pair.ops not in known:
            known[pair.ops] = float(source.errors(np.asarray([pair.ops], np.int32))[0])
            num_repeats = 0
            if on_trial is not None:
                on_trial(len(known))
        answer = known[pair.ops]
        trials.append(Trial(pair, answer, len(known)))
    generator.close()
    return Trace(tuple(trials))


def interleaved(generators: Sequence[Trials]) -> Trials:
    """Yield from generators in turn, and send each the errors of its own pairs."""
    answers: dict[int, float] = {}
    running = dict(enumerate(generators))
    while running:
        for number, generator in list(running.items()):
            try:
                sent = answers.pop(number, None)
                pair = next(generator) if sent is None else generator.send(sent)
            except StopIteration:
                del running[number]
                continue
            answers[number] = yield pair


def over_cost_weights(
    problem: StrategyProblem, seed: int, search: Callable[[StrategyProblem, int], Trials]
) -> Trials:
    """Search for the goal's trade-off, or for a ladder of them in turn where it asks for a front.

    Args:
        problem: Problem, of which the goal's cost_weight is looked at.
        seed: Seed of the run; each rung has a seed of its own.
        search: Function from a problem with a cost_weight, and a seed, to trials.
    """
    if problem.goal.cost_weight is not None:
        return search(problem, seed)
    return over_rungs([problem.weighing(weight) for weight in COST_WEIGHTS], seed, search)


def over_rungs(rungs: Sequence[_Rung], seed: int, search: Callable[[_Rung, int], Trials]) -> Trials:
    """Search on each rung of a ladder in turn, with a seed of its own.

    Args:
        rungs: What the searches differ in.
        seed: Seed of the run.
        search: Function from a rung and its seed to trials.
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(rungs))
    return interleaved([search(r, int(s)) for r, s in zip(rungs, seeds, strict=True)])
