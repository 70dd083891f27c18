"""The main job from config to exports: table, evaluator, images, search, retrain, export.

Everything that can be refused is refused before the run folder is touched. Each stage
leaves its outcome in the folder and is not repeated by a resumed run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from typing import Any

import keras
import tensorflow as tf

from dance_tf.config import ExperimentConfig
from dance_tf.data import datasets
from dance_tf.errors import UserError
from dance_tf.evaluator.loading import check_evaluator, load_evaluator
from dance_tf.export import networks
from dance_tf.files import write_text
from dance_tf.hardware.cost_table import cost_source, load_or_build_table
from dance_tf.hardware.technology import format_technology, technology_of
from dance_tf.protocols import ImageDataset
from dance_tf.run import run_info, terminal
from dance_tf.run.folder_lock import owned
from dance_tf.search.dance import DanceSearch, SearchProblem
from dance_tf.search.interruption import StopSignals
from dance_tf.search.judge import Judge
from dance_tf.search.result import SearchResult
from dance_tf.search.retrain import INHERITS_NOTHING, retrain, retrain_work
from dance_tf.search.run_folder import EXPORTS, check_origin, check_output_dir, start_output_dir
from dance_tf.search.steps import SearchPlan
from dance_tf.search.supernet_training import load_supernet, read_supernet_record
from dance_tf.supernet.search_space import NetworkSpace, make_space
from dance_tf.supernet.supernet import Supernet

__all__ = [
    "cost_facts",
    "input_record",
    "load_space_and_images",
    "prepare",
    "run_experiment",
]

_NUM_CALIBRATION_IMAGES = 200
_NUM_COMPARED_IMAGES = 200


def prepare(
    config: ExperimentConfig, *, cache_dir: str | None = None, use_progress: bool = True
) -> SearchProblem:
    """Load what a search needs: images, the table (built if not cached), the evaluator.

    Writes nothing but the table's cache.

    Raises:
        UserError: If data or evaluator are missing or do not fit, or a file is damaged.
    """
    space, dataset = load_space_and_images(config)
    check_evaluator(config.evaluator, space, config.hardware)
    SearchPlan.of(config.search, dataset)  # Refuses a schedule that does not fit.
    supernet = None
    if config.search.supernet_dir is not None:
        supernet = load_supernet(config.search.supernet_dir, space, dataset, config)
    with terminal.progress("cost table") as report:
        table = load_or_build_table(
            space,
            config.hardware,
            cache_dir=cache_dir,
            on_progress=report if use_progress else None,
        )
    evaluator = load_evaluator(config.evaluator, table)
    if evaluator.reason is not None:
        terminal.note(f"evaluator: exact, as {evaluator.reason}")
    is_warm = supernet is not None
    return SearchProblem(space, table, evaluator, dataset, supernet, is_warm)


def load_space_and_images(config: ExperimentConfig) -> tuple[NetworkSpace, ImageDataset]:
    """Return the network space and the images of a config; print what is odd about them.

    Raises:
        UserError: If the data are missing, or have more classes than the space.
    """
    dataset = datasets.load_images(config.data, input_size=make_space(config.space).input_size)
    space = make_space(config.space, dataset.num_classes)
    if space.num_classes < dataset.num_classes:
        raise UserError(
            f"space.num_classes is {space.num_classes}, but {dataset.name} has"
            f" {dataset.num_classes} classes"
        )
    for warning in dataset.warnings:
        terminal.warn(warning)
    return space, dataset


def input_record(dataset: ImageDataset) -> dict[str, Any]:
    """Return what run_info.json says of the images: how they come to the network."""
    return {"input": json.loads(json.dumps(dataclasses.asdict(dataset.input_description)))}


def run_experiment(
    config: ExperimentConfig,
    *,
    output_dir: str,
    is_resuming: bool = False,
    use_retrain: bool = True,
    use_export: bool = True,
    cache_dir: str | None = None,
    stop: StopSignals | None = None,
    warnings: tuple[str, ...] = (),
) -> tuple[SearchResult, dict[str, str]]:
    """Run the main job and leave its folder behind.

    Args:
        config: All that determines the run.
        output_dir: New, empty, or the folder of the run to resume.
        is_resuming: Go on from what the folder holds.
        use_retrain: Train the derived network; without it there is no accuracy and no
            network to export.
        use_export: Write SavedModel, Keras and TFLite files and the evaluator.
        cache_dir: Folder of cached tables.
        stop: Signals to honour.
        warnings: Lines that the user has seen and the result is to keep.
    Returns:
        The result, and the path of each thing written, by name.
    Raises:
        UserError: Of the user's mistakes; before the search starts they leave the folder
            as it was.
        Interrupted: After a signal; what has been done is saved.
    """
    names = ["cost table"]
    if config.search.fixed_architecture is None:
        is_warm = config.search.supernet_dir is not None or not config.search.warmup_epochs
        names += ["search"] if is_warm else ["warmup", "search"]
    if use_retrain:
        names += ["retrain", "export"] if use_export else ["retrain"]
    with owned(output_dir), terminal.Stages(*names) as stages:
        return _run_stages(
            config,
            stages,
            output_dir,
            is_resuming,
            use_retrain,
            use_export,
            cache_dir,
            stop,
            warnings,
        )


def _run_stages(
    config: ExperimentConfig,
    stages: terminal.Stages,
    output_dir: str,
    is_resuming: bool,
    use_retrain: bool,
    use_export: bool,
    cache_dir: str | None,
    stop: StopSignals | None,
    warnings: tuple[str, ...],
) -> tuple[SearchResult, dict[str, str]]:
    started = run_info.now()
    check_output_dir(config, output_dir, is_resuming)
    keras.utils.set_random_seed(config.seed)
    tf.config.experimental.enable_op_determinism()
    problem = prepare(config, cache_dir=cache_dir)
    work = SearchPlan.of(config.search, problem.dataset).work(config.search)
    stages.expect({"search": work.pop("search")}, "search")
    stages.expect({**work, "retrain": retrain_work(config.retrain, problem.dataset)}, "weights")
    judge = Judge(config.search, problem)  # Refuses what is out of reach or not in the space.
    if use_retrain and config.retrain.initial_weights == "inherited" and not problem.is_warm:
        if judge.fixed_architecture is not None:
            raise UserError(INHERITS_NOTHING)
        # The search trains the supernet; its weights are wanted once more at the end.
        supernet = Supernet(problem.space, config.seed, config.search.supernet)
        problem = problem._replace(supernet=supernet)
    paths = {name: os.path.join(output_dir, f"{name}.json") for name in ("config", "run_info")}
    costs = cost_facts(config, problem)
    if problem.is_warm:
        record = read_supernet_record(
            str(config.search.supernet_dir), problem.space, problem.dataset, config
        )
        costs["supernet_sha256"] = record["weights_sha256"]
    check_origin(output_dir, costs)
    costs_text = ", ".join(
        f"{metric} {low:.4g} to {high:.4g}" for metric, (low, high) in judge.reachable.items()
    )
    terminal.note(f"within reach of networks and accelerators: {costs_text}")

    start_output_dir(config, output_dir)
    info = run_info.collect(config.seed, started, is_deterministic=True)
    run_info.write(paths["run_info"], info | costs)
    if config.hardware.measured_csv is None:
        # The figures as they are now, whatever becomes of a user's file of them.
        paths["technology"] = os.path.join(output_dir, "technology.json")
        write_text(paths["technology"], format_technology(technology_of(config.hardware.machine)))

    result = DanceSearch(
        config.search,
        seed=config.seed,
        output_dir=output_dir,
        is_resuming=is_resuming,
        stop=stop,
    ).search(problem, judge=judge)
    result = dataclasses.replace(result, versions=info["versions"], is_deterministic=True)
    for warning in result.warnings:
        terminal.warn(warning)
    result = dataclasses.replace(
        result, warnings=(*warnings, *problem.dataset.warnings, *result.warnings)
    )
    paths["accelerator"] = os.path.join(output_dir, "accelerator.json")
    networks.write_accelerator(
        paths["accelerator"],
        result.accelerator,
        config.hardware.machine,
        result.exact_cost,
        cost_source=costs["cost_source"],
    )
    if use_retrain:
        trained = retrain(
            problem.space,
            result.architecture,
            problem.dataset,
            config.retrain,
            config.seed,
            output_dir,
            supernet=problem.supernet,
            resume=is_resuming,
            stop=stop,
        )
        result = dataclasses.replace(
            result,
            accuracy=trained.accuracy,
            accuracy_reason=None,
            num_trained_candidates=1,
            times={**result.times, "retrain_s": trained.elapsed_s},
        )
        if use_export:
            stages.begin("export")
            paths |= _export(problem, trained.network, os.path.join(output_dir, "exports"))
    ended = run_info.now()
    # Of an interrupted run, this is the last session; search_s and retrain_s are of all.
    times = {**result.times, "wall_s": round((ended - started).total_seconds(), 3)}
    times |= {"started_at": started.isoformat(), "ended_at": ended.isoformat()}
    result = dataclasses.replace(result, times=times)
    info = run_info.collect(config.seed, started, ended=ended, is_deterministic=True)
    run_info.write(paths["run_info"], info | costs)
    paths["result"] = result.save(output_dir)
    return result, paths


def cost_facts(config: ExperimentConfig, problem: SearchProblem) -> dict[str, Any]:
    """Return what run_info.json says of a run's costs and images, beside what others do."""
    return {
        "cost_table_sha256": problem.table.content_hash,
        "cost_source": cost_source(config.hardware),
        "num_classes": problem.space.num_classes,
        "evaluator": problem.evaluator.kind,
        **input_record(problem.dataset),
    }


def _export(problem: SearchProblem, network: keras.Model, folder: str) -> dict[str, str]:
    """Write the network in every format and the evaluator; return where they are."""
    calibration, _ = networks.sample_images(
        problem.dataset, "architecture", _NUM_CALIBRATION_IMAGES
    )
    images, labels = networks.sample_images(problem.dataset, "test", _NUM_COMPARED_IMAGES)
    report = networks.export_network(
        network,
        folder,
        calibration_images=calibration,
        test_images=images,
        test_labels=labels,
        inputs=getattr(problem.dataset, "input_description", None),
    )
    evaluator_dir = os.path.join(folder, "evaluator")
    # An interrupted run may have written it already; a run has one.
    shutil.rmtree(evaluator_dir, ignore_errors=True)
    served = networks.export_evaluator(problem.evaluator, evaluator_dir, 1)
    return {name: report[name]["path"] for name in EXPORTS} | {"evaluator": served["path"]}
