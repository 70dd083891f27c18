"""Searches and retrainings of a sweep: each in a folder of its own, here or as an engine's task.

A task knows the sweep by JSON data and makes its problem once per process, from the same files
as the process that asked. It leaves its checkpoints, history and network in its folder, which
all processes share, and returns its record; the file that says that it is finished is written
by the process that asked, so that each has one writer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence

from dance_tf.config import ExperimentConfig, config_from_json, config_to_json
from dance_tf.errors import UserError
from dance_tf.files import Json, write_json
from dance_tf.run import terminal
from dance_tf.run.engine import Engine
from dance_tf.run.folder_lock import owned
from dance_tf.run.surroundings import StopSignals, make_deterministic
from dance_tf.search import pipeline
from dance_tf.search.dance import DanceSearch
from dance_tf.search.predictor_search import search_by_predictor
from dance_tf.search.problem import SearchProblem
from dance_tf.search.quantisation import finish, may_have_8_bits
from dance_tf.search.result import SearchResult
from dance_tf.search.retrain import retrain
from dance_tf.search.supernet_training import read_supernet_record
from dance_tf.search.sweep.fronts import Point
from dance_tf.structs import Architecture
from dance_tf.supernet.inherited import InheritedAccuracy

__all__ = [
    "NETWORK",
    "Ahead",
    "facts_of",
    "is_retrained",
    "prepare_task",
    "retrain_in",
    "retrained_folder",
    "retraining_task",
    "search_in",
    "search_task",
]

#: Name of a trained network in the folder of its retraining.
NETWORK = "network.keras"


class Ahead:
    """Tasks that an engine finishes before their results are asked for.

    Args:
        engine: Engine; there are no tasks where it is this process.
        what: Name of the tasks for people.
        task: `search_task` or `retraining_task`.
        file_name: File of a task's folder that its record is written to, here and at once.
        data: Data of each task.
    """

    def __init__(
        self,
        engine: Engine,
        what: str,
        task: Callable[[Json], Json],
        file_name: str,
        data: Sequence[Json],
    ) -> None:
        data = () if engine.is_here else data
        self._left = {one["folder"] for one in data}
        #: Inherited accuracies that tasks have measured, by their folders.
        self.accuracies: dict[str, float] = {}
        self._finished = _finish(what, file_name, data, engine.run(task, data))

    def wait_for(self, folder: str) -> None:
        """Return when the task of a folder is finished, if there is one."""
        while folder in self._left:
            finished, outcome = next(self._finished)
            self._left.remove(finished)
            if outcome.get("accuracy") is not None:
                self.accuracies[finished] = outcome["accuracy"]

    def close(self) -> None:
        """End what is still running."""
        self._finished.close()


def _finish(
    what: str, file_name: str, data: Sequence[Json], outcomes: Generator[tuple[int, Json]]
) -> Generator[tuple[str, dict[str, Json]]]:
    """Write records into the folders of their tasks as they come; yield folders and outcomes."""
    with contextlib.closing(outcomes), terminal.progress(what) as report:
        if data:
            report(0, len(data))
        for done, (number, outcome) in enumerate(outcomes, start=1):
            folder = data[number]["folder"]
            write_json(os.path.join(folder, file_name), outcome["record"])
            terminal.note(f"{what}: {os.path.basename(folder)} is finished")
            report(done, len(data))
            yield folder, outcome


def facts_of(config: ExperimentConfig, problem: SearchProblem, num_images: int) -> dict[str, Json]:
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
        else:
            result = _search(folder, config, problem, stop, candidates_dir)
            result.save(folder)
        # A kill may have come between the result and this.
        shutil.rmtree(os.path.join(folder, "checkpoints"), ignore_errors=True)
        return result


def _search(
    folder: str,
    config: ExperimentConfig,
    problem: SearchProblem,
    stop: StopSignals | None,
    candidates_dir: str | None,
) -> SearchResult:
    """Run a search to its end from what its folder holds; return the result, which is not saved."""
    if config.search.accuracy == "predictor":
        return search_by_predictor(
            config,
            problem,
            output_dir=folder,
            is_resuming=True,
            stop=stop,
            candidates_dir=candidates_dir,
        )
    assert problem.supernet is not None, "weights are frozen, so there are some"
    problem.supernet.reset_architecture(config.seed)
    return DanceSearch(
        config.search, seed=config.seed, output_dir=folder, is_resuming=True, stop=stop
    ).search(problem)


def search_task(data: dict[str, Json]) -> dict[str, Json]:
    """Run a search to its end; return its `record`, and the `accuracy` that its network inherits.

    Networks that are trained have none, and one that was measured before is measured again.

    Args:
        data: `config`, `cache_dir` and `facts` of the sweep; `folder`, `own` configuration and
            `candidates_dir` of the search, as in `search_in`.
    """
    problem, folder, own = _problem(data), data["folder"], config_from_json(data["own"])
    # The process that had the task before may still be ending.
    with owned(folder, is_waiting=True), StopSignals() as stop:
        write_json(os.path.join(folder, "config.json"), data["own"])
        result = _search(folder, own, problem, stop, data["candidates_dir"])
        accuracy = None
        if own.search.accuracy == "supernet":
            op_indices = problem.space.to_indices(result.architecture)[None]
            accuracy = float(_inherited(problem, data["facts"]["num_images"])(op_indices)[0])
        return {"record": result.to_json(), "accuracy": accuracy}


def retrained_folder(point: Point, output_dir: str) -> str:
    """Return where a point's network is trained with its search's seed."""
    ops, seed = point.training
    digest = hashlib.sha256(",".join(ops).encode()).hexdigest()[:12]
    return os.path.join(output_dir, "retrained", f"{digest}_seed{seed}")


def is_retrained(folder: str) -> bool:
    """Return whether a training is finished and its network is there."""
    return all(os.path.exists(os.path.join(folder, name)) for name in ("retrain.json", NETWORK))


def retrain_in(
    folder: str,
    ops: tuple[str, ...],
    seed: int,
    config: ExperimentConfig,
    problem: SearchProblem,
    stop: StopSignals | None,
) -> None:
    """Train a network, unless that has been done and the network is there."""
    if not is_retrained(folder):
        record = _retrain(folder, ops, seed, config, problem, stop)
        write_json(os.path.join(folder, "retrain.json"), record)  # Last: it is finished.
    shutil.rmtree(os.path.join(folder, "checkpoints"), ignore_errors=True)


def _retrain(
    folder: str,
    ops: tuple[str, ...],
    seed: int,
    config: ExperimentConfig,
    problem: SearchProblem,
    stop: StopSignals | None,
) -> dict[str, Json]:
    """Train a network, leave it in its folder and return the record, which is not written."""
    is_lost = os.path.exists(os.path.join(folder, "retrain.json"))
    if is_lost:
        terminal.warn(f"{folder} lacks {NETWORK}: trained again")
    architecture = Architecture(problem.space.name, ops)
    result = retrain(
        problem.space,
        architecture,
        problem.dataset,
        config.retrain,
        seed,
        folder,
        supernet=problem.supernet,
        # The checkpoints of a finished training are gone.
        resume=os.path.isdir(os.path.join(folder, "checkpoints")) or not is_lost,
        stop=stop,
    )
    result.network.save(os.path.join(folder, NETWORK))
    finished = finish(
        problem.space,
        architecture,
        result,
        problem.dataset,
        config.retrain,
        seed,
        folder,
        # Points of several accelerators may share the network.
        word_bits=8 if may_have_8_bits(config.hardware) else 16,
        resume=True,
        stop=stop,
    )
    int8 = finished.int8_accuracy
    return {
        "architecture": dataclasses.asdict(architecture),
        "accuracy": dataclasses.asdict(result.accuracy),
        **({} if int8 is None else {"int8_accuracy": dataclasses.asdict(int8)}),
        "seed": seed,
        "training_time_s": round(result.elapsed_s, 3),
    }


def retraining_task(data: dict[str, Json]) -> dict[str, Json]:
    """Train a network in its folder and return the `record` of its training.

    Args:
        data: `config`, `cache_dir` and `facts` of the sweep; `folder`, `ops` and `seed` of the
            training.
    """
    problem, folder = _problem(data), data["folder"]
    config = config_from_json(data["config"])
    with owned(folder, is_waiting=True), StopSignals() as stop:
        ops, seed = tuple(data["ops"]), data["seed"]
        return {"record": _retrain(folder, ops, seed, config, problem, stop)}


def prepare_task(data: dict[str, Json]) -> None:
    """Make the problem of `config` and `cache_dir` for the tasks that are to come."""
    _make_problem(json.dumps(data["config"]), data["cache_dir"])


def _problem(data: dict[str, Json]) -> SearchProblem:
    """Return the problem of a task's sweep, made once in a process.

    Raises:
        UserError: If it is not the one of the process that asked.
    """
    problem = _make_problem(json.dumps(data["config"]), data["cache_dir"])
    facts = data["facts"]
    found = facts_of(config_from_json(data["config"]), problem, facts["num_images"])
    for name, value in facts.items():
        if found[name] != value:
            raise UserError(
                f"a task sees {name} = {found[name]!r}, the sweep has {value!r}: its machine needs"
                " the same files, and a space or data set that the configuration names"
            )
    return problem


def _inherited(problem: SearchProblem, num_images: int) -> InheritedAccuracy:
    """Return the accuracies of this process's problem, whose images are read once."""
    if num_images not in _accuracies:
        assert problem.supernet is not None, "weights are frozen, so there are some"
        _accuracies.clear()
        _accuracies[num_images] = InheritedAccuracy(problem.supernet, problem.dataset, num_images)
    return _accuracies[num_images]


#: Accuracies by the number of images; of the problem that `_make_problem` made last.
_accuracies: dict[int, InheritedAccuracy] = {}


@functools.lru_cache(maxsize=1)
def _make_problem(config_text: str, cache_dir: str | None) -> SearchProblem:
    _accuracies.clear()
    config = config_from_json(json.loads(config_text))
    make_deterministic(config.seed)
    return pipeline.prepare(config, cache_dir=cache_dir)
