"""Configuration as frozen dataclasses, with JSON round trip and dotted overrides.

Imports no TensorFlow. Meaning and range of each field stand in config_fields.py. Defaults
marked "not confirmed" are remembered from the DANCE paper, and not seen in its text.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar

from dance_tf.config_fields import ARCH_GRADIENTS, Hint, check_fields
from dance_tf.errors import UserError, did_you_mean
from dance_tf.files import Json
from dance_tf.structs import DATAFLOWS, OBJECTIVES, Accelerator, check_objective

__all__ = [
    "ARCH_GRADIENTS",
    "AcceleratorSpaceConfig",
    "DataConfig",
    "EvaluatorConfig",
    "ExperimentConfig",
    "HardwareConfig",
    "MachineConfig",
    "RetrainConfig",
    "SearchConfig",
    "SpaceConfig",
    "config_from_json",
    "config_to_json",
    "override",
]


if TYPE_CHECKING:
    import numpy as np

_Words = TypeVar("_Words", int, "np.ndarray")


@dataclasses.dataclass(frozen=True)
class MachineConfig:
    """Properties that all accelerators of a space share.

    `word_bits` is the width that the technology's figures are for; hardware/technology.py
    refuses another. A path in `technology` is kept as it was given; results and cached
    tables go by what the file says.
    """

    technology: str = "cacti_45nm"
    rf_mode: str = "shared"
    global_buffer_kib: int = 128
    global_buffer_words_per_cycle: float = 16.0
    dram_words_per_cycle: float | None = 6.4
    clock_mhz: float = 200.0
    word_bits: int = 16
    accounting: str = "timeloop_2020"
    mapping_objective: str = "edp"

    def __post_init__(self) -> None:
        check_fields(self, "hardware.machine")

    @property
    def cycles_per_ms(self) -> float:
        """Cycles of the clock in a millisecond."""
        return self.clock_mhz * 1e3

    @property
    def global_buffer_words(self) -> int:
        """Capacity of the global buffer in words."""
        return self.global_buffer_kib * 1024 * 8 // self.word_bits

    def rf_words(self, rf_bytes: _Words) -> _Words:
        """Words of a register file of `rf_bytes` (a number or an array)."""
        return rf_bytes * 8 // self.word_bits


@dataclasses.dataclass(frozen=True)
class AcceleratorSpaceConfig:
    """Values that each field of an accelerator may take; ranges not confirmed."""

    pe_x: tuple[int, ...] = tuple(range(8, 25))
    pe_y: tuple[int, ...] = tuple(range(8, 25))
    rf_bytes: tuple[int, ...] = (16, 32, 64, 128, 256)
    dataflow: tuple[str, ...] = DATAFLOWS

    def __post_init__(self) -> None:
        for field in ("pe_x", "pe_y", "rf_bytes"):
            values = getattr(self, field)
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise UserError(
                    f"hardware.accelerators.{field} is {values}, not increasing positive integers"
                )
        if not self.dataflow or len(set(self.dataflow)) != len(self.dataflow):
            raise UserError(f"hardware.accelerators.dataflow is {self.dataflow}: empty or repeated")
        check_fields(self, "hardware.accelerators")


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """Machine, accelerator space, and the source of costs if it is not the cost model."""

    machine: MachineConfig = MachineConfig()
    accelerators: AcceleratorSpaceConfig = AcceleratorSpaceConfig()
    measured_csv: str | None = None


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """Network space: a shipped name or a file, and three numbers that replace its own.

    None takes the named space's own value.
    """

    name: str = "cifar_mbconv_small"
    width_multiplier: float | None = None
    input_size: int | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, "space")


#: Names of a module and a class in it, and the ends of a file's name that looks the same.
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_SUFFIXES = (".csv", ".npz", ".npy", ".zip", ".tar", ".gz")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data to train on and to judge networks by: a data set's name, or a path of one's own.

    >>> DataConfig(path="~/flowers", crop="pad").title
    'flowers'
    """

    dataset: str = "digits"
    data_dir: str | None = None
    architecture_fraction: float = 0.2
    path: str | None = None
    test_fraction: float = 0.2
    resize: str = "area"
    crop: str = "centre"
    class_balance: str = "none"

    def __post_init__(self) -> None:
        check_fields(self, "data")

    @property
    def builder(self) -> str | None:
        """Module and class of the user's own TFDS builder, if `path` is none of a file."""
        path = self.path or ""
        if not _DOTTED.fullmatch(path) or path.endswith(_SUFFIXES) or os.path.exists(path):
            return None
        return path

    @property
    def title(self) -> str:
        """Name of the data for people."""
        if self.path is None:
            return self.dataset
        return self.builder or os.path.basename(self.path.rstrip("/")) or self.path


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig:
    """Evaluator: which one, its shape, and how the neural one is trained."""

    kind: str = "auto"
    path: str | None = None
    num_blocks: int = 5
    generator_units: int = 128  # not confirmed
    estimator_units: int = 128  # not confirmed
    generator_form: str = "ranked"
    estimator_form: str = "linear"
    training_objectives: str = "all"
    estimator_steps: int = 20_000
    generator_steps: int = 8_000
    early_stop_checks: int = 10
    batch_size: int = 256
    learning_rate: float = 2e-3
    soft_fraction: float = 0.5
    softmin_temperature: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self, "evaluator")
        if self.generator_form == "ranked" and self.estimator_form != "linear":
            raise UserError("evaluator.generator_form ranked needs evaluator.estimator_form linear")
        if self.estimator_form == "unforwarded" and self.training_objectives != "edap":
            raise UserError(
                "evaluator.estimator_form unforwarded needs evaluator.training_objectives edap"
            )


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Co-search: supernet weights, architecture parameters and the hardware cost."""

    accuracy: str = "supernet"
    accuracy_csv: str | None = None
    num_trained: int = 68
    supernet: str = "proxyless"
    supernet_dir: str | None = None
    supernet_weights: str = "trained"
    epochs: int = 120  # not confirmed
    warmup_epochs: int = 40  # ProxylessNAS
    batch_size: int = 256
    weight_learning_rate: float = 0.025  # ProxylessNAS
    warmup_learning_rate: float | None = None
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    arch_learning_rate: float = 1e-3  # ProxylessNAS
    arch_every: int = 5  # ProxylessNAS
    arch_gradient: str = "score_function"
    arch_paths: int = 4
    gumbel_temperature: float = 1.0
    objective: str = "EDAP"
    lambda_latency: float = 1.0
    lambda_energy: float = 1.0
    lambda_area: float = 1.0
    lambda_2: float = 0.1  # not confirmed
    lambda_2_warmup_epochs: int = 10
    log_every: int = 20
    max_zero_share: float = 0.5
    lambda_2_backoff: float = 0.25
    max_latency_ms: float | None = None
    max_energy_mj: float | None = None
    max_area_mm2: float | None = None
    limits: str = "gradient"
    limit_delta: float = 1e-3
    limit_growth: float = 0.01  # not confirmed
    limit_penalty: float = 1.0
    fixed_accelerator: Accelerator | None = None
    fixed_architecture: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "search")
        if self.accuracy == "predictor" and self.fixed_accelerator is not None:
            raise UserError("search.accuracy=predictor cannot keep to search.fixed_accelerator")
        if self.supernet_weights == "frozen" and self.supernet_dir is None:
            raise UserError(
                "search.supernet_weights=frozen needs search.supernet_dir: no op of an untrained"
                " supernet is better than another"
            )
        if self.arch_gradient == "score_function" and self.arch_paths < 2:
            raise UserError(f"search.arch_paths is {self.arch_paths}, which compares nothing")
        if self.warmup_epochs >= self.epochs:
            raise UserError(
                f"search.warmup_epochs ({self.warmup_epochs}) leaves no epoch of"
                f" search.epochs ({self.epochs}) for the architecture"
            )
        takes_weights = OBJECTIVES[self.objective][1] is None
        if takes_weights and not (self.lambda_latency or self.lambda_energy or self.lambda_area):
            raise UserError(
                f"search.objective is {self.objective} and all three of its weights are 0"
            )
        if takes_weights:
            check_objective(*self.objective_terms())

    def objective_terms(self) -> tuple[str, tuple[float, float, float]]:
        """Return kind and weights of the objective, as hardware.objective.Objective takes them.

        Raises:
            UserError: If weights are given to an objective that has its own.
        """
        kind, weights = OBJECTIVES[self.objective]
        given = (self.lambda_latency, self.lambda_energy, self.lambda_area)
        if weights is None:
            return kind, given
        if given != (1.0, 1.0, 1.0):
            raise UserError(
                f"search.objective={self.objective} has its own weights, but lambda_latency,"
                f" lambda_energy, lambda_area are {given}: they go with linear or product"
            )
        return kind, weights


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
    """Training of the derived network."""

    initial_weights: str = "random"
    epochs: int = 300  # not confirmed
    batch_size: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    quantisation_epochs: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "retrain")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Everything that determines a run, apart from the data.

    >>> config = ExperimentConfig(search=SearchConfig(epochs=30, warmup_epochs=10), seed=1)
    >>> config.search.objective, config.hardware.machine.clock_mhz
    ('EDAP', 200.0)
    """

    hardware: HardwareConfig = HardwareConfig()
    space: SpaceConfig = SpaceConfig()
    data: DataConfig = DataConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    search: SearchConfig = SearchConfig()
    retrain: RetrainConfig = RetrainConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


def config_to_json(config: ExperimentConfig) -> dict[str, Json]:
    """Return the config as plain JSON data.

    >>> config_to_json(ExperimentConfig())["retrain"]["initial_weights"]
    'random'
    """
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_json(data: Json) -> ExperimentConfig:
    """Build a config from JSON data; missing fields take their defaults.

    Raises:
        UserError: On an unknown name, a wrong type or a value out of range.

    >>> config_from_json({"search": {"epochs": 30, "warmup_epochs": 10}}).search.epochs
    30
    >>> config_from_json({"sarch": {}})
    Traceback (most recent call last):
    dance_tf.errors.UserError: config: unknown field 'sarch'; did you mean 'search'?
    """
    return _build(ExperimentConfig, data, "")


def override(config: ExperimentConfig, assignments: typing.Iterable[str]) -> ExperimentConfig:
    """Return `config` with assignments such as ``search.epochs=2`` applied, typed by the field.

    Raises:
        UserError: On an unknown name (with the nearest one), a wrong type or a bad value.

    >>> config = override(ExperimentConfig(), ["search.lambda_2=0.3", "data.dataset=cifar10"])
    >>> config.search.lambda_2, config.data.dataset
    (0.3, 'cifar10')
    """
    data = config_to_json(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set={assignment}: expected NAME=VALUE, such as search.epochs=2")
        node, cls = data, ExperimentConfig
        *parents, leaf = path.strip().split(".")
        for depth, name in enumerate((*parents, leaf)):
            hints = typing.get_type_hints(cls)
            if name not in hints:
                raise UserError(f"--set={assignment}: no field {name!r}{did_you_mean(name, hints)}")
            is_record = dataclasses.is_dataclass(hints[name])
            if is_record != (depth < len(parents)):
                what = "is a group of fields" if is_record else "has no fields"
                raise UserError(f"--set={assignment}: {name!r} {what}")
            if is_record:
                node, cls = node[name], hints[name]
        node[leaf] = _parse(text.strip(), typing.get_type_hints(cls)[leaf], assignment)
    return config_from_json(data)


def _build(cls: Any, data: Json, path: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"config: {path.rstrip('.') or 'the file'} is not an object")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in data.items():
        if name not in hints:
            raise UserError(f"config: unknown field {path + name!r}{did_you_mean(name, hints)}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value, f"{path}{name}.")
        else:
            values[name] = _typed(value, hint, path + name)
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise UserError(f"config: {path}{field.name} is missing")
    return cls(**values)


def _typed(value: Json, hint: Hint, where: str) -> Any:
    """Return a JSON value as the field's type, or raise."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(_typed(v, typing.get_args(option)[0], where) for v in value)
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return _build(option, value, f"{where}.")
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            if value != value or value in (float("inf"), float("-inf")):
                break
            return float(value)
        if option in (int, str) and type(value) is option:
            return value
    names = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise UserError(f"config: {where} is {value!r}, not {names}")


def _parse(text: str, hint: Hint, assignment: str) -> Json:
    """Read the text of an assignment as JSON where the field is not a string."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if str in options:
        return None if text == "null" and type(None) in options else text
    if text == "None":
        text = "null"
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise UserError(f"--set={assignment}: cannot read {text!r} as a value") from None
