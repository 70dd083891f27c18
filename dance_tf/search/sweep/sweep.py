"""Sweep: many searches over one trained supernet, and the retraining of what they find.

The supernet's weights are frozen, so that all searches, and the inherited accuracies of
what they find, stand on the same weights. Each search and each retraining has a folder of its
own and is interrupted and resumed as a single one is; pareto.json says after each what there
is so far.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dance_tf.config import ExperimentConfig, HardwareConfig, config_from_json, config_to_json
from dance_tf.errors import UserError
from dance_tf.files import Json, read_json, write_json
from dance_tf.run import terminal
from dance_tf.run.engine import HERE, Engine
from dance_tf.run.folder_lock import owned
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.accuracy_memo import AccuracyMemo
from dance_tf.search.limits import reachable_costs
from dance_tf.search.predictor_search import accuracy_source
from dance_tf.search.problem import SearchProblem
from dance_tf.search.retrain import retrain_work
from dance_tf.search.steps import SearchPlan
from dance_tf.search.sweep.fronts import Point, SweepSearch, point_of, summary, worth_retraining
from dance_tf.search.sweep.tasks import (
    NETWORK,
    Ahead,
    facts_of,
    is_retrained,
    retrain_in,
    retrained_folder,
    retraining_task,
    search_in,
    search_task,
)
from dance_tf.supernet.inherited import InheritedAccuracy

__all__ = ["PARETO", "SCHEMA_VERSION", "plan_sweep", "run_sweep"]

#: File that holds what a sweep found.
PARETO = "pareto.json"
SCHEMA_VERSION = 1


def plan_sweep(
    objectives: Iterable[str], lambdas: Iterable[float], num_seeds: int, first_seed: int = 0
) -> tuple[SweepSearch, ...]:
    """Return the searches of a sweep, one seed after the other.

    Raises:
        UserError: If there is none, or a lambda_2 is not a finite number from 0 up.
    """
    objectives, lambdas = tuple(objectives), tuple(lambdas)
    for value in lambdas:
        if not 0 <= value < math.inf:
            raise UserError(f"a sweep's lambda_2 is {value}, not a finite number from 0 up")
    names = [f"{value:g}" for value in lambdas]
    if len(set(names)) < len(names) or len(set(objectives)) < len(objectives):
        raise UserError("a sweep's values of lambda_2 and its objectives must differ")
    if not (objectives and lambdas and num_seeds > 0):
        raise UserError("a sweep needs an objective, a lambda_2 and a seed")
    return tuple(
        SweepSearch(objective, lambda_2, seed)
        for seed in range(first_seed, first_seed + num_seeds)
        for lambda_2 in lambdas
        for objective in objectives
    )


def run_sweep(
    searches: Sequence[SweepSearch],
    config: ExperimentConfig,
    problem: SearchProblem,
    output_dir: str,
    *,
    num_images: int,
    num_retrained: int = 0,
    stop: StopSignals | None = None,
    engine: Engine = HERE,
    cache_dir: str | None = None,
    on_found: Callable[[dict[str, Json]], None] | None = None,
) -> dict[str, Json]:
    """Run searches, retrain the best of what they find, and return pareto.json.

    Searches and retrainings that are finished in `output_dir` are read and not done again.
    Searches of earlier calls stay a part of the sweep: their points come first. The points
    and their order are the same on every engine.

    Args:
        searches: Searches from `plan_sweep`; they may differ from those of an earlier call on
            the same folder.
        config: Configuration that all searches share.
        problem: Problem of all searches, with a trained supernet unless they go by a predictor.
        output_dir: Folder that gets searches/, retrained/, accuracies.jsonl and pareto.json.
        num_images: Number of held-out images for the inherited accuracy; at most all are used.
        num_retrained: Number of points of `searches` to retrain, see `worth_retraining`.
        stop: Signals to honour at the next step boundary; of another engine, at once.
        engine: Engine that runs the searches and the retrainings. Other processes make the
            problem from `config`, and all must see `output_dir`.
        cache_dir: Folder of cached tables, for other processes.
        on_found: Function called with pareto.json after each search and each retraining.
    Raises:
        UserError: If the sweep in the folder is of other costs, weights or images; see also
            DanceSearch.search, retrain.retrain and Engine.run.
        Interrupted: After a signal; what has been done is saved.
    """
    with owned(output_dir):
        facts = facts_of(config, problem, num_images)
        _check_facts(os.path.join(output_dir, PARETO), facts)
        measure = _accuracy(config, problem, facts["num_images"], output_dir, stop)
        measured: dict[tuple[int, ...], float] = {}  # by tasks

        def accuracy(network: np.ndarray) -> np.ndarray:
            known = measured.get(tuple(network[0].tolist()))
            return measure(network) if known is None else np.asarray([known])

        reachable = reachable_costs(problem.table)
        points: list[Point] = []
        searches_dir = os.path.join(output_dir, "searches")
        earlier = _finished_searches(searches_dir, searches)
        all_searches = (*earlier, *searches)
        shared = {"config": config_to_json(config), "cache_dir": cache_dir, "facts": facts}

        def write(num_to_retrain: int, num_done: int) -> dict[str, Json]:
            data = {
                "schema_version": SCHEMA_VERSION,
                **facts,
                "num_searches": {"planned": len(all_searches), "done": len(points)},
                "num_retrained": {"planned": num_to_retrain, "done": num_done},
                **summary(points, reachable),
            }
            write_json(os.path.join(output_dir, PARETO), data)
            if on_found is not None:
                on_found(data)
            return data

        identity = {name: facts[name] for name in ("supernet_sha256", "dataset", "num_images")}
        memo_path = os.path.join(output_dir, "accuracies.jsonl")
        with contextlib.ExitStack() as stack:
            memo = stack.enter_context(AccuracyMemo(memo_path, accuracy, identity))
            stages = terminal.Stages("searches", "retrainings")
            if engine.is_here:
                stages = _stages(config, problem, all_searches, searches_dir, num_retrained)
            stack.enter_context(stages)
            tasks = [
                {
                    **shared,
                    "folder": os.path.join(searches_dir, search.name),
                    "own": config_to_json(search.config(config)),
                    "candidates_dir": output_dir,
                }
                for search in _independent(all_searches, searches_dir)
            ]
            ahead = Ahead(engine, "searches", search_task, "result.json", tasks)
            stack.enter_context(contextlib.closing(ahead))
            for search in all_searches:
                folder = os.path.join(searches_dir, search.name)
                ahead.wait_for(folder)
                stages.begin(f"search {search.name}")
                own = _with_known_network(search, search.config(config), points)
                result = search_in(folder, own, problem, stop, candidates_dir=output_dir)
                op_indices = problem.space.to_indices(result.architecture)[None]
                if folder in ahead.accuracies:
                    measured[tuple(op_indices[0].tolist())] = ahead.accuracies[folder]
                error = 1.0 - float(memo.accuracies(op_indices)[0])
                point = point_of(search, result, error)
                points.append(_with_retrained_error(point, config.hardware, output_dir))
                data = write(num_retrained, 0)
            rows = worth_retraining(points[len(earlier) :], reachable, num_retrained)
            chosen = [points[len(earlier) + row] for row in rows]
            trainings: list[Json] = [
                {**shared, "folder": folder, "ops": list(point.ops), "seed": point.search.seed}
                for point in chosen
                if not is_retrained(folder := retrained_folder(point, output_dir))
            ]
            ahead = Ahead(engine, "retrainings", retraining_task, "retrain.json", trainings)
            stack.enter_context(contextlib.closing(ahead))
            for number, point in enumerate(chosen, start=1):
                folder = retrained_folder(point, output_dir)
                ahead.wait_for(folder)
                stages.begin(f"retraining {number}")
                retrain_in(folder, *point.training, config, problem, stop)
                # Searches of other objectives and weights may have found the same network.
                points = [_with_retrained_error(p, config.hardware, output_dir) for p in points]
                data = write(len(rows), number)
        folders = [retrained_folder(p, output_dir) for p in points if p.retrained_error is not None]
        for folder in dict.fromkeys(folders):
            if not os.path.exists(os.path.join(folder, NETWORK)):
                terminal.warn(f"{folder} lacks {NETWORK}; a larger --num_retrained makes it again")
        return data


def _accuracy(
    config: ExperimentConfig,
    problem: SearchProblem,
    num_images: int,
    output_dir: str,
    stop: StopSignals | None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from networks, int [B, D], to the accuracies [B] of the points."""
    if config.search.accuracy == "predictor":
        source = accuracy_source(config, problem, output_dir, stop)
        return lambda networks: 1.0 - source.errors(networks)
    assert problem.supernet is not None, "weights are frozen, so there are some"
    return InheritedAccuracy(problem.supernet, problem.dataset, num_images)


def _stages(
    config: ExperimentConfig,
    problem: SearchProblem,
    searches: Sequence[SweepSearch],
    searches_dir: str,
    num_retrained: int,
) -> terminal.Stages:
    """Return the stages of a sweep: each search, then each retraining."""
    work = {}
    for search in searches:
        own = search.config(config).search
        is_finished = os.path.exists(os.path.join(searches_dir, search.name, "result.json"))
        amount = float(own.num_trained)
        if own.accuracy == "supernet":
            amount = SearchPlan.of(own, problem.dataset).work(own)["search"]
        work[f"search {search.name}"] = 0.0 if is_finished else amount
    retrainings = [f"retraining {number + 1}" for number in range(num_retrained)]
    stages = terminal.Stages(*work, *retrainings)
    stages.expect(work, "search")
    one_retraining = retrain_work(config.retrain, problem.dataset)
    stages.expect(dict.fromkeys(retrainings, one_retraining), "weights")
    return stages


def _finished_searches(
    searches_dir: str, others_than: Sequence[SweepSearch]
) -> tuple[SweepSearch, ...]:
    """Return the finished searches of a folder, which may not exist, by name."""
    names = {search.name for search in others_than}
    found = []
    for name in sorted(os.listdir(searches_dir)) if os.path.isdir(searches_dir) else ():
        folder = os.path.join(searches_dir, name)
        if name not in names and os.path.exists(os.path.join(folder, "result.json")):
            config = config_from_json(read_json(os.path.join(folder, "config.json")))
            search = SweepSearch(config.search.objective, config.search.lambda_2, config.seed)
            if search.name != name:
                raise UserError(f"{folder} holds the search {search.name}: it was renamed")
            found.append(search)
    return tuple(found)


def _check_facts(path: str, facts: dict[str, Json]) -> None:
    """Refuse to go on with a sweep of other facts; `path` may not exist."""
    old = read_json(path) if os.path.exists(path) else facts
    for name, value in facts.items():
        if old.get(name) != value:
            raise UserError(
                f"--resume: {path} has {name} = {old.get(name)!r}, this sweep {value!r}: bring"
                " back what it was made with, or name another --output_dir"
            )


def _independent(searches: Sequence[SweepSearch], searches_dir: str) -> list[SweepSearch]:
    """Return the unfinished searches but for those whose network `_with_known_network` fixes."""
    known: set[int] = set()  # seeds
    found = []
    for search in searches:
        is_fixed = search.lambda_2 == 0 and search.seed in known
        if search.lambda_2 == 0:
            known.add(search.seed)
        path = os.path.join(searches_dir, search.name, "result.json")
        if not is_fixed and not os.path.exists(path):
            found.append(search)
    return found


def _with_known_network(
    search: SweepSearch, config: ExperimentConfig, points: Sequence[Point]
) -> ExperimentConfig:
    """Fix the network where it is known already, so that its accelerator alone is looked up.

    Without a cost in the loss all objectives find one network: that of the first of them.
    """
    for point in points:
        if search.lambda_2 == point.search.lambda_2 == 0 and search.seed == point.search.seed:
            fixed = dataclasses.replace(config.search, fixed_architecture=point.ops)
            return dataclasses.replace(config, search=fixed)
    return config


def _with_retrained_error(point: Point, hardware: HardwareConfig, output_dir: str) -> Point:
    """Return a point with the error of its finished training, in the accelerator's words."""
    path = os.path.join(retrained_folder(point, output_dir), "retrain.json")
    if not os.path.exists(path):
        return point
    record = read_json(path)
    word_bits = point.accelerator.get("word_bits") or hardware.machine.word_bits
    is_int8 = "int8_accuracy" in record and word_bits == 8
    accuracy = record["int8_accuracy" if is_int8 else "accuracy"]
    return dataclasses.replace(point, retrained_error=1.0 - float(accuracy["value"]))
