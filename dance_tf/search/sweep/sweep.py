"""Sweep: many searches over one trained supernet, and the retraining of what they find.

The supernet's weights are frozen, so that all searches, and the inherited accuracies of
what they find, stand on the same weights. Each search and each retraining has a folder of its
own and is interrupted and resumed as a single one is; pareto.json says after each what there
is so far.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dance_tf.config import ExperimentConfig, config_from_json, config_to_json
from dance_tf.errors import UserError
from dance_tf.files import Json, read_json, write_json
from dance_tf.run import terminal
from dance_tf.run.folder_lock import owned
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.accuracy_memo import AccuracyMemo
from dance_tf.search.dance import DanceSearch
from dance_tf.search.limits import reachable_costs
from dance_tf.search.predictor_search import accuracy_source, search_by_predictor
from dance_tf.search.problem import SearchProblem
from dance_tf.search.result import SearchResult
from dance_tf.search.retrain import retrain, retrain_work
from dance_tf.search.steps import SearchPlan
from dance_tf.search.supernet_training import read_supernet_record
from dance_tf.search.sweep.fronts import Point, SweepSearch, point_of, summary, worth_retraining
from dance_tf.structs import Architecture
from dance_tf.supernet.inherited import InheritedAccuracy

__all__ = ["PARETO", "SCHEMA_VERSION", "plan_sweep", "run_sweep", "search_in"]

#: File that holds what a sweep found.
PARETO = "pareto.json"
SCHEMA_VERSION = 1

_NETWORK = "network.keras"


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
) -> dict[str, Json]:
    """Run searches, retrain the best of what they find, and return pareto.json.

    Searches and retrainings that are finished in `output_dir` are read and not done again.
    Searches of earlier calls stay a part of the sweep: their points come first.

    Args:
        searches: Searches from `plan_sweep`; they may differ from those of an earlier call on
            the same folder.
        config: Configuration that all searches share.
        problem: Problem of all searches, with a trained supernet unless they go by a predictor.
        output_dir: Folder that gets searches/, retrained/, accuracies.jsonl and pareto.json.
        num_images: Number of held-out images for the inherited accuracy; at most all are used.
        num_retrained: Number of points of `searches` to retrain, see `worth_retraining`.
        stop: Signals to honour at the next step boundary.
    Raises:
        UserError: If the sweep in the folder is of other costs, weights or images; see also
            DanceSearch.search and retrain.retrain.
        Interrupted: After a signal; what has been done is saved.
    """
    with owned(output_dir):
        facts = _facts(config, problem, num_images)
        _check_facts(os.path.join(output_dir, PARETO), facts)
        accuracy = _accuracy(config, problem, facts["num_images"], output_dir, stop)
        reachable = reachable_costs(problem.table)
        points: list[Point] = []
        searches_dir = os.path.join(output_dir, "searches")
        earlier = _finished_searches(searches_dir, searches)
        all_searches = (*earlier, *searches)

        def write(num_to_retrain: int, num_done: int) -> dict[str, Json]:
            data = {
                "schema_version": SCHEMA_VERSION,
                **facts,
                "num_searches": {"planned": len(all_searches), "done": len(points)},
                "num_retrained": {"planned": num_to_retrain, "done": num_done},
                **summary(points, reachable),
            }
            write_json(os.path.join(output_dir, PARETO), data)
            return data

        identity = {name: facts[name] for name in ("supernet_sha256", "dataset", "num_images")}
        memo_path = os.path.join(output_dir, "accuracies.jsonl")
        with (
            _stages(config, problem, all_searches, searches_dir, num_retrained) as stages,
            AccuracyMemo(memo_path, accuracy, identity) as memo,
        ):
            for search in all_searches:
                stages.begin(f"search {search.name}")
                own = _with_known_network(search, search.config(config), points)
                folder = os.path.join(searches_dir, search.name)
                result = search_in(folder, own, problem, stop, candidates_dir=output_dir)
                op_indices = problem.space.to_indices(result.architecture)[None]
                error = 1.0 - float(memo.accuracies(op_indices)[0])
                points.append(_with_retrained_error(point_of(search, result, error), output_dir))
                data = write(num_retrained, 0)
            rows = worth_retraining(points[len(earlier) :], reachable, num_retrained)
            for number, row in enumerate(rows, start=1):
                point = points[len(earlier) + row]
                stages.begin(f"retraining {number}")
                _retrain(point, config, problem, output_dir, stop)
                # Searches of other objectives and weights may have found the same network.
                points = [_with_retrained_error(point, output_dir) for point in points]
                data = write(len(rows), number)
        folders = [
            _retrained_folder(p, output_dir) for p in points if p.retrained_error is not None
        ]
        for folder in dict.fromkeys(folders):
            if not os.path.exists(os.path.join(folder, _NETWORK)):
                terminal.warn(f"{folder} lacks {_NETWORK}; a larger --num_retrained makes it again")
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


def _facts(config: ExperimentConfig, problem: SearchProblem, num_images: int) -> dict[str, Json]:
    """Return the space, costs, weights and images that the numbers of a sweep stand on."""
    facts: dict[str, Json] = {"supernet_sha256": None}
    if config.search.accuracy == "supernet":
        record = read_supernet_record(
            str(config.search.supernet_dir), problem.space, problem.dataset, config
        )
        facts = {"supernet_sha256": record["weights_sha256"]}
    return {
        "space": problem.space.name,
        "dataset": problem.dataset.name,
        "cost_table_sha256": problem.table.content_hash,
        **facts,
        "num_images": min(num_images, problem.dataset.num_images("architecture")),
    }


def _check_facts(path: str, facts: dict[str, Json]) -> None:
    """Refuse to go on with a sweep of other facts; `path` may not exist."""
    old = read_json(path) if os.path.exists(path) else facts
    for name, value in facts.items():
        if old.get(name) != value:
            raise UserError(
                f"--resume: {path} has {name} = {old.get(name)!r}, this sweep {value!r}: bring"
                " back what it was made with, or name another --output_dir"
            )


def search_in(
    folder: str,
    config: ExperimentConfig,
    problem: SearchProblem,
    stop: StopSignals | None = None,
    *,
    candidates_dir: str | None = None,
) -> SearchResult:
    """Run a search in a folder of its own, or go on with it, or read what it found.

    Args:
        folder: Folder that gets config.json, history.jsonl, TensorBoard logs and, at the end,
            result.json.
        config: Configuration of this search, with frozen weights or a predictor.
        problem: Problem with a trained supernet, whose architecture parameters are reset to
            those of the config's seed.
        stop: Signals to honour at the next step boundary.
        candidates_dir: Folder of the networks that a search with a predictor trains; None: the
            search's own.
    Raises:
        UserError, Interrupted: See DanceSearch.search.
    """
    with owned(folder):
        path = os.path.join(folder, "config.json")
        is_finished = os.path.exists(os.path.join(folder, "result.json"))
        if not (is_finished and os.path.exists(path)):
            write_json(path, config_to_json(config))
        if is_finished:
            result = SearchResult.load(folder)
            if result.num_architecture_steps and not result.history:
                terminal.warn(f"{folder} is finished but lacks history.jsonl")
        elif config.search.accuracy == "predictor":
            result = search_by_predictor(
                config,
                problem,
                output_dir=folder,
                is_resuming=True,
                stop=stop,
                candidates_dir=candidates_dir,
            )
            result.save(folder)
        else:
            assert problem.supernet is not None, "weights are frozen, so there are some"
            problem.supernet.reset_architecture(config.seed)
            result = DanceSearch(
                config.search, seed=config.seed, output_dir=folder, is_resuming=True, stop=stop
            ).search(problem)
            result.save(folder)
        # A kill may have come between the result and this.
        shutil.rmtree(os.path.join(folder, "checkpoints"), ignore_errors=True)
        return result


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


def _retrained_folder(point: Point, output_dir: str) -> str:
    """Return where a point's network is trained with its search's seed."""
    ops, seed = point.training
    digest = hashlib.sha256(",".join(ops).encode()).hexdigest()[:12]
    return os.path.join(output_dir, "retrained", f"{digest}_seed{seed}")


def _with_retrained_error(point: Point, output_dir: str) -> Point:
    """Return a point with the error of its training, if that is finished."""
    path = os.path.join(_retrained_folder(point, output_dir), "retrain.json")
    if not os.path.exists(path):
        return point
    error = 1.0 - float(read_json(path)["accuracy"]["value"])
    return dataclasses.replace(point, retrained_error=error)


def _retrain(
    point: Point,
    config: ExperimentConfig,
    problem: SearchProblem,
    output_dir: str,
    stop: StopSignals | None,
) -> None:
    """Train a point's network, unless that has been done and the network is there."""
    folder = _retrained_folder(point, output_dir)
    checkpoints = os.path.join(folder, "checkpoints")
    path, network = os.path.join(folder, "retrain.json"), os.path.join(folder, _NETWORK)
    is_lost = os.path.exists(path) and not os.path.exists(network)
    if is_lost:
        terminal.warn(f"{folder} lacks {_NETWORK}: trained again")
    if is_lost or not os.path.exists(path):
        space, dataset, seed = problem.space, problem.dataset, point.search.seed
        architecture = Architecture(space.name, point.ops)
        result = retrain(
            space,
            architecture,
            dataset,
            config.retrain,
            seed,
            folder,
            supernet=problem.supernet,
            # The checkpoints of a finished training are gone.
            resume=os.path.isdir(checkpoints) or not is_lost,
            stop=stop,
        )
        record = {
            "architecture": dataclasses.asdict(architecture),
            "accuracy": dataclasses.asdict(result.accuracy),
            "seed": seed,
            "training_time_s": round(result.elapsed_s, 3),
        }
        result.network.save(network)
        write_json(path, record)  # Last: it says that the training is finished.
    shutil.rmtree(checkpoints, ignore_errors=True)
