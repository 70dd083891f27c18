"""Meaning of each field of the configuration, and the ranges that are held."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from dance_tf.config import ExperimentConfig, config_from_json, config_to_json, override
from dance_tf.config_fields import FIELDS, leaf_fields, type_name
from dance_tf.errors import UserError
from dance_tf.presets import PRESETS, preset

HINTS = dict(leaf_fields(ExperimentConfig))
NUMBERS = [name for name, hint in HINTS.items() if {"int", "float"} & set(type_name(hint).split())]
FLOATS = [name for name in NUMBERS if "float" in type_name(HINTS[name])]


def _with(name: str, value: object) -> None:
    """Build the record of a field in Python, as a library's user does, with a value for it."""
    *groups, leaf = name.split(".")
    record = ExperimentConfig()
    for group in groups:
        record = getattr(record, group)
    dataclasses.replace(record, **{leaf: (value,) if "list" in type_name(HINTS[name]) else value})


def test_every_field_has_a_meaning_and_no_other_has():
    assert list(FIELDS) == list(HINTS)
    assert all(info.meaning for info in FIELDS.values())


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range_and_is_refused_outside_it(name: str):
    info, is_float = FIELDS[name], name in FLOATS
    assert info.low is not None and info.high is not None and 0 <= info.low < info.high < 2**41
    if is_float and info.low:
        assert np.float32(info.low) >= np.finfo(np.float32).tiny, "vanishes in float32"
    outside = [info.low / 2, -1.0, 1e-38, info.high * 2, 1e39, math.nan] if is_float else []
    outside += [info.low - 1, info.high + 1]
    for value in outside:
        if info.low <= value <= info.high:  # 1e-38 where 0 is allowed
            continue
        with pytest.raises(UserError) as error:
            _with(name, value)
        message = str(error.value)
        assert name in message and "\n" not in message
        if "increasing" not in message:
            assert str(value) in message and info.allowed in message


@pytest.mark.parametrize("name", FLOATS)
def test_the_ends_of_a_range_are_in_it(name: str):
    for value in (FIELDS[name].low, FIELDS[name].high):
        _with(name, float(value))


@pytest.mark.parametrize("name", [name for name, info in FIELDS.items() if info.choices])
def test_a_choice_is_one_of_those_listed(name: str):
    with pytest.raises(UserError, match=f"{name} is 'magic', not one of"):
        _with(name, "magic")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_in_range(name: str):
    assert config_from_json(config_to_json(preset(name))) == preset(name)


def test_a_temperature_that_ends_as_nan_is_refused_on_the_command_line():
    with pytest.raises(UserError) as error:
        override(preset("tiny"), ["search.gumbel_temperature=1e-38"])
    assert str(error.value) == ("search.gumbel_temperature is 1e-38, not within 0.001 to 1000")


def test_types_are_named_as_json_names_them():
    assert type_name(HINTS["search.fixed_architecture"]) == "list of str or null"
    assert type_name(HINTS["hardware.machine.dram_words_per_cycle"]) == "float or null"
