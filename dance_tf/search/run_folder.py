"""The folder of a run: whose it is, whether what is in it may be gone on with, what it lacks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from dance_tf.config import ExperimentConfig, config_from_json, config_to_json
from dance_tf.errors import UserError
from dance_tf.files import is_partial, read_json, write_json
from dance_tf.run import run_info, terminal
from dance_tf.run.folder_lock import names_in
from dance_tf.search.result import SearchResult

__all__ = [
    "EXPORTS",
    "check_origin",
    "check_output_dir",
    "load_finished",
    "missing_exports",
    "start_output_dir",
    "tell_lost",
]

#: Name in the summary to file or folder in exports/.
EXPORTS = {
    "saved_model": "saved_model",
    "keras": "network.keras",
    "tflite": "network.tflite",
    "tflite_int8": "network_int8.tflite",
}


def check_output_dir(config: ExperimentConfig, output_dir: str, is_resuming: bool) -> None:
    """Refuse a run folder that is of another run; touches nothing.

    Raises:
        UserError: If it holds something and is not to be resumed, or holds a run of
            another config.
    """
    if not os.path.exists(output_dir):
        return
    if not os.path.isdir(output_dir):
        raise UserError(f"--output_dir={output_dir} is a file: name a folder")
    if all(map(is_partial, names_in(output_dir))):  # What a kill at the very start has left.
        return
    if not is_resuming:
        raise UserError(
            f"--output_dir={output_dir} is not empty: add --resume to go on with the run in it,"
            " or name another folder"
        )
    path = os.path.join(output_dir, "config.json")
    if not os.path.exists(path):
        raise UserError(f"--resume: {output_dir} has no config.json, so it holds no run")
    stored = config_from_json(read_json(path))
    # Where the images lie does not change them.
    stored = dataclasses.replace(
        stored, data=dataclasses.replace(stored.data, data_dir=config.data.data_dir)
    )
    difference = _first_difference(_comparable(stored), _comparable(config))
    if difference:
        name, old, new = difference
        raise UserError(
            f"--resume: {path} has {name} = {old!r}, this run {new!r}: give the same"
            " configuration, or name another --output_dir"
        )


def start_output_dir(config: ExperimentConfig, output_dir: str) -> None:
    """Make a run folder, or get that of an interrupted run ready, and write config.json.

    What a kill left half-written is removed, and a number of threads other than the
    interrupted run's is warned of.
    """
    os.makedirs(output_dir, exist_ok=True)
    for folder, _, names in os.walk(output_dir):
        for name in filter(is_partial, names):
            os.remove(os.path.join(folder, name))
    path, now = os.path.join(output_dir, "run_info.json"), run_info.num_threads()
    before = read_json(path).get("num_threads", now) if os.path.exists(path) else now
    if before != now:
        terminal.warn(
            f"{path} is of {before} threads, this is of {now}, which round otherwise, so"
            f" the result may be another; TF_NUM_INTRAOP_THREADS={before} brings them back"
        )
    write_json(os.path.join(output_dir, "config.json"), config_to_json(config))


def check_origin(output_dir: str, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that began with other costs, images or weights.

    Args:
        output_dir: Folder of the run, which may be new.
        facts: What its run_info.json is to hold: `cost_table_sha256`, `evaluator`, `input`
            and, of a search from a trained supernet, `supernet_sha256`.
    Raises:
        UserError: If the folder's run_info.json says otherwise.
    """
    path = os.path.join(output_dir, "run_info.json")
    before = read_json(path) if os.path.exists(path) else {}
    mend = "or name another --output_dir"
    for name, now in facts.items():
        was = before.get(name, now)
        if name == "cost_table_sha256" and was != now:
            source = before.get("cost_source", {})
            raise UserError(
                f"--resume: costs have changed since the run in {output_dir} began; they came"
                f" from {source.get('name')} as it was then (SHA-256 {source.get('sha256')}):"
                f" bring it back, {mend}"
            )
        if name == "supernet_sha256" and was != now:
            raise UserError(
                f"--resume: the supernet of the run in {output_dir} had other weights (SHA-256"
                f" {was}): bring it back, {mend}"
            )
        if name in ("evaluator", "input") and (difference := _first_difference(was, now, name)):
            name, old, new = difference
            raise UserError(
                f"--resume: the run in {output_dir} began with {name} = {old!r}, which is"
                f" {new!r} now: bring back the evaluator or the data set, {mend}"
            )


def load_finished(
    output_dir: str, *, use_retrain: bool, use_export: bool
) -> tuple[SearchResult, dict[str, str]] | None:
    """Return the result in a run folder and what lies beside it; None if something is to do.

    What a finished run no longer has is told of on stderr.
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
    if config.search.fixed_architecture is None and not os.path.exists(history):
        tell_lost(output_dir, [history], "not made again")
    return result, paths | {name: path for name, path in files.items() if os.path.exists(path)}


def tell_lost(folder: str, paths: Sequence[str], what_becomes: str) -> None:
    """Say on stderr which files a finished run lacks, and what becomes of them."""
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


def _comparable(config: ExperimentConfig) -> dict[str, Any]:
    """Return a config as JSON data in which "auto" is the evaluator that runs have had of old.

    Which one it came to is held by run_info.json.
    """
    data = config_to_json(config)
    if data["evaluator"]["kind"] == "auto":
        data["evaluator"]["kind"] = "neural"
    return data


def _first_difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the dotted name and the two values of the first field that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else (name, old, new)
    for key in [*old, *(key for key in new if key not in old)]:
        path = f"{name}.{key}" if name else key
        difference = _first_difference(old.get(key), new.get(key), path)
        if difference:
            return difference
    return None
