"""Comparison of strategies: which runs there are, and the record of their figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from dance_tf.files import Json, strict_data
from dance_tf.run.engine import HERE, Engine
from dance_tf.search.accuracy.table import AccuracyTable, TableAccuracy
from dance_tf.search.strategies.comparison import (
    COST_WEIGHTS_JUDGED,
    EQUAL_ACCURACY_POINTS,
    LIMITED_COST_WEIGHT,
    Referee,
    goals,
    limits_of_space,
)
from dance_tf.search.strategies.problem import Trace
from dance_tf.search.strategies.registry import STRATEGIES
from dance_tf.search.strategies.runs import Run, Setting, make_problem, run_all, supernet_accuracy
from dance_tf.search.sweep.fronts import front_rows

__all__ = ["compare"]

_SCHEMA_VERSION = 1

#: Networks that the limits are quantiles of, where there is no table.
_NUM_DRAWN = 2000


def compare(
    setting: Setting,
    strategies: Sequence[str],
    budgets: Sequence[int],
    num_seeds: int,
    folder: str,
    *,
    judge_csv: str | None = None,
    engine: Engine = HERE,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Json]:
    """Run strategies, judge them, and return the record of a comparison.

    Args:
        setting: Space, costs and accuracies.
        strategies: Names of the strategies.
        budgets: Networks trained at which figures are told.
        num_seeds: Runs of each strategy for each goal.
        folder: Folder of the finished runs.
        judge_csv: Table whose mean accuracies judge; None: the second training of the
            setting's table, or its only one.
        engine: Engine that makes runs.
        on_progress: Function called with (runs finished, runs).
    Raises:
        UserError: If a file cannot be used, or a judge's table lacks a network.
    """
    problem, source = make_problem(setting)
    space, table = problem.space, source.table if isinstance(source, TableAccuracy) else None
    # Read before the runs, so that a mistake is told at once.
    judges = None if judge_csv is None else AccuracyTable.read(space, judge_csv)
    is_whole = table is not None and len(table) == space.num_architectures
    drawn = table.op_indices if table is not None else space.sample(_NUM_DRAWN, seed=0)
    limits = limits_of_space(problem, drawn)
    runs = [
        Run(strategy, name, goal, seed)
        for seed in range(num_seeds)
        for strategy in strategies
        for name, goal in goals(limits, problem.goal).items()
    ]
    found = run_all(
        setting,
        runs,
        budgets,
        folder,
        engine=engine,
        on_progress=on_progress,
    )
    known = {ops: error for done in found.values() for ops, error in done.trace.errors.items()}
    networks, seen = np.asarray(list(known)), np.asarray(list(known.values()))
    if table is not None:
        networks, seen = table.op_indices, source.errors(table.op_indices)
    judge: dict[str, Json] = {"table": judge_csv, "training": None}
    if judges is not None:
        judged = judges.errors(networks)
    elif table is not None:
        training = min(1, table.num_trainings - 1)
        judged = table.errors(networks, training)
        judge = {"table": table.name, "training": training + 1}
    else:
        on_test = supernet_accuracy(setting, "test")
        assert on_test is not None, "a setting has a table or a supernet"
        judged = on_test.errors(networks)
        judge = {"supernet": on_test.weights_sha256, "split": "test"}
    referee = Referee(problem, networks, judged, seen)
    entries = []
    for strategy in strategies:
        of_strategy = [(run, done) for run, done in found.items() if run.strategy == strategy]
        for budget in budgets:
            traces: dict[str, list[Trace]] = {}
            believed: dict[str, list[Trace]] = {}
            for run, done in of_strategy:
                traces.setdefault(run.goal_name, []).append(done.trace.up_to(budget))
                opinion = done.believed_trace(budget)
                if opinion is not None:
                    believed.setdefault(run.goal_name, []).append(opinion)
            entries.append(
                {
                    "strategy": strategy,
                    "accuracy_source": source.kind,
                    "method": STRATEGIES[strategy].method,
                    "relation": STRATEGIES[strategy].relation,
                    "budget": budget,
                    **referee.figures(traces, limits),
                    "believed": referee.figures(believed, limits) if believed else None,
                    "wall_s_median": statistics.median(done.wall_s for _, done in of_strategy),
                }
            )
    order = referee.front
    by_seen = front_rows(np.stack([referee.log_costs, seen], axis=1))
    return strict_data(
        {
            "schema_version": _SCHEMA_VERSION,
            "space": problem.space.name,
            "cost_table_sha256": problem.table.content_hash,
            "objective": {
                "kind": problem.goal.objective.kind,
                "weights": list(problem.goal.objective.weights),
            },
            "accuracies": table.name if table is not None else setting.supernet,
            "is_exact": is_whole,  # or the best of all networks that any run has asked for
            "judge": judge,
            "budgets": list(budgets),
            "limits": limits,
            "cost_weights": list(COST_WEIGHTS_JUDGED),
            "limited_cost_weight": LIMITED_COST_WEIGHT,
            "exact": {
                "num_on_front": len(order),
                "front": [
                    {"ops": networks[row].tolist(), "error": judged[row], "cost": cost}
                    for row, cost in zip(order, np.exp(referee.log_costs[order]), strict=True)
                ],
                "cost_ratio": dict(
                    zip(
                        (f"{points:g}" for points in EQUAL_ACCURACY_POINTS),
                        referee.cost_ratios(order),
                        strict=True,
                    )
                ),
                # What going by one training costs, even to who has trained every network.
                "hypervolume_of_all_trained": referee.area(by_seen),
                "answers_of_all_trained": {
                    f"{weight:g}": referee.best_answer(weight) for weight in COST_WEIGHTS_JUDGED
                },
                "limited_of_all_trained": {
                    name: referee.best_answer(LIMITED_COST_WEIGHT, limit)
                    for name, limit in limits.items()
                },
                "one_accelerator_loss_mean": float(referee.one_for_all.mean()),
                "one_accelerator_loss_max": float(referee.one_for_all.max()),
            },
            "strategies": entries,
        }
    )
