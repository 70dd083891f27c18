"""The accelerator space: rows, positions and records are three views of the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dance_tf.config import AcceleratorSpaceConfig
from dance_tf.errors import UserError
from dance_tf.hardware.accelerator import (
    HEADS,
    AcceleratorSpace,
    accelerator_to_json,
)
from dance_tf.structs import DATAFLOWS, Accelerator

SPACE = AcceleratorSpace()


def test_the_space_has_the_documented_size():
    assert SPACE.head_sizes == (17, 17, 5, 3)
    assert len(SPACE) == 4335


def test_round_trip_over_the_whole_space():
    every = SPACE.all()
    records = [SPACE.decode(index) for index in range(len(SPACE))]
    assert len(set(records)) == len(SPACE)
    for index, record in enumerate(records):
        assert SPACE.encode(record) == index
        assert (record.pe_x, record.pe_y, record.rf_bytes) == tuple(
            int(getattr(every, field)[index]) for field in HEADS[:3]
        )
        assert DATAFLOWS[every.dataflow[index]] == record.dataflow
        assert Accelerator.from_json(accelerator_to_json(record), "file") == record
    heads = SPACE.head_indices()
    assert heads.shape == (4335, 4) and (heads < SPACE.head_sizes).all()
    np.testing.assert_array_equal(SPACE.index_of_heads(heads), np.arange(len(SPACE)))
    np.testing.assert_array_equal(SPACE.head_indices([5, 4000]), heads[[5, 4000]])


def test_a_space_with_other_values_and_order_of_dataflows():
    space = AcceleratorSpace(
        AcceleratorSpaceConfig(
            pe_x=(4, 9), pe_y=(3,), rf_bytes=(8, 512), dataflow=("row_stationary",)
        )
    )
    assert len(space) == 4
    assert set(space.all().dataflow) == {DATAFLOWS.index("row_stationary")}
    assert [space.encode(space.decode(i)) for i in range(4)] == [0, 1, 2, 3]
    swapped = AcceleratorSpace(AcceleratorSpaceConfig(dataflow=DATAFLOWS[::-1]))
    assert swapped.decode(0).dataflow == "row_stationary"
    assert swapped.all().dataflow[0] == DATAFLOWS.index("row_stationary")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pe_x", 7, "pe_x = 7 is outside the space"),
        ("pe_y", 25, "pe_y = 25 is outside the space"),
        ("rf_bytes", 48, "rf_bytes = 48 is outside the space, which has 16, 32, 64, 128, 256"),
    ],
)
def test_a_value_outside_the_space(field, value, message):
    record = dataclasses.replace(Accelerator(8, 8, 16, DATAFLOWS[0]), **{field: value})
    with pytest.raises(UserError, match=message):
        SPACE.encode(record)


@pytest.mark.parametrize("index", [-1, 4335])
def test_a_row_outside_the_space(index):
    with pytest.raises(UserError, match=r"outside 0\.\.4334"):
        SPACE.decode(index)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"pe_x": 8, "pe_y": 8, "rf_bytes": 16},
        {"pe_x": "8", "pe_y": 8, "rf_bytes": 16, "dataflow": "row_stationary"},
        {"pe_x": True, "pe_y": 8, "rf_bytes": 16, "dataflow": "row_stationary"},
        {"pe_x": 8.0, "pe_y": 8, "rf_bytes": 16, "dataflow": "row_stationary"},
        {"pe_x": 0, "pe_y": 8, "rf_bytes": 16, "dataflow": "row_stationary"},
        {"pe_x": 8, "pe_y": 8, "rf_bytes": 16, "dataflow": "rs"},
    ],
)
def test_data_that_is_no_accelerator(data):
    with pytest.raises(UserError, match=r"^run\.json: .*accelerator") as error:
        Accelerator.from_json(data, "run.json")
    assert "\n" not in str(error.value)
