"""Export a finished run, a supernet, a retraining or a sweep to a local file store of MLflow.

Parameters are the fields of config.json, metrics the numbers of history.jsonl by step and
those of the result, artefacts the files of JSON and the pages. Of a sweep each search is a run
within that of the sweep. Exported again, a folder is another run. Needs dance_tf[mlflow].
Prints the number of the run; `mlflow ui --backend-store-uri FOLDER` shows it.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from absl import flags

from dance_tf.errors import UserError
from dance_tf.files import Json, read_json
from dance_tf.run.reporting import read_history

from . import flags as common

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FLAGS = common.shared_flags()
_RUN_DIR = common.define_path("run_dir", "Folder of the run or of the sweep.", FLAGS)
_MLFLOW_DIR = common.define_path("mlflow_dir", "Folder of MLflow's file store.", FLAGS)
_EXPERIMENT = flags.DEFINE_string(
    "experiment", "dance_tf", "Experiment of MLflow, made if missing.", flag_values=FLAGS
)

#: Files whose numbers are metrics, the first of a folder that is there.
_RESULTS = ("result.json", "retrain.json", "supernet.json", "pareto.json")

#: Parts of a result that are numbers of people's interest; None: of the top.
_PARTS = {
    None: ("accuracy", "hypervolume", "zero_share", "num_weight_steps", "num_steps"),
    "accuracy": ("value",),
    "exact_cost": None,
    "predicted_cost": None,
    "times": None,
}

_ARTEFACTS = ("*.json", "*.jsonl", "*.html", "*.svg")

_MAX_METRICS = 1000  # of one call


def main(argv: list[str]) -> None:
    """Export what the flags name."""
    del argv
    common.require(_RUN_DIR)
    folder = pathlib.Path(str(_RUN_DIR.value))
    if not any((folder / name).exists() for name in _RESULTS):
        raise UserError(f"--run_dir={folder}: holds none of {', '.join(_RESULTS)}")
    common.require(_MLFLOW_DIR)
    if importlib.util.find_spec("mlflow") is None:
        raise UserError(
            "export_mlflow needs MLflow, which is not installed: pip install 'dance_tf[mlflow]'"
        )
    # MLflow asks for this before it writes files; a store of another kind needs a server.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    store = pathlib.Path(str(_MLFLOW_DIR.value)).absolute()
    client = MlflowClient(tracking_uri=store.as_uri())
    found = client.get_experiment_by_name(_EXPERIMENT.value)
    experiment = found.experiment_id if found else client.create_experiment(_EXPERIMENT.value)
    number = _export(client, experiment, folder, {})
    for search in sorted(folder.glob("searches/*/result.json")):
        _export(client, experiment, search.parent, {"mlflow.parentRunId": number})
    print(number)


def _export(
    client: MlflowClient, experiment: str, folder: pathlib.Path, tags: Mapping[str, str]
) -> str:
    """Make a run of a folder and return its number."""
    from mlflow.entities import Param

    run = client.create_run(experiment, run_name=folder.name, tags={**tags, **_origin(folder)})
    number = str(run.info.run_id)
    config = folder / "config.json"
    fields = dict(_leaves(read_json(config))) if config.exists() else {}
    params = [Param(name, str(value)[:500]) for name, value in fields.items()]
    for start in range(0, len(params), 100):
        client.log_batch(number, params=params[start : start + 100])
    metrics = list(_metrics(folder))
    for start in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(number, metrics=metrics[start : start + _MAX_METRICS])
    for pattern in _ARTEFACTS:
        for path in sorted(folder.glob(pattern)):
            client.log_artifact(number, str(path))
    client.set_terminated(number)
    return number


def _origin(folder: pathlib.Path) -> dict[str, str]:
    """Return the folder, and the command and the commit of run_info.json, as tags."""
    path = folder / "run_info.json"
    info = read_json(path) if path.exists() else {}
    return {
        "dance_tf.folder": str(folder),
        **{f"dance_tf.{n}": str(info[n]) for n in ("command", "git_commit") if info.get(n)},
    }


def _leaves(data: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _metrics(folder: pathlib.Path) -> Iterator[Metric]:
    """Yield the numbers of the history by step, then those of the result."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    history = folder / "history.jsonl"
    for line in read_history(history) if history.exists() else ():
        for name, value in line.items():
            if _is_number(value) and name != "step":
                key = f"{line.get('phase', 'run')}.{name}"
                yield Metric(key, float(value), now_ms, int(line["step"]))
    path = next(folder / name for name in _RESULTS if (folder / name).exists())
    result = read_json(path)
    for part, names in _PARTS.items():
        data = result if part is None else result.get(part)
        for name, value in data.items() if isinstance(data, dict) else ():
            if _is_number(value) and (names is None or name in names):
                yield Metric(f"{part}.{name}" if part else name, float(value), now_ms, 0)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


if __name__ == "__main__":
    common.run(main, FLAGS)
