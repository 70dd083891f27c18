"""Effects of the fields of the configuration: one table, for fields that are given in vain.

Who sets a field expects it to matter. One that does not is warned of, and refused where the
result would be taken for another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from dance_tf.config import ExperimentConfig
from dance_tf.config_fields import leaf_fields
from dance_tf.errors import UserError
from dance_tf.presets import PRESETS
from dance_tf.structs import OBJECTIVES

__all__ = ["EFFECTS", "JOBS", "Condition", "Job", "changed_fields", "without_effect"]


class Job(NamedTuple):
    """Part of a configuration that a tool reads."""

    reads: tuple[str, ...]  # names of fields, or of groups of them
    instead: Mapping[str, str] = {}  # of some of those, what the tool goes by


class _Run(NamedTuple):
    """Facts that a condition depends on."""

    config: ExperimentConfig
    job: str
    retrains: bool

    @property
    def searches(self) -> bool:
        return self.config.search.fixed_architecture is None

    @property
    def asks_supernet(self) -> bool:
        return self.searches and self.config.search.accuracy == "supernet"

    @property
    def trains_weights(self) -> bool:
        return self.asks_supernet and self.config.search.supernet_weights == "trained"

    @property
    def limits(self) -> tuple[float | None, ...]:
        search = self.config.search
        return search.max_latency_ms, search.max_energy_mj, search.max_area_mm2


class Condition(NamedTuple):
    """Condition under which a field has an effect."""

    needs: str  # ends "it has an effect only with ..."
    holds: Callable[[_Run], bool]
    is_refused: bool = False  # where it is given in vain


_COST_MODEL = Condition(
    "the cost model, so without hardware.measured_csv",
    lambda run: run.config.hardware.measured_csv is None,
)
_SEARCH = Condition("a search, so without search.fixed_architecture", lambda run: run.searches)
_IN_SUPERNET = Condition(
    "a search in a supernet, so without search.fixed_architecture and search.accuracy=predictor",
    lambda run: run.asks_supernet,
)
_PREDICTOR = Condition(
    "search.accuracy=predictor",
    lambda run: run.searches and run.config.search.accuracy == "predictor",
    is_refused=True,
)
_WEIGHTS = Condition(
    "a search that trains weights (search.supernet_weights=trained, no search.fixed_architecture)",
    lambda run: run.trains_weights,
)
_SUPERNET = Condition(
    "a search in a supernet, or with retrain.initial_weights=inherited",
    lambda run: (
        run.asks_supernet or (run.retrains and run.config.retrain.initial_weights == "inherited")
    ),
)
_TAKES_WEIGHTS = Condition(
    "search.objective=linear or product",
    lambda run: OBJECTIVES[run.config.search.objective][1] is None,
)
_PULLED = Condition(
    "a search under search.lambda_2 above 0",
    lambda run: run.asks_supernet and run.config.search.lambda_2 > 0,
)
_LIMITS = Condition(
    "a search under search.max_latency_ms, max_energy_mj or max_area_mm2",
    lambda run: run.asks_supernet and any(limit is not None for limit in run.limits),
)
_ALTERED = Condition(
    "search.limits=gradient and search.max_latency_ms or max_energy_mj",
    lambda run: (
        run.asks_supernet
        and run.config.search.limits == "gradient"
        and any(limit is not None for limit in run.limits[:2])
    ),
)
_RETRAINS = Condition(
    "a retraining, or with search.accuracy=predictor",
    lambda run: run.retrains or run.config.search.accuracy == "predictor",
)

#: Field to its condition; None where it has an effect in every job that reads it.
EFFECTS: dict[str, Condition | None] = {
    "hardware.machine.technology": _COST_MODEL,
    "hardware.machine.rf_mode": _COST_MODEL,
    "hardware.machine.global_buffer_kib": _COST_MODEL,
    "hardware.machine.global_buffer_words_per_cycle": _COST_MODEL,
    "hardware.machine.dram_words_per_cycle": _COST_MODEL,
    "hardware.machine.clock_mhz": None,
    "hardware.machine.word_bits": _COST_MODEL,
    "hardware.machine.accounting": _COST_MODEL,
    "hardware.machine.mapping_objective": _COST_MODEL,
    "hardware.accelerators.pe_x": None,
    "hardware.accelerators.pe_y": None,
    "hardware.accelerators.rf_bytes": None,
    "hardware.accelerators.dataflow": None,
    "hardware.measured_csv": None,
    "space.name": None,
    "space.width_multiplier": None,
    "space.input_size": None,
    "space.num_classes": None,
    "data.dataset": Condition(
        "no data.path, which takes its place",
        lambda run: run.config.data.path is None,
        is_refused=True,
    ),
    "data.data_dir": Condition(
        "a data set that lies in it: the digits are embedded, and a path in --data says where its"
        " data are, so name one by --dataset",
        lambda run: (
            run.job == "build_labels"
            or run.config.data.builder is not None
            or (run.config.data.path is None and run.config.data.dataset != "digits")
        ),
        is_refused=True,
    ),
    "data.architecture_fraction": None,
    "data.path": None,
    "data.test_fraction": Condition(
        "data.path, of files without a split to test on",
        lambda run: run.config.data.path is not None and run.config.data.builder is None,
    ),
    "data.resize": None,
    "data.crop": None,
    "data.class_balance": None,
    "evaluator.kind": None,
    "evaluator.path": Condition(
        "a neural evaluator, not with evaluator.kind=exact",
        lambda run: run.config.evaluator.kind != "exact",
        is_refused=True,
    ),
    "evaluator.num_blocks": None,
    "evaluator.generator_units": None,
    "evaluator.estimator_units": None,
    "evaluator.generator_form": None,
    "evaluator.estimator_form": None,
    "evaluator.training_objectives": None,
    "evaluator.estimator_steps": None,
    "evaluator.generator_steps": None,
    "evaluator.early_stop_checks": None,
    "evaluator.batch_size": None,
    "evaluator.learning_rate": None,
    "evaluator.soft_fraction": None,
    "evaluator.softmin_temperature": Condition(
        "evaluator.kind=exact",
        lambda run: run.job == "evaluate_evaluator" or run.config.evaluator.kind == "exact",
    ),
    "search.accuracy": _SEARCH,
    "search.accuracy_csv": _PREDICTOR,
    "search.num_trained": _PREDICTOR,
    "search.supernet": _SUPERNET,
    "search.supernet_dir": _SUPERNET,
    "search.supernet_weights": _IN_SUPERNET,
    "search.epochs": _IN_SUPERNET,
    "search.warmup_epochs": _IN_SUPERNET,
    "search.batch_size": _IN_SUPERNET,
    "search.weight_learning_rate": _WEIGHTS,
    "search.warmup_learning_rate": Condition(
        "search.warmup_epochs above 0 and weights that are trained",
        lambda run: run.trains_weights and run.config.search.warmup_epochs > 0,
    ),
    "search.weight_decay": _WEIGHTS,
    "search.label_smoothing": _WEIGHTS,
    "search.arch_learning_rate": _IN_SUPERNET,
    "search.arch_every": _IN_SUPERNET,
    "search.arch_gradient": _IN_SUPERNET,
    "search.arch_paths": Condition(
        "search.arch_gradient=score_function",
        lambda run: run.asks_supernet and run.config.search.arch_gradient == "score_function",
    ),
    "search.gumbel_temperature": Condition(
        "search.arch_gradient=straight_through",
        lambda run: run.asks_supernet and run.config.search.arch_gradient == "straight_through",
    ),
    "search.objective": None,
    "search.lambda_latency": _TAKES_WEIGHTS,
    "search.lambda_energy": _TAKES_WEIGHTS,
    "search.lambda_area": _TAKES_WEIGHTS,
    "search.lambda_2": _SEARCH,
    "search.lambda_2_warmup_epochs": _PULLED,
    "search.log_every": _IN_SUPERNET,
    "search.max_zero_share": _IN_SUPERNET,
    "search.lambda_2_backoff": Condition(
        "a search under search.lambda_2 above 0 and no hard limit",
        lambda run: _PULLED.holds(run) and not _LIMITS.holds(run),
    ),
    "search.max_latency_ms": None,
    "search.max_energy_mj": None,
    "search.max_area_mm2": None,
    "search.limits": _LIMITS,
    "search.limit_delta": _ALTERED,
    "search.limit_growth": _ALTERED,
    "search.limit_penalty": Condition(
        "search.limits=penalty and a hard limit",
        lambda run: _LIMITS.holds(run) and run.config.search.limits == "penalty",
    ),
    "search.fixed_accelerator": None,
    "search.fixed_architecture": None,
    "retrain.initial_weights": _RETRAINS,
    "retrain.epochs": _RETRAINS,
    "retrain.batch_size": _RETRAINS,
    "retrain.learning_rate": _RETRAINS,
    "retrain.weight_decay": _RETRAINS,
    "retrain.label_smoothing": _RETRAINS,
    "retrain.quantisation_epochs": Condition("a retraining", lambda run: run.retrains),
    "seed": Condition("a search or a retraining", lambda run: run.searches or run.retrains),
}

_COSTS = ("hardware", "space")
_GUIDE = ("evaluator.kind", "evaluator.path", "evaluator.softmin_temperature")
_TRAINED_EVALUATOR = tuple(
    name for name in EFFECTS if name.startswith("evaluator.") and name not in _GUIDE
)
_EVERYTHING = (*_COSTS, "data", *_GUIDE, "search", "retrain", "seed")

#: Tool to what it does with a configuration.
JOBS: dict[str, Job] = {
    "build_cost_table": Job(_COSTS),
    "compare_strategies": Job(
        (
            *(*_COSTS, "data", "search.supernet", "search.supernet_dir", "search.objective"),
            *("search.lambda_latency", "search.lambda_energy", "search.lambda_area"),
        ),
        {"search.supernet_dir": "--supernet_dir"},
    ),
    "build_labels": Job((*_COSTS, "data.data_dir", "seed")),
    "cost_template": Job(_COSTS),
    "evaluate_cost": Job(_COSTS),
    "evaluate_evaluator": Job((*_COSTS, *_GUIDE, "seed")),
    "export_model": Job(("data",)),
    "export_workload": Job(("hardware.machine", "space")),
    "pareto": Job(
        _EVERYTHING,
        {
            "search.objective": "--objectives",
            "search.lambda_2": "--lambdas",
            "search.supernet_dir": "--supernet_dir",
            "search.supernet_weights": "the frozen weights of --supernet_dir",
        },
    ),
    "query_evaluator": Job(("hardware.accelerators", "space")),
    "retrain": Job(("space", "data", "search.supernet", "search.supernet_dir", "retrain", "seed")),
    "search": Job(_EVERYTHING),
    "train_evaluator": Job((*_COSTS, "evaluator.kind", *_TRAINED_EVALUATOR, "seed")),
    "train_supernet": Job(
        (
            *("space", "data", "search.supernet", "search.epochs", "search.batch_size", "seed"),
            *("search.weight_learning_rate", "search.weight_decay", "search.label_smoothing"),
        )
    ),
}


def without_effect(
    config: ExperimentConfig,
    job: str,
    named: Iterable[str],
    set_in_file: Iterable[str] = (),
    *,
    retrains: bool = True,
    unread: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a line for each field that was given in vain.

    Args:
        config: Resolved configuration.
        job: Key of JOBS.
        named: Dotted names of the fields that the command line sets.
        set_in_file: Dotted names of the fields that a configuration's file sets. It may serve
            other tools too: a field that this tool does not read is passed over.
        retrains: True if the run ends in a retraining.
        unread: Groups that this run does not read, and what it would take.
    Raises:
        UserError: If the result would be taken for another's.
    """
    reads, instead = JOBS[job]
    run = _Run(config, job, retrains)
    lines = []
    for name in sorted({*named, *set_in_file}):
        if not _is_among(name, reads):
            if name in named:
                lines.append(f"{name} has no effect: {job} does not read it")
            continue
        group = next((g for g in unread or {} if _is_among(name, (g,))), None)
        condition = EFFECTS[name]
        if name in instead:
            lines.append(f"{name} has no effect: {job} goes by {instead[name]}")
        elif unread and group is not None:
            lines.append(f"{name} has no effect: it has one only with {unread[group]}")
        elif condition is not None and not condition.holds(run):
            line = f"{name} has no effect: it has one only with {condition.needs}"
            if condition.is_refused:
                raise UserError(line)
            lines.append(line)
    return lines


def changed_fields(config: ExperimentConfig) -> set[str]:
    """Return the fields whose value is neither the default's nor any preset's.

    All else in a file may come from a preset, which sets fields for all cases.
    """
    usual = [ExperimentConfig(), *(make() for make in PRESETS.values())]
    return {
        name
        for name, _ in leaf_fields(ExperimentConfig)
        if all(_value(config, name) != _value(other, name) for other in usual)
    }


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _is_among(name: str, groups: Iterable[str]) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)
