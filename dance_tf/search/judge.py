"""Judge of a search: cost and accelerator of a network, within the limits of a config.

The evaluator steers the search, if need be on accelerators within the limits; the costs of
the result come from the cost table.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.config import SearchConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import Limits
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.protocols import Evaluator
from dance_tf.search.limits import NetworkFinder, check_reachable, reachable_costs
from dance_tf.search.problem import SearchProblem, limits_of, make_objective
from dance_tf.search.result import CostRecord, SearchResult, op_counts
from dance_tf.structs import METRICS, Architecture, Evaluation

__all__ = ["ChosenEvaluator", "Judge", "look_up"]


class ChosenEvaluator:
    """Evaluator on the exact best accelerator that is within limits, or on a fixed one.

    Where no accelerator runs the network within the limits, it is the one within the limit
    on the area that exceeds the others least: there the network can be made cheaper.

    Args:
        evaluator: Evaluator whose estimates are given.
        table: Exact costs, by which the accelerator is chosen.
        limits: Limits on a network's cost.
        fixed_index: Row of the only accelerator to choose; None: all of the table.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        table: CostTable,
        limits: Limits,
        fixed_index: int | None = None,
    ) -> None:
        self.kind = evaluator.kind
        self._evaluator, self._table = evaluator, table
        self._limits, self._fixed_index = limits, fixed_index
        is_in_area = np.asarray(table.area_mm2, np.float32) <= limits.vector[2]
        self._set_back = tf.constant(np.where(is_in_area, 0.0, np.inf), tf.float32)  # [A]

    def evaluate(
        self, mixture_weights: tf.Tensor | np.ndarray, objective_vectors: tf.Tensor | np.ndarray
    ) -> Evaluation:
        """Evaluate mixture weights float32 [B, D, O] under objectives float32 [B, 4]."""
        weights = tf.convert_to_tensor(mixture_weights, tf.float32)
        index = self._choose(tf.stop_gradient(weights), objective_vectors)
        return Evaluation(self.estimate(weights, index), index)

    def estimate(
        self, mixture_weights: tf.Tensor | np.ndarray, accelerator_index: tf.Tensor | np.ndarray
    ) -> tf.Tensor:
        """Return the expected metrics, float32 [B, 3], at one accelerator per row [B]."""
        return self._evaluator.estimate(mixture_weights, accelerator_index)

    def _choose(self, weights: tf.Tensor, objective_vectors: tf.Tensor | np.ndarray) -> tf.Tensor:
        if self._fixed_index is not None:
            return tf.fill(tf.shape(weights)[:1], self._fixed_index)
        best = best_accelerators(self._table, weights, objective_vectors, self._limits)
        if self._limits == Limits():
            return tf.cast(best.accelerator_index, tf.int32)
        metrics = self._table.expected_metrics(weights)[..., :2]
        shares = tf.where(tf.math.is_finite(metrics), metrics / self._limits.vector[:2], np.inf)
        excess = tf.reduce_max(shares, axis=-1) + self._set_back
        nearest = tf.argmin(excess, axis=1, output_type=tf.int32)
        return tf.where(best.is_feasible, tf.cast(best.accelerator_index, tf.int32), nearest)


class Judge:
    """Costs networks by the evaluator and by the table, within the limits of a config.

    Args:
        config: Configuration, of which the objective, the limits and what is fixed are used.
        problem: Its space, table and evaluator are used.

    Attributes:
        objective: Objective that the search lowers.
        limits: Limits on the result's cost; None if there are none.
        fixed_architecture: Network that the config fixes; None if it is searched.
        reachable: (least, largest) of each metric over what is not fixed, see
            `limits.reachable_costs`.
        evaluator: Evaluator that steers the search: the problem's, or a `ChosenEvaluator`
            around it where there are limits or a fixed accelerator.

    Raises:
        UserError: If no network keeps to the limits on any accelerator, or what is fixed is
            outside the space.
    """

    def __init__(self, config: SearchConfig, problem: SearchProblem) -> None:
        self._config, self._problem, table = config, problem, problem.table
        self.objective = make_objective(config)
        self.limits = limits_of(config)
        self._fixed_index = _fixed_index(config, table)
        self._rows = None if self._fixed_index is None else np.asarray([self._fixed_index])
        self.fixed_architecture = None
        op_mask = None
        if config.fixed_architecture is not None:
            self.fixed_architecture = Architecture(problem.space.name, config.fixed_architecture)
            op_indices = problem.space.to_indices(self.fixed_architecture)
            op_mask = np.asarray(table.one_hot(op_indices)) > 0
        self.reachable = reachable_costs(table, self._rows, op_mask)
        if self.limits is not None:
            check_reachable(table, self.limits, self._rows, op_mask)
        is_free = self.limits is None and self._fixed_index is None
        self.evaluator: Evaluator = (
            problem.evaluator
            if is_free
            else ChosenEvaluator(
                problem.evaluator, table, self.limits or Limits(), self._fixed_index
            )
        )

    def evaluate(self, architecture: Architecture) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the evaluator's accelerator, its predicted metrics [3] and the exact ones [3]."""
        table = self._problem.table
        one_hot = table.one_hot(self._problem.space.to_indices(architecture)[None])
        evaluation = self.evaluator.evaluate(one_hot, self.objective.vector[None])
        index = np.asarray(evaluation.accelerator_index)
        exact = table.metrics_at(one_hot, index)
        return int(index[0]), np.asarray(evaluation.metrics)[0], np.asarray(exact)[0]

    def repair(self, derived: Architecture, arch_logits: np.ndarray) -> tuple[Architecture, float]:
        """Return the network to take in place of a derived one, and the probability given up.

        It is the one that keeps to the limits on some accelerator and is the most probable
        under the architecture parameters: the derived one, where that keeps to them.

        Args:
            derived: The network of the largest logits.
            arch_logits: float64 [D, O].
        Returns:
            The network, and the log-probability that it has less than the derived one, nats.
        """
        if self.limits is None:
            return derived, 0.0
        space = self._problem.space
        largest = np.where(space.op_mask, arch_logits, -np.inf).max(axis=1, keepdims=True)
        losses = np.where(space.op_mask, largest - arch_logits, 0.0)
        finder = NetworkFinder(self._problem.table, self.limits, self._rows)
        if len(finder.metrics_within(space.to_indices(derived))):
            return derived, 0.0
        found = finder.find(losses)
        assert found is not None, "the limits have been found to be within reach"
        return space.from_indices(found.tolist()), float(losses[np.arange(len(found)), found].sum())

    def result(self, architecture: Architecture, **facts: Any) -> SearchResult:
        """Cost an architecture exactly and return the result of the search.

        Args:
            architecture: Network that was found.
            **facts: Fields of the result that are none of costs.
        Raises:
            RuntimeError: If the exact cost is above a limit.
        """
        space, table = self._problem.space, self._problem.table
        index, predicted, exact = self.evaluate(architecture)
        chosen, metrics = self._choose(architecture)
        best, best_metrics = self._best(architecture)
        self._check(architecture, chosen)
        counts, zero_share = op_counts(space, architecture)
        decode = table.accelerators.decode
        return SearchResult(
            architecture=architecture,
            accelerator=decode(chosen),
            exact_cost=self._cost(metrics),
            predicted_cost=self._cost(predicted),
            evaluator_accelerator=decode(index),
            evaluator_accelerator_exact_cost=self._cost(exact),
            exact_best_accelerator=decode(best),
            exact_best_cost=self._cost(best_metrics),
            objective={
                "name": self._config.objective,
                "kind": self.objective.kind,
                "weights": dict(zip(METRICS, self.objective.weights, strict=True)),
                "reference": {n: float(v) for n, v in zip(METRICS, table.reference, strict=True)},
                "lambda_2": self._config.lambda_2,
            },
            evaluator=self.evaluator.kind,
            evaluator_reason=getattr(self._problem.evaluator, "reason", None),
            op_counts=counts,
            zero_share=zero_share,
            num_cost_model_calls=table.num_cost_model_calls,
            **facts,
        )

    def limits_record(
        self, derived: Architecture, is_repaired: bool, lost_log_probability: float
    ) -> dict[str, Json] | None:
        """Return the entry of result.json on the limits; None if there are none.

        Args:
            derived: The network of the largest logits, before any repair.
            is_repaired: True if another network has been taken in its place.
            lost_log_probability: Log-probability that the repair gave up, nats.
        """
        if self.limits is None:
            return None
        _, predicted, _ = self.evaluate(derived)
        _, metrics = self._choose(derived)
        if is_repaired:  # No accelerator keeps it within the limits; on the one that comes nearest.
            _, _, metrics = self.evaluate(derived)
        return {
            **dataclasses.asdict(self.limits),
            "kept_by": self._config.limits,
            "is_repaired": is_repaired,
            "lost_log_probability": lost_log_probability,
            "derived_ops": list(derived.ops),
            "derived_exact": {n: float(v) for n, v in zip(METRICS, metrics, strict=True)},
            "derived_predicted": {n: float(v) for n, v in zip(METRICS, predicted, strict=True)},
        }

    def _choose(self, architecture: Architecture) -> tuple[int, np.ndarray]:
        """Return the accelerator of the run and the exact metrics on it, float32 [3]."""
        if self._fixed_index is None:
            return self._best(architecture, self.limits)
        op_indices = self._problem.space.to_indices(architecture)[None]
        weights = self._problem.table.one_hot(op_indices)
        return self._fixed_index, np.asarray(self._problem.table.metrics_at(weights, self._rows))[0]

    def _best(
        self, architecture: Architecture, limits: Limits | None = None
    ) -> tuple[int, np.ndarray]:
        """Return the exact best accelerator and the metrics on it, float32 [3]."""
        table = self._problem.table
        best = best_accelerators(
            table,
            table.one_hot(self._problem.space.to_indices(architecture)[None]),
            self.objective.vector[None],
            limits,
        )
        return int(np.asarray(best.accelerator_index)[0]), np.asarray(best.metrics)[0]

    def _check(self, architecture: Architecture, index: int) -> None:
        """Look the limits' metrics up once more, by another way than the oracle's."""
        if self.limits is None:
            return
        op_indices = self._problem.space.to_indices(architecture)[None]
        metrics = self._problem.table.metrics_of(op_indices).numpy()[0, index]
        if not (metrics <= self.limits.vector).all():
            raise RuntimeError(f"the result is not within {self.limits}: {metrics.tolist()}")

    def _cost(self, metrics: ArrayLike) -> CostRecord:
        table = self._problem.table
        return CostRecord.from_metrics(
            metrics,
            objective=self.objective,
            reference=table.reference,
            cycles_per_ms=table.machine.cycles_per_ms,
        )


def _fixed_index(config: SearchConfig, table: CostTable) -> int | None:
    """Return the row of the accelerator that a config fixes; None if it fixes none."""
    if config.fixed_accelerator is None:
        return None
    index = table.accelerators.encode(config.fixed_accelerator)
    if not np.isfinite(np.stack(table.columns())[..., index]).all():
        raise UserError("search.fixed_accelerator cannot run every op of the space")
    return index


def look_up(judge: Judge, architecture: Architecture, seed: int) -> SearchResult:
    """Return the exact best accelerator for a fixed architecture; nothing is trained."""
    began = time.monotonic()
    return judge.result(
        architecture,
        limits=judge.limits_record(architecture, False, 0.0),
        warnings=(),
        arch_logits=(),
        seed=seed,
        num_weight_steps=0,
        num_architecture_steps=0,
        times={"search_s": time.monotonic() - began},
    )
