"""Runs of strategies, each kept in a file of its own, so that a comparison can be resumed.

A run is a function of strategy, goal, seed and source of accuracy; the file holds every pair
that it asked for, from which the figures of every smaller budget follow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dance_tf.config import (
    ExperimentConfig,
    HardwareConfig,
    SpaceConfig,
    config_from_json,
    config_to_json,
)
from dance_tf.errors import UserError
from dance_tf.files import Json, read_json, strict_data, write_json
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.objective import Limits, Objective
from dance_tf.protocols import AccuracySource
from dance_tf.run.engine import HERE, Engine
from dance_tf.search.accuracy.inherited import SupernetAccuracy, read_inherited
from dance_tf.search.accuracy.table import AccuracyTable, TableAccuracy
from dance_tf.search.pipeline import load_space_and_images
from dance_tf.search.strategies.problem import (
    Believing,
    Goal,
    Pair,
    StrategyProblem,
    Trace,
    Trial,
    run_strategy,
)
from dance_tf.search.strategies.registry import STRATEGIES, make_strategy
from dance_tf.search.supernet_training import load_supernet, read_supernet_record
from dance_tf.supernet.inherited import InheritedAccuracy
from dance_tf.supernet.space_files import make_space

__all__ = [
    "Finished",
    "Run",
    "Setting",
    "SupernetSetting",
    "make_problem",
    "run_all",
    "supernet_accuracy",
]

_SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SupernetSetting:
    """Trained supernet and the images that its accuracies are of; see InheritedAccuracy."""

    config: ExperimentConfig  # with search.supernet_dir
    num_images: int


@dataclasses.dataclass(frozen=True)
class Setting:
    """All that the runs of a comparison share; plain data, for other processes.

    Attributes:
        space: Network space.
        hardware: Machine and accelerators.
        accuracy_csv: Table of accuracies that the strategies go by; None: the supernet.
        training: Number of the training in it, from 0.
        supernet: Trained supernet whose inherited accuracies they go by, where there is no
            table.
        inherited_json: Errors with inherited weights, for the strategies that use them.
        objective: Cost of a pair.
        cache_dir: Folder of cached cost tables.
    """

    space: SpaceConfig
    hardware: HardwareConfig
    accuracy_csv: str | None
    training: int
    supernet: SupernetSetting | None
    inherited_json: str | None
    objective: Objective
    cache_dir: str | None

    def to_json(self) -> dict[str, Json]:
        """Return the setting as JSON data."""
        own = ExperimentConfig(hardware=self.hardware, space=self.space)
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del data["space"], data["hardware"]
        data["objective"] = strict_data(self.objective)
        if self.supernet is not None:
            supernet = config_to_json(self.supernet.config)
            data["supernet"] = {"config": supernet, "num_images": self.supernet.num_images}
        return {**data, "config": config_to_json(own)}

    @classmethod
    def from_json(cls, data: dict[str, Json]) -> Setting:
        """Return the setting that `to_json` has made data of."""
        data = dict(data)
        own = config_from_json(data.pop("config"))
        data["objective"] = _objective(data["objective"])
        if data["supernet"] is not None:
            supernet = config_from_json(data["supernet"]["config"])
            data["supernet"] = SupernetSetting(supernet, data["supernet"]["num_images"])
        return cls(space=own.space, hardware=own.hardware, **data)


class Run(NamedTuple):
    """One run of a comparison."""

    strategy: str
    goal_name: str
    goal: Goal
    seed: int

    @property
    def file_name(self) -> str:
        """Name of the file that keeps it."""
        return f"{self.strategy}.{self.goal_name}.{self.seed}.json"

    @classmethod
    def from_json(cls, data: dict[str, Json]) -> Run:
        """Return the run that `strict_data` has made data of."""
        goal = data["goal"]
        limits = goal["limits"] and Limits(**goal["limits"])
        return cls(
            data["strategy"],
            data["goal_name"],
            Goal(goal["cost_weight"], limits, _objective(goal["objective"])),
            data["seed"],
        )


class Finished(NamedTuple):
    """What is kept of a run."""

    trace: Trace
    believed: dict[int, list[float]]  # by budget, errors in the order of the trace's networks
    wall_s: float

    def believed_trace(self, budget: int) -> Trace | None:
        """Return the part within a budget with the errors that the strategy believes, if any."""
        if budget not in self.believed:
            return None
        return self.trace.up_to(budget).with_errors(self.believed[budget])


@functools.cache
def make_problem(setting: Setting) -> tuple[StrategyProblem, AccuracySource]:
    """Return the problem without a goal's limits, and the source of accuracy, of a setting.

    Raises:
        UserError: If a file of the setting cannot be used.
    """
    space = make_space(setting.space)
    source: AccuracySource | None = supernet_accuracy(setting, "architecture")
    if source is None:
        table = AccuracyTable.read(space, str(setting.accuracy_csv))
        source = TableAccuracy(table, setting.training)
    costs = load_or_build_table(space, setting.hardware, cache_dir=setting.cache_dir)
    return StrategyProblem(space, costs, Goal(objective=setting.objective)), source


def supernet_accuracy(setting: Setting, split: str) -> SupernetAccuracy | None:
    """Return the accuracies with a setting's supernet on a split; None if it has none."""
    if setting.supernet is None:
        return None
    config = setting.supernet.config
    space, dataset = load_space_and_images(config)
    folder = str(config.search.supernet_dir)
    supernet = load_supernet(folder, space, dataset, config)
    record = read_supernet_record(folder, space, dataset, config)
    inherited = InheritedAccuracy(supernet, dataset, setting.supernet.num_images, split)
    return SupernetAccuracy(inherited, str(record["weights_sha256"]))


def run_all(
    setting: Setting,
    runs: Sequence[Run],
    budgets: Sequence[int],
    folder: str,
    *,
    engine: Engine = HERE,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[Run, Finished]:
    """Return each run, finished, from the folder or anew.

    Args:
        setting: What they share.
        runs: Runs to make.
        budgets: Different networks of each, the largest, and at which beliefs are asked for.
        folder: Folder of the files of finished runs.
        engine: Engine that makes runs; their files are written here.
        on_progress: Function called with (runs finished, runs).
    Raises:
        UserError: If a file in the folder is of another setting.
    """
    os.makedirs(folder, exist_ok=True)
    of_need = {needs: _identity(setting, needs) for needs in (False, True)}
    identities = {run: of_need[STRATEGIES[run.strategy].needs_inherited] for run in runs}
    found: dict[Run, Finished] = {}
    left = []
    for run in runs:
        kept = _read(os.path.join(folder, run.file_name), run, identities[run], budgets)
        if kept is None:
            left.append(run)
        else:
            found[run] = kept
    if on_progress:
        on_progress(len(found), len(runs))
    shared = {"setting": setting.to_json(), "budgets": list(budgets)}
    tasks = [{**shared, "run": strict_data(run)} for run in left]
    with contextlib.closing(engine.run(_make, tasks)) as records:
        for number, record in records:
            run = left[number]
            record = {"identity": identities[run], "goal": strict_data(run.goal), **record}
            write_json(os.path.join(folder, run.file_name), record)
            found[run] = _finished(record)
            if on_progress:
                on_progress(len(found), len(runs))
    return {run: found[run] for run in runs}


def _make(task: dict[str, Json]) -> dict[str, Json]:
    """Make the run of a task and return its record."""
    setting, run = Setting.from_json(task["setting"]), Run.from_json(task["run"])
    budgets = task["budgets"]
    problem, source = make_problem(setting)
    problem = dataclasses.replace(problem, goal=run.goal)
    inherited = None
    if setting.inherited_json is not None and STRATEGIES[run.strategy].needs_inherited:
        inherited = read_inherited(problem.space, setting.inherited_json)
    began = time.monotonic()
    strategy = make_strategy(run.strategy, inherited)
    trace = run_strategy(strategy, problem, source, max(budgets), run.seed)
    wall_s = time.monotonic() - began
    believed: dict[str, Json] = {}
    if isinstance(strategy, Believing):
        for budget in budgets:
            seen = trace.up_to(budget).errors
            errors = strategy.believed_errors(
                problem, np.asarray(list(seen)), np.asarray(list(seen.values()))
            )
            believed[str(budget)] = errors.tolist()
    trials = [[*t.pair.ops, t.pair.accelerator, t.error, t.num_trained] for t in trace.trials]
    return {"budgets": budgets, "wall_s": wall_s, "trials": trials, "believed": believed}


def _identity(setting: Setting, needs_inherited: bool) -> dict[str, Json]:
    """Return what a run must share with one that is kept."""
    problem, source = make_problem(setting)
    if isinstance(source, TableAccuracy):
        digest = hashlib.sha256(source.table.op_indices.tobytes())
        digest.update(np.ascontiguousarray(source.table.accuracies[:, setting.training]).tobytes())
        accuracies = digest.hexdigest()
    else:
        assert isinstance(source, SupernetAccuracy)
        accuracies = f"{source.weights_sha256}, {source.num_images} images"
    inherited = {}
    if needs_inherited and setting.inherited_json is not None:
        text = json.dumps(read_json(setting.inherited_json), sort_keys=True)
        inherited = {"inherited": hashlib.sha256(text.encode()).hexdigest()}
    return {
        **inherited,
        "schema_version": _SCHEMA_VERSION,
        "cost_table": problem.table.content_hash,
        "accuracies": accuracies,
        "objective": strict_data(setting.objective),
    }


def _read(
    path: str, run: Run, identity: Mapping[str, Json], budgets: Sequence[int]
) -> Finished | None:
    """Return a kept run; None if there is none, or one of another goal or other budgets."""
    if not os.path.exists(path):
        return None
    record = read_json(path)
    if not isinstance(record, dict) or record.get("identity") != identity:
        raise UserError(
            f"{path}: is a run on other costs or other accuracies: name another folder, or"
            " delete this one"
        )
    if record["goal"] != strict_data(run.goal) or not set(budgets) <= set(record["budgets"]):
        return None
    return _finished(record)


def _objective(data: Mapping[str, Json]) -> Objective:
    return Objective(data["kind"], tuple(data["weights"]))


def _finished(record: Mapping[str, Json]) -> Finished:
    believed = {int(budget): errors for budget, errors in record["believed"].items()}
    return Finished(_trace(record["trials"]), believed, float(record["wall_s"]))


def _trace(trials: Sequence[Json]) -> Trace:
    return Trace(
        tuple(
            Trial(Pair(tuple(ops), accelerator), error, num_trained)
            for *ops, accelerator, error, num_trained in trials
        )
    )
