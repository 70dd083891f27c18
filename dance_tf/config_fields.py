"""What each field of the configuration means and may be: one table, for checks and for help.

The defaults stand in config.py. A range leaves out what no run can use and what would end
as NaN or an overflow far from its cause; it is no advice.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, NamedTuple

from dance_tf.errors import UserError
from dance_tf.structs import DATAFLOWS, OBJECTIVES

__all__ = ["ARCH_GRADIENTS", "FIELDS", "FieldInfo", "check_fields", "leaf_fields", "type_name"]

#: Estimators of the gradient of the architecture parameters, see search.arch_gradients.
ARCH_GRADIENTS = ("score_function", "straight_through", "one_path", "two_path")


class FieldInfo(NamedTuple):
    """Meaning of a field, and what it may be; of a tuple, each of its values."""

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
        "energy and area figures: a shipped table, or the path of a .json file"
    ),
    "hardware.machine.rf_mode": _choice(
        "one register file for all operands, or one per operand", "shared", "split"
    ),
    "hardware.machine.global_buffer_kib": _count("capacity of the global buffer in KiB", 1, 2**20),
    "hardware.machine.global_buffer_words_per_cycle": FieldInfo(
        "words that the global buffer reads in a cycle, and as many that it writes", 1e-3, 1e6
    ),
    "hardware.machine.dram_words_per_cycle": FieldInfo(
        "words of DRAM's one bus, for reads and writes, in a cycle; null: no limit", 1e-3, 1e6
    ),
    "hardware.machine.clock_mhz": FieldInfo("clock in MHz", 1e-3, 1e6),
    "hardware.machine.word_bits": _count(
        "width of a word; must be that of the technology's figures", 1, 1024
    ),
    "hardware.machine.accounting": _choice(
        "timeloop_2025: first visits of outputs are not fills", "timeloop_2020", "timeloop_2025"
    ),
    "hardware.machine.mapping_objective": _choice(
        "what the best mapping of a layer minimises", "edp", "latency", "energy"
    ),
    "hardware.accelerators.pe_x": _count("columns of the PE array to search", 1, 4096),
    "hardware.accelerators.pe_y": _count("rows of the PE array to search", 1, 4096),
    "hardware.accelerators.rf_bytes": _count("sizes of the register file to search", 1, 2**24),
    "hardware.accelerators.dataflow": _choice("dataflows to search", *DATAFLOWS),
    "hardware.measured_csv": FieldInfo(
        "CSV file of measured costs to use in place of the cost model; null: none"
    ),
    "space.name": FieldInfo("network space, by its name in supernet/search_space.py"),
    "space.width_multiplier": FieldInfo(
        "factor of all channel counts; null: the space's own", 1e-3, 1e3
    ),
    "space.input_size": _count("pixels of the square input's side; null: the space's own", 1, 4096),
    "space.num_classes": _count("classes that a network tells apart; null: those of the data set"),
    "data.dataset": FieldInfo("digits (embedded) or any TFDS image-classification data set"),
    "data.data_dir": FieldInfo(
        "folder of prepared data sets; null: TFDS_DATA_DIR, then TFDS's own default"
    ),
    "data.architecture_fraction": FieldInfo(
        "share of the train split that is held out for the architecture step", 1e-6, 1 - 1e-6
    ),
    "evaluator.kind": _choice(
        "cost during the search: the trained networks, or the whole table; auto: evaluator.path or"
        " the shipped networks, and the table where those do not fit",
        "auto",
        "neural",
        "exact",
    ),
    "evaluator.path": FieldInfo("folder of a trained neural evaluator; null: the shipped one"),
    "evaluator.num_blocks": _count("residual fully connected blocks in each network", 1, 1000),
    "evaluator.generator_units": _count(
        "units of a layer of the hardware generation network", 1, 65536
    ),
    "evaluator.estimator_units": _count(
        "units of a layer of the cost estimation network", 1, 65536
    ),
    "evaluator.generator_form": _choice(
        "how the accelerator is chosen; heads is the paper's", "ranked", "joint", "heads"
    ),
    "evaluator.estimator_form": _choice(
        "the paper's is plain, or unforwarded: without the generated accelerator as input",
        "linear",
        "plain",
        "unforwarded",
    ),
    "evaluator.training_objectives": _choice(
        "objectives to train for; edap alone is the paper's", "all", "edap"
    ),
    "evaluator.estimator_steps": _count(
        "training steps of the cost estimation network, which is first", 1, 10**9
    ),
    "evaluator.generator_steps": _count(
        "training steps of the hardware generation network", 1, 10**9
    ),
    "evaluator.early_stop_checks": _count(
        "a network's training ends after so many checks without progress", 1, 10**9
    ),
    "evaluator.batch_size": _count("architectures in a training step"),
    "evaluator.learning_rate": _learning_rate("learning rate of both networks"),
    "evaluator.soft_fraction": FieldInfo(
        "share of the training architectures that are mixtures", 0, 1
    ),
    "evaluator.softmin_temperature": FieldInfo(
        "relative difference in the objective that the exact evaluator overlooks at a uniform"
        " mixture",
        1e-6,
        1e3,
    ),
    "search.supernet": _choice(
        "weights of its own for each op, or the ops of a block share one set",
        "proxyless",
        "superkernel",
    ),
    "search.supernet_dir": FieldInfo(
        "folder of train_supernet: start from its weights, without warm-up; null: none"
    ),
    "search.supernet_weights": _choice(
        "frozen: only the architecture parameters move", "trained", "frozen"
    ),
    "search.epochs": _count("epochs of the search, those of the warm-up included"),
    "search.warmup_epochs": _count("first epochs, of weights only, with paths drawn uniformly", 0),
    "search.batch_size": _count("images in a step; at most all of a split"),
    "search.weight_learning_rate": _learning_rate(
        "of the weights: SGD with Nesterov momentum 0.9, cosine"
    ),
    "search.warmup_learning_rate": _learning_rate(
        "of a cosine of the warm-up's own; null: one cosine for all epochs"
    ),
    "search.weight_decay": FieldInfo("decoupled weight decay of the weights", 0, 1),
    "search.label_smoothing": FieldInfo("label smoothing of the weights' loss", 0, 1),
    "search.arch_learning_rate": _learning_rate(
        "of the architecture parameters: Adam, betas (0, 0.999)"
    ),
    "search.arch_every": _count("weight steps for each architecture step"),
    "search.arch_gradient": _choice(
        "estimator of the cross-entropy's gradient in the architecture parameters", *ARCH_GRADIENTS
    ),
    "search.arch_paths": _count("paths that a step of score_function compares", 1, 1000),
    "search.gumbel_temperature": FieldInfo(
        "temperature of the gates of straight_through", 1e-3, 1e3
    ),
    "search.objective": _choice("hardware cost that the search lowers", *OBJECTIVES),
    "search.lambda_latency": _weight("latency's weight in linear, power in product"),
    "search.lambda_energy": _weight("energy's weight in linear, power in product"),
    "search.lambda_area": _weight("area's weight in linear, power in product"),
    "search.lambda_2": _weight("weight of the hardware cost in the loss"),
    "search.lambda_2_warmup_epochs": _count(
        "epochs after the warm-up over which lambda_2 is raised linearly from 0", 0
    ),
    "search.log_every": _count("steps between lines of history.jsonl", 1, 10**9),
    "search.max_zero_share": FieldInfo(
        "share of Zero among the skippable blocks above which the search counts as collapsing", 0, 1
    ),
    "search.lambda_2_backoff": FieldInfo(
        "factor of lambda_2 where it collapses, once more each time; 1: none", 1e-6, 1
    ),
    "search.max_latency_ms": FieldInfo(
        "hard limit on the result's exact latency; null: none", 1e-12, 1e12
    ),
    "search.max_energy_mj": FieldInfo(
        "hard limit on the result's exact energy; null: none", 1e-12, 1e12
    ),
    "search.max_area_mm2": FieldInfo(
        "hard limit on the accelerator's area; null: none", 1e-12, 1e12
    ),
    "search.limits": _choice(
        "how the search keeps limits: altered steps, or a penalty in the loss",
        "gradient",
        "penalty",
    ),
    "search.limit_delta": FieldInfo(
        "least fall of a cost above its limit in a step, as a share of the limit", 1e-9, 1
    ),
    "search.limit_growth": FieldInfo(
        "relative growth of limit_delta with each step above a limit", 0, 1
    ),
    "search.limit_penalty": _weight(
        "weight, in a penalty, of the share by which a limit is exceeded"
    ),
    "search.fixed_accelerator": FieldInfo(
        "search the network alone, for this accelerator; null: search both"
    ),
    "search.fixed_architecture": FieldInfo(
        "ops of a network whose best accelerator alone is looked up; null: search both"
    ),
    "retrain.initial_weights": _choice(
        "inherited: those of the supernet, so that fewer epochs do", "random", "inherited"
    ),
    "retrain.epochs": _count("epochs of the derived network's training"),
    "retrain.batch_size": _count("images in a step; at most all of a split"),
    "retrain.learning_rate": _learning_rate("SGD with Nesterov momentum 0.9, cosine"),
    "retrain.weight_decay": FieldInfo("decoupled weight decay", 0, 1),
    "retrain.label_smoothing": FieldInfo("label smoothing of the loss", 0, 1),
    "seed": _count("seed of everything random", 0, 2**31 - 1),
}


def check_fields(record: Any, group: str = "") -> None:
    """Refuse a field of a configuration's dataclass that is out of its range.

    Args:
        record: Instance; fields that are dataclasses have checked themselves.
        group: Dotted name of the record, empty for the whole configuration.
    Raises:
        UserError: With the value, and the range or the choices.
    """
    for field in dataclasses.fields(record):
        name = f"{group}.{field.name}" if group else field.name
        value = getattr(record, field.name)
        if name not in FIELDS or value is None:
            continue
        info = FIELDS[name]
        for item in value if isinstance(value, tuple) else (value,):
            if info.choices and item not in info.choices:
                raise UserError(f"{name} is {item!r}, not one of {info.allowed}")
            # Written so that NaN is out of every range.
            if info.low is not None and not info.low <= item <= info.high:
                raise UserError(f"{name} is {item}, not within {info.allowed}")


def leaf_fields(cls: type, group: str = "") -> list[tuple[str, Any]]:
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


def type_name(hint: Any) -> str:
    """Return a field's type as text: `float or null`, `list of int`."""
    if isinstance(hint, types.UnionType):
        return " or ".join(map(type_name, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"list of {type_name(typing.get_args(hint)[0])}"
    return "null" if hint is type(None) else hint.__name__


def _number(value: float | None) -> str:
    return str(value) if isinstance(value, int) else f"{value:.7g}"
