"""Fields that are given in vain: every field has its row, every condition a case."""

from __future__ import annotations

import pytest

from dance_tf.config import ExperimentConfig, override
from dance_tf.config_effects import EFFECTS, JOBS, changed_fields, without_effect
from dance_tf.config_fields import leaf_fields
from dance_tf.errors import UserError
from dance_tf.presets import PRESETS, preset
from tests.repo.source import ROOT

NAMES = [name for name, _ in leaf_fields(ExperimentConfig)]

_FIXED = 'search.fixed_architecture=["zero"]'
_MEASURED = "hardware.measured_csv=mine.csv"
_FROZEN = ("search.supernet_dir=x", "search.supernet_weights=frozen")
_LATENCY, _AREA = "search.max_latency_ms=1", "search.max_area_mm2=1"
_PENALTY, _STILL = "search.limits=penalty", "search.lambda_2=0"

#: Field with a condition: settings under which it has an effect, and settings under which
#: it has none; "noretrain" stands for a run without retraining.
_PREDICTOR = "search.accuracy=predictor"
_OF_EITHER: tuple = ((), _FIXED)
_OF_SEARCH: tuple = ((), _FIXED, _PREDICTOR)
_OF_WEIGHTS: tuple = ((), _FIXED, _FROZEN, _PREDICTOR)
_OF_OBJECTIVE: tuple = ("search.objective=linear", "search.objective=EDAP", "search.objective=area")
CASES: dict[str, tuple] = {
    **{
        name: ((), _MEASURED)
        for name in NAMES
        if name.startswith("hardware.machine.") and not name.endswith("clock_mhz")
    },
    "data.dataset": ((), "data.path=images"),
    "data.data_dir": ("data.dataset=mnist", "data.dataset=digits", "data.path=images"),
    "data.test_fraction": ("data.path=images", (), "data.path=my_module.Own"),
    "evaluator.path": ("evaluator.kind=neural", "evaluator.kind=exact"),
    "evaluator.softmin_temperature": ("evaluator.kind=exact", "evaluator.kind=neural", ()),
    "search.accuracy": _OF_EITHER,
    "search.accuracy_csv": (_PREDICTOR, (), (_PREDICTOR, _FIXED)),
    "search.num_trained": (_PREDICTOR, (), (_PREDICTOR, _FIXED)),
    "search.supernet": ((), (_FIXED, "noretrain"), _FIXED),
    "search.supernet_dir": ((), (_FIXED, "noretrain"), _FIXED),
    "search.supernet_weights": _OF_SEARCH,
    "search.epochs": _OF_SEARCH,
    "search.warmup_epochs": _OF_SEARCH,
    "search.batch_size": _OF_SEARCH,
    "search.weight_learning_rate": _OF_WEIGHTS,
    "search.warmup_learning_rate": (*_OF_WEIGHTS, "search.warmup_epochs=0"),
    "search.weight_decay": _OF_WEIGHTS,
    "search.label_smoothing": _OF_WEIGHTS,
    "search.arch_learning_rate": _OF_SEARCH,
    "search.arch_every": _OF_SEARCH,
    "search.arch_gradient": _OF_SEARCH,
    "search.arch_paths": (
        "search.arch_gradient=score_function",
        "search.arch_gradient=two_path",
        _FIXED,
    ),
    "search.gumbel_temperature": (
        "search.arch_gradient=straight_through",
        "search.arch_gradient=score_function",
        ("search.arch_gradient=straight_through", _FIXED),
    ),
    "search.lambda_latency": _OF_OBJECTIVE,
    "search.lambda_energy": _OF_OBJECTIVE,
    "search.lambda_area": ("search.objective=product", "search.objective=EDAP"),
    "search.lambda_2": _OF_EITHER,
    "search.lambda_2_warmup_epochs": ((), _FIXED, _STILL),
    "search.log_every": _OF_SEARCH,
    "search.max_zero_share": _OF_SEARCH,
    "search.lambda_2_backoff": ((), _FIXED, _STILL, _LATENCY),
    "search.limits": (_LATENCY, (), (_LATENCY, _FIXED)),
    "search.limit_delta": (_LATENCY, (), _AREA, (_LATENCY, _PENALTY), (_LATENCY, _FIXED)),
    "search.limit_growth": (_LATENCY, (), _AREA, (_LATENCY, _PENALTY)),
    "search.limit_penalty": (
        (_LATENCY, _PENALTY),
        _PENALTY,
        _LATENCY,
        (_PENALTY, _LATENCY, _FIXED),
    ),
    **{name: ((), "noretrain") for name in NAMES if name.startswith("retrain.")},
    "seed": ((), (_FIXED, "noretrain")),
}


def _lines(name: str, settings: str | tuple[str, ...], job: str = "search") -> list[str]:
    settings = (settings,) if isinstance(settings, str) else settings
    config = override(preset("tiny"), [s for s in settings if s != "noretrain"])
    config = override(config, () if "evaluator.kind" in str(settings) else ["evaluator.kind=auto"])
    return without_effect(config, job, [name], retrains="noretrain" not in settings)


def test_every_field_says_where_it_has_an_effect():
    assert list(EFFECTS) == NAMES
    assert set(CASES) == {name for name, condition in EFFECTS.items() if condition is not None}


@pytest.mark.parametrize("name", CASES)
def test_a_field_is_told_of_where_it_has_no_effect_and_nowhere_else(name: str):
    effective, *idle = CASES[name]
    assert _lines(name, effective) == []
    for settings in idle:
        if EFFECTS[name].is_refused:
            with pytest.raises(UserError) as error:
                _lines(name, settings)
            lines = [str(error.value)]
        else:
            lines = _lines(name, settings)
        assert len(lines) == 1 and lines[0].startswith(f"{name} has no effect"), settings
        assert EFFECTS[name].needs in lines[0] and "\n" not in lines[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CASES])
def test_a_field_without_a_condition_is_never_told_of(name: str):
    job = next(job for job in JOBS if _lines(name, (), job) == [])
    for settings in ((), _FIXED, _MEASURED, _FROZEN, (_FIXED, "noretrain")):
        assert _lines(name, settings, job) == []


def test_a_field_that_a_tool_does_not_read_is_told_of_where_the_command_line_names_it():
    config = ExperimentConfig()
    (line,) = without_effect(config, "train_evaluator", ["search.epochs"])
    assert line == "search.epochs has no effect: train_evaluator does not read it"
    assert without_effect(config, "train_evaluator", [], ["search.epochs"]) == []
    (line,) = without_effect(config, "pareto", ["search.lambda_2"])
    assert "--lambdas" in line
    (line,) = without_effect(
        config, "evaluate_cost", ["space.name"], unread={"space": "--architecture"}
    )
    assert "--architecture" in line
    assert without_effect(config, "build_labels", ["data.data_dir"]) == []


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_sets_is_not_the_users_doing(name: str):
    assert changed_fields(preset(name)) == set()
    changed = override(preset(name), ["search.epochs=77", "seed=5"])
    assert changed_fields(changed) == {"search.epochs", "seed"}


def test_all_rows_of_the_tools_are_of_fields():
    groups = {name.rpartition(".")[0] for name in NAMES} | {"hardware"}
    for job in JOBS.values():
        assert set(job.reads) <= groups | set(NAMES)
        assert set(job.instead) <= set(NAMES)


def test_every_tool_that_takes_fields_looks_for_those_in_vain():
    for path in sorted((ROOT / "tools").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        takes_fields = '"set"' in source or "common.EXPERIMENT" in source
        if takes_fields and path.stem not in ("flags", "workload"):
            assert f'"{path.stem}", FLAGS' in source.replace('",\n        FLAGS', '", FLAGS'), path
            assert path.stem in JOBS
