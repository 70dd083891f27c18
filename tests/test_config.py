"""Configuration: presets, JSON round trip, typed overrides, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dance_tf.config import (
    AcceleratorSpaceConfig,
    MachineConfig,
    config_from_json,
    config_to_json,
    override,
)
from dance_tf.errors import UserError
from dance_tf.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = preset(name)
    data = json.loads(json.dumps(config_to_json(config)))
    assert config_from_json(data) == config
    assert hash(config) == hash(config_from_json(data))


def test_missing_fields_take_their_defaults():
    assert config_from_json({}) == config_from_json({"search": {}, "hardware": {"machine": {}}})


def test_defaults_are_the_documented_machine():
    machine = MachineConfig()
    assert machine.global_buffer_words == 65536
    assert machine.rf_words(64) == 32
    assert (machine.clock_mhz, machine.dram_words_per_cycle) == (200.0, 6.4)
    assert (machine.technology, machine.accounting) == ("cacti_45nm", "timeloop_2020")


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("search.epochs=3", ("search", "epochs"), 3),
        ("search.lambda_2=2", ("search", "lambda_2"), 2.0),
        ("search.lambda_2=1e-3", ("search", "lambda_2"), 1e-3),
        ("seed=7", ("seed",), 7),
        ("data.dataset=mnist", ("data", "dataset"), "mnist"),
        ("data.data_dir=a b/c=d", ("data", "data_dir"), "a b/c=d"),
        ("data.data_dir=null", ("data", "data_dir"), None),
        (" space.num_classes = 5 ", ("space", "num_classes"), 5),
        ("space.num_classes=null", ("space", "num_classes"), None),
        (
            "hardware.machine.dram_words_per_cycle=None",
            ("hardware", "machine", "dram_words_per_cycle"),
            None,
        ),
        ("hardware.accelerators.pe_x=[4,8]", ("hardware", "accelerators", "pe_x"), (4, 8)),
        (
            'hardware.accelerators.dataflow=["row_stationary"]',
            ("hardware", "accelerators", "dataflow"),
            ("row_stationary",),
        ),
    ],
)
def test_overrides_are_typed_by_the_field(assignment, path, value):
    before = preset("tiny")
    node = override(before, [assignment])
    for name in path:
        node = getattr(node, name)
    assert node == value and type(node) is type(value)
    # Nothing else has changed.
    after, data = config_to_json(override(before, [assignment])), config_to_json(before)
    for name in path[:-1]:
        after, data = after[name], data[name]
    del after[path[-1]], data[path[-1]]
    assert after == data


def test_overrides_apply_in_order_and_are_checked_together():
    config = override(preset("tiny"), ["seed=1", "seed=2", "search.epochs=9"])
    assert (config.seed, config.search.epochs) == (2, 9)
    # Each alone would not be valid with the other's old value.
    config = override(config, ["search.warmup_epochs=20", "search.epochs=30"])
    assert (config.search.warmup_epochs, config.search.epochs) == (20, 30)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("search.epoch=3", "did you mean 'epochs'"),
        ("serch.epochs=3", "did you mean 'search'"),
        ("search.epochs", "NAME=VALUE"),
        ("search=3", "is a group of fields"),
        ("seed.x=3", "has no fields"),
        ("search.epochs=three", "cannot read 'three'"),
        ("search.epochs=2.5", "is 2.5, not int"),
        ("search.epochs=true", "is True, not int"),
        ("search.epochs=null", "is None, not int"),
        ("search.lambda_2=NaN", "lambda_2"),
        ("search.lambda_2=Infinity", "lambda_2"),
        ("search.lambda_2=-1", "search.lambda_2 is -1.0, not within 0 to 1000000"),
        ("search.epochs=0", "search.epochs is 0, not within 1 to 1000000"),
        ("search.warmup_epochs=99", "leaves no epoch"),
        ("search.objective=EDP", "not one of EDAP, latency, energy, area, linear, product"),
        ("evaluator.kind=magic", "not one of auto, neural, exact"),
        ("hardware.machine.clock_mhz=0", "not within 0.001 to 1000000"),
        ("hardware.machine.dram_words_per_cycle=0", "not within 0.001 to 1000000"),
        ("hardware.machine.rf_mode=joined", "not one of shared, split"),
        ("hardware.accelerators.pe_x=8", "pe_x"),
        ("hardware.accelerators.pe_x=[]", "increasing"),
        ("hardware.accelerators.pe_x=[8,8]", "increasing"),
        ("hardware.accelerators.pe_x=[0]", "increasing"),
        ('hardware.accelerators.dataflow=["ws"]', "ws"),
        ("data.architecture_fraction=1", "not within 1e-06 to 0.999999"),
    ],
)
def test_a_bad_override_is_one_clear_line(assignment, message):
    with pytest.raises(UserError) as error:
        override(preset("tiny"), [assignment])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "not an object"),
        ({"search": 3}, "search is not an object"),
        ({"search": {"epoch": 3}}, "'search.epoch'; did you mean 'epochs'"),
        ({"search": {"epochs": "3"}}, "search.epochs is '3'"),
        ({"hardware": {"machine": {"clock": 1}}}, "hardware.machine.clock"),
        ({"seed": 1.5}, "seed is 1.5"),
    ],
)
def test_a_bad_file_is_one_clear_line(data, message):
    with pytest.raises(UserError) as error:
        config_from_json(data)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_preset():
    with pytest.raises(UserError, match="did you mean 'cifar10_small'"):
        preset("cifar10small")


@pytest.mark.parametrize("objective", ["linear", "product"])
def test_an_objective_needs_a_weight(objective):
    zeros = [f"search.lambda_{m}=0" for m in ("latency", "energy", "area")]
    with pytest.raises(UserError, match=f"is {objective} and all three of its weights are 0"):
        override(preset("tiny"), [f"search.objective={objective}", *zeros])


def test_the_space_of_the_paper():
    assert AcceleratorSpaceConfig().pe_x == tuple(range(8, 25))


def test_no_tensorflow_is_imported():
    code = "import sys, dance_tf.config; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
