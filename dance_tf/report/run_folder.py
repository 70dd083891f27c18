"""Folder of a finished run, read and checked for its report."""

from __future__ import annotations

import dataclasses
import math
import os

from dance_tf.config import ExperimentConfig, config_from_json
from dance_tf.errors import UserError
from dance_tf.files import Json, local_path, read_json
from dance_tf.hardware.objective import Limits, Objective
from dance_tf.run.reporting import read_history
from dance_tf.search.result import SCHEMA_VERSION
from dance_tf.search.sweep.sweep import PARETO
from dance_tf.structs import METRICS, Accelerator, Architecture
from dance_tf.supernet.search_space import NetworkSpace
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.space_record import space_from_json

__all__ = ["COST_FIELDS", "Run", "read_run"]

#: The numbers of a cost in result.json that a report shows.
COST_FIELDS = (*METRICS, "latency_cycles", "edap_ms_mj_mm2", "objective")

# Classes of a data set that a run of before has not written down.
_CLASSES_OF = {"digits": 10}


# Groups of the config that a report shows.
_SHOWN = ("hardware", "space", "data")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, as its files have it.

    Attributes:
        folder: Absolute path.
        config: Hardware, space and data of the run; its other groups are those of a default.
        result: result.json, as it is.
        info: run_info.json; empty where there is none.
        space: The network space; with ten classes where the run does not say how many.
        is_space_known: True if the run says how many classes its images have.
        architecture: Network that was found.
        accelerator: Accelerator of the network.
        objective: Objective that the search lowered.
        limits: Limits on the result's cost; None if there are none.
        costs: Costs of result.json, by name; each with COST_FIELDS.
        history: Lines of history.jsonl, of all phases; empty where there is none.
    """

    folder: str
    config: ExperimentConfig
    result: dict[str, Json]
    info: dict[str, Json]
    space: NetworkSpace
    is_space_known: bool
    architecture: Architecture
    accelerator: Accelerator
    objective: Objective
    limits: Limits | None
    costs: dict[str, dict[str, float]]
    history: tuple[dict[str, Json], ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return os.path.basename(self.folder) or self.folder

    @property
    def reference(self) -> list[float]:
        """Metrics at which the objective is 1, in the order of METRICS."""
        return [self.result["objective"]["reference"][name] for name in METRICS]


def read_run(run_dir: str) -> Run:
    """Read a run folder.

    Raises:
        UserError: If there is no finished run, or a file is damaged or says what cannot be.
    """
    folder = local_path(run_dir, "run folder")

    def file(name: str) -> str:
        return os.path.join(folder, name)

    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder")
    if not os.path.exists(file("config.json")):
        raise UserError(f"{folder}: no config.json, so it is not the folder of a run")
    if not os.path.exists(file("result.json")):
        raise UserError(f"{folder}: the run has no result.json yet: finish it with --resume")

    config = _read_config(file("config.json"))
    info = _read_info(folder)
    history = read_history(file("history.jsonl")) if os.path.exists(file("history.jsonl")) else []
    path = file("result.json")
    result = read_json(path)
    version = result.get("schema_version") if isinstance(result, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version is {version!r}, this reads {SCHEMA_VERSION}")
    classes = config.space.num_classes or info.get("num_classes")
    classes = classes or _CLASSES_OF.get(config.data.title)
    if os.path.exists(file("space.json")):  # older runs have none
        space = space_from_json(read_json(file("space.json")), file("space.json"))
    else:
        space = make_space(config.space, classes or 10)
    if "exact_cost" not in result:
        raise UserError(f"{path}: there is no exact_cost in it")
    architecture = Architecture.from_json(result.get("architecture"), path)
    accelerator = Accelerator.from_json(result.get("accelerator"), path)
    try:
        objective = result["objective"]
        latency, energy, area = (_number(objective["weights"], name) for name in METRICS)
        for name in METRICS:
            _number(objective["reference"], name)
        return Run(
            folder=folder,
            config=config,
            result=result,
            info=info,
            space=space,
            is_space_known=classes is not None,
            architecture=space.validate(architecture),
            accelerator=accelerator,
            objective=Objective(objective["kind"], (latency, energy, area)),
            limits=_limits(result.get("limits")),
            costs={
                name: {field: _number(cost, field) for field in COST_FIELDS}
                for name, cost in result.items()
                if name.endswith("_cost")
            },
            history=tuple(history),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the result of a search ({error})") from None


def _read_info(folder: str) -> dict[str, Json]:
    """Read a run's run_info.json, or that of the sweep whose search it is; {} without one."""
    sweep = os.path.dirname(os.path.dirname(folder))
    folders = [folder, *([sweep] if os.path.exists(os.path.join(sweep, PARETO)) else [])]
    for path in (os.path.join(each, "run_info.json") for each in folders):
        if os.path.exists(path):
            info = read_json(path)
            if not isinstance(info, dict):
                raise UserError(f"{path}: not a JSON object")
            return info
    return {}


def _read_config(path: str) -> ExperimentConfig:
    """Read what a report shows of a config; the rest may be of another version."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object")
    try:
        return config_from_json({name: data[name] for name in _SHOWN if name in data})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _limits(data: dict[str, Json] | None) -> Limits | None:
    """Return the limits of a result; runs of before have none."""
    if data is None:
        return None
    return Limits(**{field.name: data[field.name] for field in dataclasses.fields(Limits)})


def _number(data: dict[str, Json], name: str) -> float:
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} is {value!r}, not a number")
    return value
