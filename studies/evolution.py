"""Front of error and cost, found by evolution, where accuracies are slow and costs free.

Aging evolution, with fronts in place of a single best network. A population of networks
is a queue. In each step some are drawn, the best of them becomes a parent, its child
differs in the op of one block, the child enters the queue and the oldest leaves. Better
is who has the lower rank among (error, log cost), then who is less crowded. Each network
costs what its own exact best accelerator makes of it.

Differs from the source: a network that nothing so far beats stays a possible parent after
it has left the queue. Aging is there so that a lucky noisy measurement dies out; here an
accuracy is the same whenever it is asked for.

Source: Real et al. (2019), Regularized Evolution for Image Classifier Architecture
Search, algorithm 1; ranks and crowding from Deb et al. (2002), NSGA-II.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import Objective
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.search.sweep.fronts import crowding_distances, front_ranks, front_rows
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["Evaluated", "EvolutionConfig", "evolve", "exact_costs"]


@dataclasses.dataclass(frozen=True)
class EvolutionConfig:
    """Budget of an evolution and the strength of its selection."""

    num_evaluations: int = 2000  # different networks, those of the beginning among them
    population_size: int = 64
    tournament_size: int = 8

    def __post_init__(self) -> None:
        for name, least in (
            ("tournament_size", 1),
            ("population_size", 2),
            ("num_evaluations", 2),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, not at least {least}")


class Evaluated(NamedTuple):
    """N networks, each on its own best accelerator, in the order in which they came."""

    op_indices: np.ndarray  # int32 [N, D]
    errors: np.ndarray  # float64 [N], 1 - accuracy
    accelerator_index: np.ndarray  # int32 [N]
    metrics: np.ndarray  # float32 [N, 3], in the order of structs.METRICS
    values: np.ndarray  # float32 [N], the objective

    @property
    def points(self) -> np.ndarray:
        """Error and logarithm of the objective, float64 [N, 2]."""
        return np.stack([self.errors, np.log(self.values.astype(np.float64))], axis=1)


def exact_costs(
    op_indices: ArrayLike, errors: ArrayLike, table: CostTable, objective: Objective
) -> Evaluated:
    """Return networks with their errors on the best accelerators under an objective.

    Args:
        op_indices: int [N, D].
        errors: float [N].
        table: Exact costs of the space.
        objective: Objective that each network's accelerator is best under.
    Raises:
        UserError: If a cost is infinite or NaN, and so not to be compared with others.
    """
    op_indices = np.asarray(op_indices, np.int32)
    one_hot = np.eye(len(table.space.op_names), dtype=np.float32)[op_indices]
    vectors = np.tile(objective.vector, (len(op_indices), 1))
    best = best_accelerators(table, one_hot, vectors)
    if not np.isfinite(best.value).all():
        raise UserError("a network has no finite cost: no accelerator of the table runs it whole")
    fields = (best.accelerator_index, best.metrics, best.value)
    return Evaluated(op_indices, np.asarray(errors, np.float64), *map(np.asarray, fields))


def evolve(
    table: CostTable,
    accuracies: Callable[[np.ndarray], np.ndarray],
    objective: Objective,
    config: EvolutionConfig,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Return all networks that an evolution evaluates, each once.

    The result is a function of the arguments. With accuracies that are remembered on disk,
    a run that was killed and is begun anew asks for the same networks in the same order, and
    so goes on where it was.

    Args:
        table: Exact costs of a network space.
        accuracies: Function from op indices, int32 [B, D], to accuracies [B]; always the same.
        objective: Cost of a network on its best accelerator; less is better.
        config: Budget and selection.
        seed: Seed of the first networks, the tournaments and the mutations.
        on_progress: Function called with (networks evaluated, budget).
    Returns:
        Fewer than the budget where the space holds no more.
    """
    run = _Run(table, accuracies, objective)
    space, rng = _space_of(table), np.random.RandomState(seed)
    budget = min(config.num_evaluations, space.num_architectures)
    population: deque[int] = deque(maxlen=config.population_size)  # numbers of networks
    for network in _first_networks(table, objective, min(config.population_size, budget), seed):
        population.append(run.number_of(network))
        if on_progress:
            on_progress(len(run), budget)
    while len(run) < budget:
        parent = run.best(population, config.tournament_size, rng)
        population.append(run.number_of(_unseen_child(space, run, parent, rng)))
        if on_progress:
            on_progress(len(run), budget)
    return run.evaluated()


class _Run:
    """State of an evolution: the networks evaluated so far and their front."""

    def __init__(
        self, table: CostTable, accuracies: Callable[[np.ndarray], np.ndarray], objective: Objective
    ) -> None:
        self._table, self._accuracies, self._objective = table, accuracies, objective
        self._numbers: dict[tuple[int, ...], int] = {}
        self._parts: list[Evaluated] = []
        self._points = np.zeros((0, 2))
        self._front: list[int] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, network: tuple[int, ...]) -> bool:
        return network in self._numbers

    def number_of(self, network: tuple[int, ...]) -> int:
        """Return a network's number, counted from 0; evaluate it where it is new."""
        if network not in self._numbers:
            row = np.asarray([network], np.int32)
            errors = 1.0 - self._accuracies(row)
            self._parts.append(exact_costs(row, errors, self._table, self._objective))
            self._points = np.concatenate([self._points, self._parts[-1].points])
            self._numbers[network] = len(self._numbers)
            among = [*self._front, self._numbers[network]]
            self._front = [among[i] for i in front_rows(self._points[among])]
        return self._numbers[network]

    def network(self, number: int) -> tuple[int, ...]:
        return tuple(self._parts[number].op_indices[0].tolist())

    def best(
        self, population: deque[int], num_drawn: int, rng: np.random.RandomState
    ) -> tuple[int, ...]:
        """Return the best of some networks drawn from the population and the front."""
        pool = list(dict.fromkeys([*self._front, *population]))
        ranks = front_ranks(self._points[pool])
        crowding = crowding_distances(self._points[pool], ranks)
        drawn = rng.permutation(len(pool))[:num_drawn]
        return self.network(pool[min(drawn, key=lambda i: (ranks[i], -crowding[i]))])

    def evaluated(self) -> Evaluated:
        return Evaluated(*map(np.concatenate, zip(*self._parts, strict=True)))


def _first_networks(
    table: CostTable, objective: Objective, num: int, seed: int
) -> list[tuple[int, ...]]:
    """Return the cheapest network, the costliest, and random ones; all different."""
    drawn = _space_of(table).sample(4 * num, seed)
    ends = [_extreme(table, objective, drawn[0], sign) for sign in (1, -1)]
    return list(dict.fromkeys([*ends, *map(tuple, drawn.tolist())]))[:num]


def _extreme(
    table: CostTable, objective: Objective, start: np.ndarray, sign: int
) -> tuple[int, ...]:
    """Return the network of least sign x cost that changes of one block at a time lead to."""
    best, least = start, np.inf
    while True:
        around = np.stack([best, *_neighbours(_space_of(table), best)])
        values = sign * exact_costs(around, np.zeros(len(around)), table, objective).values
        if values.min() >= least:
            return tuple(best.tolist())
        best, least = around[np.argmin(values)], values.min()


def _space_of(table: CostTable) -> NetworkSpace:
    """Return the space of a table, whose networks can be drawn and counted."""
    assert isinstance(table.space, NetworkSpace)
    return table.space


def _neighbours(space: NetworkSpace, network: np.ndarray) -> list[np.ndarray]:
    """Return all networks that differ from one in the op of one block."""
    found = []
    for block, ops in enumerate(space.op_mask):
        for op in np.flatnonzero(ops):
            if op != network[block]:
                found.append(network.copy())
                found[-1][block] = op
    return found


def _unseen_child(
    space: NetworkSpace, run: _Run, parent: tuple[int, ...], rng: np.random.RandomState
) -> tuple[int, ...]:
    """Change the op of one block, and of one more as long as the network is known."""
    child = parent
    while child in run:
        choices = _neighbours(space, np.asarray(child))
        child = tuple(choices[rng.randint(len(choices))].tolist())
    return child
