"""Main job from config to exports: table, evaluator, images, search, retrain, export.

Everything that can be refused is refused before the run folder is touched. Each stage
leaves its outcome in the folder and is not repeated by a resumed run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence

from dance_tf.config import ExperimentConfig, config_from_json
from dance_tf.data import datasets
from dance_tf.errors import UserError
from dance_tf.evaluator.loading import check_evaluator, load_evaluator
from dance_tf.export import networks
from dance_tf.export.evaluator import export_evaluator
from dance_tf.files import Json, read_json, write_json, write_text
from dance_tf.hardware.cost_table import cost_source, load_or_build_table
from dance_tf.hardware.technology import format_technology, technology_of
from dance_tf.protocols import ImageDataset
from dance_tf.run import terminal
from dance_tf.run.surroundings import StopSignals, open_run
from dance_tf.search.dance import DanceSearch
from dance_tf.search.judge import Judge
from dance_tf.search.predictor_search import search_by_predictor
from dance_tf.search.problem import SearchProblem
from dance_tf.search.quantisation import finish, word_bits_of
from dance_tf.search.result import SearchResult
from dance_tf.search.retrain import INHERITS_NOTHING, retrain, retrain_work
from dance_tf.search.steps import SearchPlan
from dance_tf.search.supernet_training import load_supernet, read_supernet_record
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.space_record import space_sha256, space_to_json
from dance_tf.supernet.supernet import Supernet

__all__ = [
    "cost_facts",
    "input_record",
    "load_finished",
    "load_space_and_images",
    "missing_exports",
    "prepare",
    "run_experiment",
    "tell_lost",
]

#: Name in the summary to file or folder in exports/.
EXPORTS = {
    "saved_model": "saved_model",
    "keras": "network.keras",
    "tflite": "network.tflite",
    "tflite_int8": "network_int8.tflite",
}


def prepare(
    config: ExperimentConfig,
    *,
    space: NetworkSpace | None = None,
    dataset: ImageDataset | None = None,
    cache_dir: str | None = None,
) -> SearchProblem:
    """Return the problem of a config: images, table (built if not cached), evaluator, supernet.

    Writes nothing but the table's cache. The supernet is that of search.supernet_dir or a
    new one; there is none where neither is needed, as the architecture is fixed.

    Args:
        config: Configuration.
        space: Network space in place of the config's.
        dataset: Data in place of the config's.
        cache_dir: Folder of cached tables.
    Raises:
        UserError: If data or evaluator are missing or do not fit, or a file is damaged.
    """
    space, dataset = load_space_and_images(config, space, dataset)
    check_evaluator(config.evaluator, space, config.hardware)
    asks_supernet = config.search.accuracy == "supernet"
    if asks_supernet:
        SearchPlan.of(config.search, dataset)  # Refuses a schedule that does not fit.
    supernet, is_warm = None, config.search.supernet_dir is not None
    if config.search.supernet_dir is not None:
        supernet = load_supernet(config.search.supernet_dir, space, dataset, config)
    with terminal.progress("cost table") as report:
        table = load_or_build_table(space, config.hardware, cache_dir=cache_dir, on_progress=report)
    evaluator = load_evaluator(config.evaluator, table)
    if evaluator.reason is not None:
        terminal.note(f"evaluator: exact, as {evaluator.reason}")
    if supernet is None and asks_supernet and config.search.fixed_architecture is None:
        supernet = Supernet(space, config.seed, config.search.supernet)
    return SearchProblem(space, table, evaluator, dataset, supernet, is_warm)


def load_space_and_images(
    config: ExperimentConfig,
    space: NetworkSpace | None = None,
    dataset: ImageDataset | None = None,
) -> tuple[NetworkSpace, ImageDataset]:
    """Return the network space and the images of a config; print what is odd about them.

    Args:
        config: Configuration.
        space: Space in place of the config's.
        dataset: Data in place of the config's.
    Raises:
        UserError: If the data are missing, have more classes than the space or another shape.
    """
    if dataset is None:
        shape = (space or make_space(config.space)).input_shape
        dataset = datasets.load_data(config.data, shape)
    if space is None:
        space = make_space(config.space, dataset.num_classes)
    if tuple(dataset.image_shape) != space.input_shape:
        raise UserError(
            f"{dataset.name} has inputs of shape {tuple(dataset.image_shape)}, the space"
            f" {space.name} takes {space.input_shape}"
        )
    if space.num_classes < dataset.num_classes:
        raise UserError(
            f"space.num_classes is {space.num_classes}, but {dataset.name} has"
            f" {dataset.num_classes} classes"
        )
    for warning in dataset.warnings:
        terminal.warn(warning)
    return space, dataset


def input_record(dataset: ImageDataset) -> dict[str, Json]:
    """Return the entries of run_info.json on the data and on how they come to the network."""
    sha256 = getattr(dataset, "content_sha256", None)
    return {
        "input": json.loads(json.dumps(dataclasses.asdict(dataset.input_description))),
        **({} if sha256 is None else {"data_sha256": sha256}),
    }


def run_experiment(
    config: ExperimentConfig,
    *,
    output_dir: str,
    is_resuming: bool = False,
    use_retrain: bool = True,
    use_export: bool = True,
    space: NetworkSpace | None = None,
    dataset: ImageDataset | None = None,
    cache_dir: str | None = None,
    stop: StopSignals | None = None,
    warnings: tuple[str, ...] = (),
) -> tuple[SearchResult, dict[str, str]]:
    """Run the main job and leave its folder behind.

    >>> from dance_tf import preset
    >>> result, paths = run_experiment(
    ...     preset("tiny"), output_dir="runs/tiny"
    ... )  # doctest: +SKIP
    >>> result.architecture.ops, result.exact_cost.latency_ms  # doctest: +SKIP

    Args:
        config: Configuration that, with the data, determines the run.
        output_dir: New, empty, or the folder of the run to resume.
        is_resuming: Whether to go on from what the folder holds.
        use_retrain: Whether to train the derived network; without it there is no accuracy
            and no network to export.
        use_export: Whether to write SavedModel, Keras and TFLite files and the evaluator.
        space: Network space in place of the config's, with ops of one's own for example.
        dataset: Data in place of the config's, such as dance_tf.ArrayImages.
        cache_dir: Folder of cached tables.
        stop: Signals to honour.
        warnings: Lines that the user has seen and the result is to keep.
    Returns:
        The result, and the path of each thing written, by name.
    Raises:
        UserError: If the user has made a mistake; the folder is as it was unless the search
            had begun.
        Interrupted: After a signal; what has been done is saved.
    """
    names = ["cost table"]
    by_predictor = config.search.accuracy == "predictor"
    if config.search.fixed_architecture is None:
        is_warm = config.search.supernet_dir is not None or not config.search.warmup_epochs
        names += ["search"] if by_predictor or is_warm else ["warmup", "search"]
    if use_retrain:
        names += ["retrain", "export"] if use_export else ["retrain"]
    with (
        open_run(config, output_dir, is_resuming=is_resuming) as run,
        terminal.Stages(*names) as stages,
    ):
        problem = prepare(config, space=space, dataset=dataset, cache_dir=cache_dir)
        work: dict[str, float] = {}
        if not by_predictor:
            work = SearchPlan.of(config.search, problem.dataset).work(config.search)
            stages.expect({"search": work.pop("search")}, "search")
        retraining = retrain_work(config.retrain, problem.dataset)
        stages.expect({**work, "retrain": retraining}, "weights")
        # Refuses what is out of reach or not in the space.
        judge = Judge(config.search, problem)
        is_inheriting = use_retrain and config.retrain.initial_weights == "inherited"
        if is_inheriting and problem.supernet is None:
            raise UserError(INHERITS_NOTHING)
        facts = _facts(config, problem)
        costs_text = ", ".join(
            f"{metric} {low:.4g} to {high:.4g}" for metric, (low, high) in judge.reachable.items()
        )
        run.begin(facts)
        terminal.note(f"within reach of networks and accelerators: {costs_text}")
        paths = _write_hardware(config, output_dir)
        paths["space"] = os.path.join(output_dir, "space.json")
        write_json(paths["space"], space_to_json(problem.space))
        if by_predictor:
            result = search_by_predictor(
                config,
                problem,
                output_dir=output_dir,
                is_resuming=is_resuming,
                stop=stop,
                judge=judge,
            )
        else:
            result = DanceSearch(
                config.search,
                seed=config.seed,
                output_dir=output_dir,
                is_resuming=is_resuming,
                stop=stop,
            ).search(problem, judge=judge)
        for warning in result.warnings:
            terminal.warn(warning)
        result = dataclasses.replace(
            result,
            versions=run.info["versions"],
            is_deterministic=True,
            warnings=(*warnings, *problem.dataset.warnings, *result.warnings),
        )
        paths["accelerator"] = os.path.join(output_dir, "accelerator.json")
        networks.write_accelerator(
            paths["accelerator"],
            result.accelerator,
            config.hardware.machine,
            result.exact_cost,
            cost_source=facts["cost_source"],
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
            exports = os.path.join(output_dir, "exports") if use_export else None
            finished = finish(
                problem.space,
                result.architecture,
                trained,
                problem.dataset,
                config.retrain,
                config.seed,
                output_dir,
                word_bits=word_bits_of(config.hardware, result.accelerator),
                exports=exports,
                resume=is_resuming,
                stop=stop,
            )
            result = dataclasses.replace(
                result,
                accuracy=finished.accuracy,
                accuracy_reason=None,
                int8_accuracy=finished.int8_accuracy,
                num_trained_candidates=result.num_trained_candidates + 1,
                times={**result.times, "retrain_s": trained.elapsed_s},
            )
            if exports is not None and finished.exports is not None:
                paths |= {name: finished.exports[name]["path"] for name in EXPORTS}
                paths["evaluator"] = _export_evaluator(problem, exports)
        # These are of an interrupted run's last part; search_s and retrain_s are of all parts.
        result = dataclasses.replace(result, times={**result.times, **run.end()})
        paths["result"] = result.save(output_dir)
        return result, paths


def _facts(config: ExperimentConfig, problem: SearchProblem) -> dict[str, Json]:
    """Return `cost_facts`, and the hashes of the space and of a trained supernet's weights."""
    facts = cost_facts(config, problem)
    if problem.is_warm:
        record = read_supernet_record(
            str(config.search.supernet_dir), problem.space, problem.dataset, config
        )
        facts["supernet_sha256"] = record["weights_sha256"]
    facts["space_sha256"] = space_sha256(problem.space)
    return facts


def _write_hardware(config: ExperimentConfig, output_dir: str) -> dict[str, str]:
    """Keep the technology's figures as they are now; return the paths known so far."""
    names = ["config", "run_info"]
    if config.hardware.measured_csv is None:
        names.append("technology")
        text = format_technology(technology_of(config.hardware.machine))
        write_text(os.path.join(output_dir, "technology.json"), text)
    return {name: os.path.join(output_dir, f"{name}.json") for name in names}


def cost_facts(config: ExperimentConfig, problem: SearchProblem) -> dict[str, Json]:
    """Return the entries of run_info.json on a run's costs and images."""
    return {
        "cost_table_sha256": problem.table.content_hash,
        "cost_source": cost_source(config.hardware),
        "num_classes": problem.space.num_classes,
        "evaluator": problem.evaluator.kind,
        **input_record(problem.dataset),
    }


def _export_evaluator(problem: SearchProblem, folder: str) -> str:
    """Write the evaluator into a folder of exports and return its path."""
    evaluator_dir = os.path.join(folder, "evaluator")
    # An interrupted run may have written it already; a run has one.
    shutil.rmtree(evaluator_dir, ignore_errors=True)
    return export_evaluator(problem.evaluator, evaluator_dir, 1)["path"]


def load_finished(
    output_dir: str, *, use_retrain: bool, use_export: bool
) -> tuple[SearchResult, dict[str, str]] | None:
    """Return the result in a run folder and what lies beside it; None if something is to do.

    Files that a finished run no longer has are told of on stderr.
    """
    names = ("config.json", "run_info.json", "accelerator.json", "result.json")
    paths = {name.removesuffix(".json"): os.path.join(output_dir, name) for name in names}
    if not os.path.exists(paths["result"]):
        return None
    result = SearchResult.load(paths["result"])
    if use_retrain and result.accuracy is None:
        return None
    config = config_from_json(read_json(paths["config"]))
    if config.hardware.measured_csv is None:
        paths["technology"] = os.path.join(output_dir, "technology.json")
    lost = [path for path in paths.values() if not os.path.exists(path)]
    if os.path.exists(os.path.join(output_dir, "space.json")):  # older runs have none
        paths["space"] = os.path.join(output_dir, "space.json")
    exports = os.path.join(output_dir, "exports")
    files = {name: os.path.join(exports, file) for name, file in EXPORTS.items()}
    files["evaluator"] = os.path.join(exports, "evaluator", "1")
    if use_retrain and use_export:
        lost += missing_exports(exports)
        lost += [p for p in _files_of_saved_model(files["evaluator"]) if not os.path.exists(p)]
    if lost:
        tell_lost(output_dir, lost, "made again")
        return None
    history = os.path.join(output_dir, "history.jsonl")
    in_supernet = config.search.accuracy == "supernet"
    if in_supernet and config.search.fixed_architecture is None and not os.path.exists(history):
        tell_lost(output_dir, [history], "not made again")
    return result, paths | {name: path for name, path in files.items() if os.path.exists(path)}


def tell_lost(folder: str, paths: Sequence[str], what_becomes: str) -> None:
    """Warn of the files that a finished run lacks, and say what becomes of them."""
    names = [os.path.relpath(path, folder) for path in paths]
    text = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    terminal.warn(f"{folder} is finished but lacks {text}: {what_becomes}")


def missing_exports(folder: str) -> list[str]:
    """Return the paths of those files of an exported network that a folder lacks."""
    saved_model = _files_of_saved_model(os.path.join(folder, EXPORTS["saved_model"]))
    others = [file for name, file in EXPORTS.items() if name != "saved_model"]
    paths = [*saved_model, *(os.path.join(folder, file) for file in ("export.json", *others))]
    return [path for path in paths if not os.path.exists(path)]


def _files_of_saved_model(folder: str) -> list[str]:
    variables = ("variables.index", "variables.data-00000-of-00001")
    paths = ["saved_model.pb", *(os.path.join("variables", name) for name in variables)]
    return [os.path.join(folder, path) for path in paths]
