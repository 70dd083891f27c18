"""Search by gradient under a predictor of error, as a run: resumed, within limits, costed.

The strategy is that of strategies/dance_predictor.py for one trade-off,

    log(error) + lambda_2 log(objective),

and the pairs that it has asked for stand in trials.jsonl of the run folder, so that a resumed
run asks for none of them again.
"""

from __future__ import annotations

import contextlib
import os
import time

import numpy as np

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.protocols import AccuracySource
from dance_tf.run import terminal
from dance_tf.run.folder_lock import owned
from dance_tf.run.reporting import HistoryWriter, read_history
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.accuracy.table import AccuracyTable, TableAccuracy, shipped_table_path
from dance_tf.search.accuracy.training import TrainedAccuracy
from dance_tf.search.judge import Judge, look_up
from dance_tf.search.problem import SearchProblem, limits_of, make_objective
from dance_tf.search.result import SearchResult
from dance_tf.search.strategies.dance_predictor import DancePredictor
from dance_tf.search.strategies.problem import Goal, StrategyProblem, run_strategy
from dance_tf.structs import Architecture

__all__ = ["accuracy_source", "search_by_predictor"]

_TRIALS = "trials.jsonl"


def accuracy_source(
    config: ExperimentConfig,
    problem: SearchProblem,
    output_dir: str | None,
    stop: StopSignals | None = None,
) -> AccuracySource:
    """Return the source that search.accuracy=predictor asks: a table, or real trainings.

    Raises:
        UserError: If the table cannot be read.
    """
    space = problem.space
    path = config.search.accuracy_csv or shipped_table_path(space.name)
    if path is not None:
        return TableAccuracy(AccuracyTable.read(space, path))
    folder = None if output_dir is None else os.path.join(output_dir, "candidates")
    return TrainedAccuracy(space, problem.dataset, config.retrain, config.seed, folder, stop)


def search_by_predictor(
    config: ExperimentConfig,
    problem: SearchProblem,
    *,
    output_dir: str | None = None,
    is_resuming: bool = False,
    stop: StopSignals | None = None,
    judge: Judge | None = None,
    candidates_dir: str | None = None,
) -> SearchResult:
    """Search and return the result, without the accuracy of a retraining.

    Args:
        config: Configuration, of which search, retrain (of the networks that are trained) and
            the seed are used.
        problem: Its space, table, evaluator and images.
        output_dir: Folder of trials.jsonl and of the trainings; None writes nothing.
        is_resuming: Whether to go on from what the folder holds.
        stop: Signals to honour; a training is interrupted at a step boundary.
        judge: Judge of this config and this problem, if there is one already.
        candidates_dir: Folder of the trainings, if it is another than output_dir.
    Raises:
        UserError: If the table lacks a network, or no network keeps to the limits.
        Interrupted: After a signal.
    """
    judge = judge or Judge(config.search, problem)
    if judge.fixed_architecture is not None:
        return look_up(judge, judge.fixed_architecture, config.seed)
    began = time.monotonic()
    goal = Goal(config.search.lambda_2, limits_of(config.search), make_objective(config.search))
    task = StrategyProblem(problem.space, problem.table, goal)
    budget = min(config.search.num_trained, problem.space.num_architectures)
    with contextlib.ExitStack() as stack:
        if output_dir is not None:
            stack.enter_context(owned(output_dir))
        source = _Remembered(
            accuracy_source(config, problem, candidates_dir or output_dir, stop),
            task,
            output_dir,
            is_resuming,
        )
        stack.enter_context(contextlib.closing(source))
        progress = stack.enter_context(terminal.ProgressLine("search", budget))
        strategy = DancePredictor()
        trace = run_strategy(strategy, task, source, budget, config.seed, progress.update)
    if not trace.errors:
        raise UserError("the search has found no network that keeps to the limits")
    networks, errors = np.asarray(list(trace.errors)), np.asarray(list(trace.errors.values()))
    believed = errors
    if len(errors) > 1:  # One training may be a lucky one: others say more of its network.
        believed = strategy.believed_errors(task, networks, errors)
    log_costs = np.asarray([task.costs.best(ops).log_cost for ops in networks])
    chosen = int(np.argmin(np.log(believed) + config.search.lambda_2 * log_costs))
    architecture = problem.space.from_indices(networks[chosen])
    return judge.result(
        architecture,
        limits=judge.limits_record(architecture, False, 0.0),
        warnings=(),
        arch_logits=(),
        seed=config.seed,
        num_weight_steps=0,
        num_architecture_steps=0,
        num_trained_candidates=len(trace.errors) if source.kind == "training" else 0,
        accuracy_source={
            "kind": source.kind,
            "name": source.name,
            "num_networks": len(trace.errors),
            "error": float(errors[chosen]),
            "predicted_error": float(believed[chosen]),
        },
        times={"search_s": time.monotonic() - began},
    )


class _Remembered:
    """Source whose answers are kept in trials.jsonl, and given from there.

    Args:
        source: Source to ask.
        task: Problem, for the costs that stand beside the errors.
        folder: Run folder; None keeps nothing.
        is_resuming: Whether to begin with what the folder holds.
    """

    def __init__(
        self, source: AccuracySource, task: StrategyProblem, folder: str | None, is_resuming: bool
    ) -> None:
        self.kind, self._source, self._task = source.kind, source, task
        self.name = source.table.name if isinstance(source, TableAccuracy) else None
        self._known: dict[tuple[int, ...], float] = {}
        self._writer = None
        if folder is None:
            return
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, _TRIALS)
        if is_resuming and os.path.exists(path):
            for line in read_history(path):
                ops = task.space.to_indices(Architecture(task.space.name, tuple(line["ops"])))
                self._known[tuple(ops.tolist())] = line["error"]
        self._writer = HistoryWriter(path, resume_step=len(self._known) or None)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def errors(self, op_indices: np.ndarray) -> np.ndarray:
        return np.asarray([self._error(tuple(row)) for row in np.asarray(op_indices).tolist()])

    def _error(self, ops: tuple[int, ...]) -> float:
        if ops not in self._known:
            self._known[ops] = float(self._source.errors(np.asarray([ops], np.int32))[0])
            if self._writer is not None:
                self._writer.write(self._line(ops))
        return self._known[ops]

    def _line(self, ops: tuple[int, ...]) -> dict[str, Json]:
        best = self._task.costs.best(ops)
        accelerator = self._task.table.accelerators.decode(best.accelerator)
        return {
            "step": len(self._known),
            "ops": list(self._task.space.from_indices(ops).ops),
            "error": self._known[ops],
            "accelerator": accelerator_to_json(accelerator),
            "objective": float(np.exp(best.log_cost)),
        }
