"""NSGA-II over pairs of network and accelerator, by pymoo.

Variables are the op of each block, among those that it has, and the position of each of the
accelerator's four fields. Error and log(cost) are minimised together; the limits are a
constraint, and pairs outside them are not trained.

Differs from the paper:
- Variables are whole numbers: crossover is uniform, mutation is polynomial and rounded.
- A pair that has been tried before is drawn again (pymoo's elimination of duplicates).

Source: Deb et al. (2002), A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II.
Library: Blank and Deb (2020), pymoo: Multi-Objective Optimization in Python.
"""

from __future__ import annotations

import numpy as np

from dance_tf.hardware.objective import Limits
from dance_tf.search.strategies.problem import Pair, StrategyProblem, Trials

__all__ = ["Nsga2"]

#: Generations in a row without a new network within the limits, after which the search ends.
_MOST_IDLE = 30

#: Rounds of matings until a generation has enough pairs that have not been tried.
_MOST_MATINGS = 10

#: Error and log(cost) of a pair that is not trained; its excess over the limits ranks it.
_NOT_TRAINED = (1.0, 1e6)

#: Excess over the limits of a pair that cannot run.
_MOST_EXCESS = 1e6


class Nsga2:
    """NSGA-II of pairs.

    Args:
        population_size: Pairs that live; as many are born in a generation.
    """

    name = "nsga2"

    def __init__(self, population_size: int = 24) -> None:
        self._population_size = population_size

    def trials(self, problem: StrategyProblem, seed: int) -> Trials:
        """Yield the pairs of each generation that are within the limits; see SearchStrategy."""
        from pymoo.algorithms.moo.nsga2 import NSGA2  # loads slowly
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        from pymoo.operators.crossover.ux import UniformCrossover
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.sampling.rnd import IntegerRandomSampling

        costs, accelerators = problem.costs, problem.table.accelerators
        choices = [np.flatnonzero(row) for row in problem.space.op_mask]
        sizes = np.asarray([*map(len, choices), *accelerators.head_sizes])
        limits = (problem.goal.limits or Limits()).vector
        algorithm = NSGA2(
            pop_size=self._population_size,
            sampling=IntegerRandomSampling(),
            crossover=UniformCrossover(),
            mutation=PM(vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        algorithm.mating.n_max_iterations = _MOST_MATINGS
        variables = Problem(
            n_var=len(sizes), n_obj=2, n_ieq_constr=1, xl=0, xu=sizes - 1, vtype=int
        )
        algorithm.setup(variables, termination=NoTermination(), seed=seed)

        num_idle, known = 0, set[tuple[int, ...]]()
        while num_idle < _MOST_IDLE:
            born = algorithm.ask()
            if born is None or not len(born):
                return
            num_idle += 1
            for member in born:
                position = np.rint(member.X).astype(int)
                ops = tuple(int(c[i]) for c, i in zip(choices, position, strict=False))
                row = int(accelerators.index_of_heads(position[len(choices) :]))
                metrics, log_cost = costs.at(ops, row)[1:]
                is_within = bool(costs.is_within(metrics))
                member.F = np.asarray(_NOT_TRAINED)
                if is_within:
                    num_idle = 0 if ops not in known else num_idle
                    known.add(ops)
                    error = yield Pair(ops, row)
                    member.F = np.asarray([error, log_cost])
                # More than 0 is outside; `is_within` compares in float32.
                excess = min(float((metrics / limits).max()) - 1.0, _MOST_EXCESS)
                member.G = np.asarray([0.0 if is_within else max(excess, 1e-9)])
                member.evaluated.update({"F", "G"})
            algorithm.tell(infills=born)
