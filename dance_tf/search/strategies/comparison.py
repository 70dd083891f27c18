"""Figures of what strategies find, by accuracies that they have not seen.

A strategy goes by one training of each network, its answer is judged by another one, so that
nobody profits from a lucky training. The hypervolume is of

    x = log(cost) on the exact best accelerator, from the least to the largest of the space
    y = error, from the least of the judge's to 15 points above it, cut there

both scaled to 0..1; a run hands in its front by what it saw, the judge's errors give the area
of it, as a share of the area of the front of all networks under the judge. Regrets are of
error * cost^w, relative to the least of the space under the judge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dance_tf.files import Json
from dance_tf.hardware.objective import Limits
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.search.strategies.problem import Goal, PairCosts, StrategyProblem, Trace
from dance_tf.search.sweep.fronts import front_rows, hypervolume
from dance_tf.structs import METRICS

__all__ = [
    "COST_WEIGHTS_JUDGED",
    "EQUAL_ACCURACY_POINTS",
    "LIMITED_COST_WEIGHT",
    "Referee",
    "limits_of_space",
]

#: Weights of log(cost) of the scalar objectives whose regret is told.
COST_WEIGHTS_JUDGED = (0.03, 0.1, 0.3)

#: Weight of log(cost) where there are limits.
LIMITED_COST_WEIGHT = 0.1

#: Points of error above the least, at which costs are compared.
EQUAL_ACCURACY_POINTS = (0.3, 0.7, 1.0, 1.5, 3.0)

_CUT = 0.15  # error above the least, from which on nothing counts


def limits_of_space(problem: StrategyProblem, networks: np.ndarray) -> dict[str, Limits]:
    """Return the limits of a comparison by name.

    They are the 20 % and the 50 % quantile of the latencies of networks int [N, D], each on its
    best accelerator, and an area that one in twenty accelerators keeps to.
    """
    table, vectors = problem.table, np.tile(problem.goal.objective.vector, (len(networks), 1))
    best = best_accelerators(table, table.one_hot(networks), vectors)
    latency_ms = np.asarray(best.metrics)[:, METRICS.index("latency_ms")]
    area_mm2 = np.quantile(np.asarray(table.area_mm2), 0.05)
    return {
        "latency_q20": Limits(max_latency_ms=float(np.quantile(latency_ms, 0.2))),
        "latency_q50": Limits(max_latency_ms=float(np.quantile(latency_ms, 0.5))),
        "area_q5": Limits(max_area_mm2=float(area_mm2)),
    }


class Answer(NamedTuple):
    """One pair that a run ends in."""

    regret: float  # of error * cost^w, relative to the least of the space under the judge
    seen_regret: float  # likewise, all by the accuracies that the run went by
    error: float  # share of images classified wrong, by the judge
    cost: float  # objective on the pair's own accelerator, as a share of the table's reference


class Referee:
    """Judges what runs hand in.

    Args:
        problem: Problem of the runs; the goal's limits are not used.
        networks: Networks that stand for the space, int [N, D]: all of it, or all that any run
            has found.
        errors: Errors of these networks under the judge, float [N].
        seen: Errors of these networks that the runs went by, float [N].
    Attributes:
        front: Rows of `networks` that are the exact front under the judge, by cost.
        log_costs: Logarithm of the cost of each on its exact best accelerator, float64 [N].
        one_for_all: Relative loss of each on the accelerator that is the best on average, [N].
    """

    def __init__(
        self,
        problem: StrategyProblem,
        networks: np.ndarray,
        errors: np.ndarray,
        seen: np.ndarray,
    ) -> None:
        self._problem, self._networks = problem, np.asarray(networks, np.int32)
        self.errors = np.asarray(errors, np.float64)
        self.seen = np.asarray(seen, np.float64)
        self._row = {ops: row for row, ops in enumerate(map(tuple, self._networks.tolist()))}
        self._logs: dict[Limits | None, np.ndarray] = {}
        self._costs: dict[Limits | None, PairCosts] = {}
        self.log_costs = self._best(None)
        self._low, self._high = self.log_costs.min(), self.log_costs.max()
        self.front = front_rows(np.stack([self.log_costs, self.errors], axis=1))
        self._whole = self._area(self.front)
        self._optima: dict[tuple[float, Limits | None], tuple[float, float]] = {}
        self.one_for_all = self._one_accelerator()

    def _best(self, limits: Limits | None) -> np.ndarray:
        """Return log costs [N] on the best accelerators within limits."""
        if limits in self._logs:
            return self._logs[limits]
        table, objective = self._problem.table, self._problem.goal.objective
        vectors = np.tile(objective.vector, (len(self._networks), 1))
        best = best_accelerators(table, table.one_hot(self._networks), vectors, limits)
        metrics = np.asarray(best.metrics, np.float64)
        logs = np.full(len(metrics), np.inf)
        is_feasible = np.asarray(best.is_feasible)
        logs[is_feasible] = self._problem.costs.log_costs(metrics[is_feasible])
        self._logs[limits] = logs
        return logs

    def _costs_within(self, limits: Limits | None) -> PairCosts:
        """Return the costs of pairs under limits."""
        if limits not in self._costs:
            goal = dataclasses.replace(self._problem.goal, limits=limits)
            self._costs[limits] = dataclasses.replace(self._problem, goal=goal).costs
        return self._costs[limits]

    def _points(self, rows: np.ndarray) -> np.ndarray:
        x = (self.log_costs[rows] - self._low) / max(self._high - self._low, 1e-12)
        y = np.minimum((self.errors[rows] - self.errors.min()) / _CUT, 1.0)
        return np.stack([x, y], axis=1)

    def _area(self, rows: np.ndarray) -> float:
        return hypervolume(self._points(rows), [1.0 + 1e-9, 1.0 + 1e-9])

    def handed_in(self, trace: Trace) -> np.ndarray:
        """Return the rows of the networks that a run hands in: its front by what it saw."""
        rows = np.asarray([self._row[ops] for ops in trace.errors], np.int64)
        seen = np.asarray(list(trace.errors.values()))
        if not len(rows):
            return rows
        return rows[front_rows(np.stack([self.log_costs[rows], seen], axis=1))]

    def hypervolume(self, trace: Trace) -> float:
        """Return the area of what a run hands in, as a share of that of the exact front."""
        return self.area(self.handed_in(trace))

    def area(self, rows: np.ndarray) -> float:
        """Return the area of the networks in rows, as a share of that of the exact front."""
        return self._area(rows) / self._whole if len(rows) else 0.0

    def optima(self, cost_weight: float, limits: Limits | None) -> tuple[float, float]:
        """Return the least log(error) + cost_weight log(cost) of the space within limits.

        Of the judge's errors, and of those that the runs went by.
        """
        key = cost_weight, limits
        if key not in self._optima:
            logs = self._best(limits)
            judged, seen = (np.log(e) + cost_weight * logs for e in (self.errors, self.seen))
            self._optima[key] = float(judged.min()), float(seen.min())
        return self._optima[key]

    def _answer(
        self, row: int, log_cost: float, cost_weight: float, limits: Limits | None
    ) -> Answer:
        """Return the answer of the network in a row at a cost."""
        judged, seen = (
            float(np.expm1(np.log(errors[row]) + cost_weight * log_cost - optimum))
            for errors, optimum in zip(
                (self.errors, self.seen), self.optima(cost_weight, limits), strict=True
            )
        )
        return Answer(judged, seen, float(self.errors[row]), float(np.exp(log_cost)))

    def answer(
        self, trace: Trace, cost_weight: float, limits: Limits | None = None
    ) -> Answer | None:
        """Return a run's answer under a trade-off; None if it found nothing within limits.

        It is the pair that is the best by what the run saw, on its own accelerator.
        """
        costs = self._costs_within(limits)
        least, answer = np.inf, None
        for pair, seen in {trial.pair: trial.error for trial in trace.trials}.items():
            candidate = costs.at(pair.ops, pair.accelerator)
            value = np.log(max(seen, 1e-9)) + cost_weight * candidate.log_cost
            if value < least and costs.is_within(candidate.metrics):
                least, answer = value, (pair, candidate)
        if answer is None:
            return None
        pair, candidate = answer
        return self._answer(self._row[pair.ops], candidate.log_cost, cost_weight, limits)

    def best_answer(self, cost_weight: float, limits: Limits | None = None) -> Answer:
        """Return the answer of who has trained every network of the space once."""
        logs = self._best(limits)
        row = int(np.argmin(np.log(self.seen) + cost_weight * logs))
        return self._answer(row, float(logs[row]), cost_weight, limits)

    def cost_ratios(self, rows: np.ndarray) -> list[float | None]:
        """Return how many times less than the most accurate network the cheapest ones cost.

        One number for each of EQUAL_ACCURACY_POINTS: of the networks in `rows` within so many
        points of the judge's most accurate one, the cheapest; None if there is none.
        """
        most_accurate = int(np.argmin(self.errors))
        ratios: list[float | None] = []
        for points in EQUAL_ACCURACY_POINTS:
            within = rows[self.errors[rows] <= self.errors[most_accurate] + points / 100 + 1e-9]
            if not len(within):
                ratios.append(None)
                continue
            cheapest = self.log_costs[within].min()
            ratios.append(float(np.exp(self.log_costs[most_accurate] - cheapest)))
        return ratios

    def _one_accelerator(self) -> np.ndarray:
        """Return what each network loses on the accelerator that is the best on average, [N]."""
        table, costs = self._problem.table, self._problem.costs
        one_hot = np.asarray(table.one_hot(self._networks))
        sums = np.zeros(len(table.area_mm2))
        for start in range(0, len(one_hot), 64):
            metrics = np.asarray(table.expected_metrics(one_hot[start : start + 64]), np.float64)
            with np.errstate(invalid="ignore"):
                sums += costs.log_costs(metrics).sum(axis=0)
        row = int(np.argmin(np.where(np.isfinite(sums), sums, np.inf)))
        metrics = np.asarray(table.metrics_at(one_hot, np.full(len(one_hot), row)), np.float64)
        return np.expm1(costs.log_costs(metrics) - self.log_costs)

    def figures(
        self, traces: Mapping[str, Sequence[Trace]], limits: Mapping[str, Limits]
    ) -> dict[str, Json]:
        """Return the figures of one strategy at one budget.

        Args:
            traces: Runs by the name of their goal: "front", and those of `limits`.
            limits: Limits by name.
        """
        fronts = traces["front"]
        areas = [self.hypervolume(trace) for trace in fronts]
        q25, median, q75 = np.quantile(areas, [0.25, 0.5, 0.75]).tolist()
        handed_in = [self.handed_in(trace) for trace in fronts]
        lost = [self.one_for_all[rows] for rows in handed_in]
        ratios = [self.cost_ratios(rows) for rows in handed_in]
        return {
            "num_seeds": len(fronts),
            "hypervolume_median": median,
            "hypervolume_q25": q25,
            "hypervolume_q75": q75,
            "answers": {
                f"{weight:g}": _answers([self.answer(trace, weight) for trace in fronts])
                for weight in COST_WEIGHTS_JUDGED
            },
            "limits": {
                name: self._limited(traces[name], limit)
                for name, limit in limits.items()
                if name in traces
            },
            "cost_ratio_median": {
                f"{points:g}": _median([ratio[i] for ratio in ratios])
                for i, points in enumerate(EQUAL_ACCURACY_POINTS)
            },
            "one_accelerator_loss_mean": float(np.mean([rows.mean() for rows in lost])),
            "one_accelerator_loss_max": float(np.max([rows.max() for rows in lost])),
        }

    def _limited(self, traces: Sequence[Trace], limits: Limits) -> dict[str, Json]:
        answers = [self.answer(trace, LIMITED_COST_WEIGHT, limits) for trace in traces]
        kept = [answer for answer in answers if answer is not None]
        return {"share_kept": len(kept) / len(answers), **_answers(kept)}


def _answers(answers: Sequence[Answer | None]) -> dict[str, Json]:
    """Return the medians of the answers of runs."""
    return {
        f"{name}_median": _median([a and getattr(a, name) for a in answers])
        for name in Answer._fields
    }


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median, None counting as infinite; None where that is the median."""
    if not values:
        return None
    median = float(np.median([np.inf if value is None else value for value in values]))
    return median if np.isfinite(median) else None


def goals(limits: Mapping[str, Limits], goal: Goal) -> dict[str, Goal]:
    """Return the goals of a comparison by name: the front, and one within each of the limits."""
    limited = {
        name: dataclasses.replace(goal, cost_weight=LIMITED_COST_WEIGHT, limits=limit)
        for name, limit in limits.items()
    }
    return {"front": dataclasses.replace(goal, cost_weight=None, limits=None), **limited}
