"""Meaning and range of each field of the configuration: one table, for checks and for help.

The defaults stand in config.py. A range leaves out what no run can use and what would end
as NaN or an overflow far from its cause; it is no advice.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import NamedTuple, TypeAlias

from dance_tf.errors import UserError
from dance_tf.structs import DATAFLOWS, OBJECTIVES

__all__ = [
    "ARCH_GRADIENTS",
    "FIELDS",
    "FieldInfo",
    "Hint",
    "check_fields",
    "leaf_fields",
    "type_name",
]

#: Estimators of the gradient of the architecture parameters, see search.arch_gradients.
ARCH_GRADIENTS = ("score_function", "straight_through", "one_path", "two_path")


#: Type of a field, as typing.get_type_hints returns it.
Hint: TypeAlias = type | types.UnionType | types.GenericAlias


class FieldInfo(NamedTuple):
    """Meaning and range of a field; of a tuple, the range of each value."""

    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """Range or choices as text, empty if there are none."""
        if self.choices:
            return ", ".join(self.choices)
        return "" if self.low is None else f"{_number(self.low)} to {_number(self.high)}"


def _choice(meaning: str, *choices: str) -> FieldInfo:
    return FieldInfo(meaning, choices=choices)


def _learning_rate(meaning: str) -> FieldInfo:
    return FieldInfo(meaning, 1e-12, 1e6)


def _weight(meaning: str) -> FieldInfo:
    return FieldInfo(meaning, 0, 1e6)


def _count(meaning: str, low: int = 1, high: int = 10**6) -> FieldInfo:
    return FieldInfo(meaning, low, high)


#: Dotted name to meaning and range, in the order of the dataclasses.
FIELDS: dict[str, FieldInfo] = {
    "hardware.machine.technology": FieldInfo(
        "Energy and area figures: a shipped table, or the path of a .json file"
    ),
    "hardware.machine.rf_mode": _choice(
        "Register file of a PE: one for all operands, or one for each", "shared", "split"
    ),
    "hardware.machine.global_buffer_kib": _count("Capacity of the global buffer, KiB", 1, 2**20),
    "hardware.machine.global_buffer_words_per_cycle": FieldInfo(
        "Words that the global buffer reads in a cycle, and as many that it writes", 1e-3, 1e6
    ),
    "hardware.machine.dram_words_per_cycle": FieldInfo(
        "Words that DRAM's one bus reads and writes in a cycle; null: no limit", 1e-3, 1e6
    ),
    "hardware.machine.clock_mhz": FieldInfo("Frequency of the clock, MHz", 1e-3, 1e6),
    "hardware.machine.word_bits": _count(
        "Width of a word, bits; must be that of the technology's figures", 1, 1024
    ),
    "hardware.machine.accounting": _choice(
        "Counting of accesses; timeloop_2025: first visits of outputs are not fills",
        "timeloop_2020",
        "timeloop_2025",
    ),
    "hardware.machine.mapping_objective": _choice(
        "Cost that the best mapping of a layer has least of", "edp", "latency", "energy"
    ),
    "hardware.accelerators.pe_x": _count("Columns of the PE array to search", 1, 4096),
    "hardware.accelerators.pe_y": _count("Rows of the PE array to search", 1, 4096),
    "hardware.accelerators.rf_bytes": _count(
        "Sizes of a PE's register file to search, bytes", 1, 2**24
    ),
    "hardware.accelerators.dataflow": _choice("Dataflows to search", *DATAFLOWS),
    "hardware.measured_csv": FieldInfo(
        "CSV file of measured costs to use in place of the cost model; null: none"
    ),
    "space.name": FieldInfo(
        "Network space: the name of a shipped one, or the path of a .json file"
    ),
    "space.width_multiplier": FieldInfo(
        "Factor of all channel counts; null: the space's own", 1e-3, 1e3
    ),
    "space.input_size": _count("Side of the square input, pixels; null: the space's own", 1, 4096),
    "space.num_classes": _count("Classes that a network tells apart; null: those of the data set"),
    "data.dataset": FieldInfo(
        "Data set: digits (embedded) or any TFDS image-classification data set"
    ),
    "data.data_dir": FieldInfo(
        "Folder of prepared data sets; null: TFDS_DATA_DIR, then TFDS's own default"
    ),
    "data.architecture_fraction": FieldInfo(
        "Share of the train split that is held out for the architecture step", 1e-6, 1 - 1e-6
    ),
    "data.path": FieldInfo(
        "Data of your own: a folder of class folders, a .csv, .npz or folder of .npy files,"
        " prepared TFDS data, or package.module.Builder; null: data.dataset"
    ),
    "data.test_fraction": FieldInfo(
        "Share of each class that is tested on, where data.path has no such split", 1e-6, 1 - 1e-6
    ),
    "data.resize": _choice(
        "Change of an image's size; area: averaged if larger, bilinear if smaller",
        "area",
        "bilinear",
        "nearest",
    ),
    "data.crop": _choice(
        "Way to the input's aspect ratio: the largest central part, all of the image out of shape,"
        " or all of it with black on two sides",
        "centre",
        "stretch",
        "pad",
    ),
    "data.class_balance": _choice(
        "Draws of an epoch; sampling: as many of each class, with repetitions",
        "none",
        "sampling",
    ),
    "evaluator.kind": _choice(
        "Cost during the search: the trained networks, or the whole table; auto:"
        " evaluator.path or the shipped networks, and the table where those do not fit",
        "auto",
        "neural",
        "exact",
    ),
    "evaluator.path": FieldInfo("Folder of a trained neural evaluator; null: the shipped one"),
    "evaluator.num_blocks": _count("Residual fully connected blocks in each network", 1, 1000),
    "evaluator.generator_units": _count(
        "Units of a layer of the hardware generation network", 1, 65536
    ),
    "evaluator.estimator_units": _count(
        "Units of a layer of the cost estimation network", 1, 65536
    ),
    "evaluator.generator_form": _choice(
        "Choice of the accelerator; heads is the paper's", "ranked", "joint", "heads"
    ),
    "evaluator.estimator_form": _choice(
        "Form of the cost estimation network; the paper's is plain, or unforwarded:"
        " without the generated accelerator as input",
        "linear",
        "plain",
        "unforwarded",
    ),
    "evaluator.training_objectives": _choice(
        "Objectives to train for; edap alone is the paper's", "all", "edap"
    ),
    "evaluator.estimator_steps": _count(
        "Training steps of the cost estimation network, which is first", 1, 10**9
    ),
    "evaluator.generator_steps": _count(
        "Training steps of the hardware generation network", 1, 10**9
    ),
    "evaluator.early_stop_checks": _count(
        "Checks without progress after which a network's training ends", 1, 10**9
    ),
    "evaluator.batch_size": _count("Architectures in a training step"),
    "evaluator.learning_rate": _learning_rate("Learning rate of both networks"),
    "evaluator.soft_fraction": FieldInfo(
        "Share of the training architectures that are mixtures", 0, 1
    ),
    "evaluator.softmin_temperature": FieldInfo(
        "Relative difference in the objective that the exact evaluator overlooks at a"
        " uniform mixture",
        1e-6,
        1e3,
    ),
    "search.accuracy": _choice(
        "Source of accuracy: the supernet that is trained, or a predictor fitted to networks that"
        " are trained one by one, or looked up in search.accuracy_csv",
        "supernet",
        "predictor",
    ),
    "search.accuracy_csv": FieldInfo(
        "Table of networks and their accuracies for search.accuracy=predictor; null: the one that"
        " is shipped for the space, or real trainings"
    ),
    "search.num_trained": _count("Networks that search.accuracy=predictor trains or looks up", 2),
    "search.supernet": _choice(
        "Weights of the supernet: each op has its own, or the ops of a block share one set",
        "proxyless",
        "superkernel",
    ),
    "search.supernet_dir": FieldInfo(
        "Folder of train_supernet: start from its weights, without warm-up; null: none"
    ),
    "search.supernet_weights": _choice(
        "Weights during the search; frozen: only the architecture parameters move",
        "trained",
        "frozen",
    ),
    "search.epochs": _count("Epochs of the search, those of the warm-up included"),
    "search.warmup_epochs": _count("First epochs, of weights only, with paths drawn uniformly", 0),
    "search.batch_size": _count("Images in a step; at most all of a split"),
    "search.weight_learning_rate": _learning_rate(
        "Learning rate of the weights: SGD with Nesterov momentum 0.9, cosine"
    ),
    "search.warmup_learning_rate": _learning_rate(
        "Learning rate of a cosine of the warm-up's own; null: one cosine for all epochs"
    ),
    "search.weight_decay": FieldInfo("Decoupled weight decay of the weights", 0, 1),
    "search.label_smoothing": FieldInfo("Label smoothing of the weights' loss", 0, 1),
    "search.arch_learning_rate": _learning_rate(
        "Learning rate of the architecture parameters: Adam, betas (0, 0.999)"
    ),
    "search.arch_every": _count("Weight steps for each architecture step"),
    "search.arch_gradient": _choice(
        "Estimator of the cross-entropy's gradient in the architecture parameters", *ARCH_GRADIENTS
    ),
    "search.arch_paths": _count("Paths that a step of score_function compares", 1, 1000),
    "search.gumbel_temperature": FieldInfo(
        "Temperature of the gates of straight_through", 1e-3, 1e3
    ),
    "search.objective": _choice("Hardware cost that the search lowers", *OBJECTIVES),
    "search.lambda_latency": _weight("Weight of latency in linear, its power in product"),
    "search.lambda_energy": _weight("Weight of energy in linear, its power in product"),
    "search.lambda_area": _weight("Weight of area in linear, its power in product"),
    "search.lambda_2": _weight("Weight of the hardware cost in the loss"),
    "search.lambda_2_warmup_epochs": _count(
        "Epochs after the warm-up over which lambda_2 is raised linearly from 0", 0
    ),
    "search.log_every": _count("Steps between lines of history.jsonl", 1, 10**9),
    "search.max_zero_share": FieldInfo(
        "Share of Zero among the skippable blocks above which the search counts as collapsing", 0, 1
    ),
    "search.lambda_2_backoff": FieldInfo(
        "Factor of lambda_2 at a collapse, once more each time; 1: none", 1e-6, 1
    ),
    "search.max_latency_ms": FieldInfo(
        "Hard limit on the result's exact latency, ms; null: none", 1e-12, 1e12
    ),
    "search.max_energy_mj": FieldInfo(
        "Hard limit on the result's exact energy, mJ; null: none", 1e-12, 1e12
    ),
    "search.max_area_mm2": FieldInfo(
        "Hard limit on the accelerator's area, mm2; null: none", 1e-12, 1e12
    ),
    "search.limits": _choice(
        "Means of keeping the limits: altered steps, or a penalty in the loss",
        "gradient",
        "penalty",
    ),
    "search.limit_delta": FieldInfo(
        "Least fall of a cost above its limit in a step, as a share of the limit", 1e-9, 1
    ),
    "search.limit_growth": FieldInfo(
        "Relative growth of limit_delta with each step above a limit", 0, 1
    ),
    "search.limit_penalty": _weight(
        "Weight, in a penalty, of the share by which a limit is exceeded"
    ),
    "search.fixed_accelerator": FieldInfo(
        "Accelerator that the network alone is searched for; null: both are searched"
    ),
    "search.fixed_architecture": FieldInfo(
        "Ops of a network whose best accelerator alone is looked up; null: both are searched"
    ),
    "retrain.initial_weights": _choice(
        "Weights to start from; inherited: the supernet's, so that fewer epochs do",
        "random",
        "inherited",
    ),
    "retrain.epochs": _count("Epochs of the derived network's training"),
    "retrain.batch_size": _count("Images in a step; at most all of a split"),
    "retrain.learning_rate": _learning_rate(
        "Learning rate: SGD with Nesterov momentum 0.9, cosine"
    ),
    "retrain.weight_decay": FieldInfo("Decoupled weight decay", 0, 1),
    "retrain.label_smoothing": FieldInfo("Label smoothing of the loss", 0, 1),
    "retrain.quantisation_epochs": _count(
        "Epochs of a fine-tune for 8-bit words, done where the int8 network loses more than 0.3"
        " points on the split architecture; 0: none",
        0,
    ),
    "seed": _count("Seed of everything random", 0, 2**31 - 1),
}


def check_fields(record: object, group: str = "") -> None:
    """Refuse a field of a configuration's dataclass that is out of its range.

    Args:
        record: Instance; fields that are dataclasses have checked themselves.
        group: Dotted name of the record, empty for the whole configuration.
    Raises:
        UserError: With the value, and the range or the choices.
    """
    for field, value in vars(record).items():
        name = f"{group}.{field}" if group else field
        if name not in FIELDS or value is None:
            continue
        info = FIELDS[name]
        for item in value if isinstance(value, tuple) else (value,):
            if info.choices and item not in info.choices:
                raise UserError(f"{name} is {item!r}, not one of {info.allowed}")
            # Written so that NaN is out of every range.
            if info.low is not None and not info.low <= item <= info.high:
                raise UserError(f"{name} is {item}, not within {info.allowed}")


def leaf_fields(cls: type, group: str = "") -> list[tuple[str, Hint]]:
    """Return dotted name and type of every field below a configuration's dataclass.

    A record that may be absent, as search.fixed_accelerator, is one field.
    """
    found = []
    for name, hint in typing.get_type_hints(cls).items():
        path = f"{group}.{name}" if group else name
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found += leaf_fields(hint, path)
        else:
            found.append((path, hint))
    return found


def type_name(hint: Hint) -> str:
    """Return a field's type as text: `float or null`, `list of int`."""
    if isinstance(hint, types.UnionType):
        return " or ".join(map(type_name, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"list of {type_name(typing.get_args(hint)[0])}"
    return "null" if hint is type(None) else hint.__name__


def _number(value: float | None) -> str:
    return str(value) if isinstance(value, int) else f"{value:.7g}"
