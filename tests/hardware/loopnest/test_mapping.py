"""Mappings as records, JSON and text."""

from __future__ import annotations

import json

import pytest

from dance_tf.errors import UserError
from dance_tf.hardware.loopnest.mapping import format_loop_nest, mapping_from_json, mapping_to_json
from tests.conformance import cases as conformance
from tests.strategies import examples, mapped_layers

EXAMPLE = [
    {"level": "dram", "temporal": [["K", 3], ["Q", 4]]},
    {
        "level": "global_buffer",
        "temporal": [["Q", 8], ["P", 32]],
        "spatial_x": [["C", 2]],
        "spatial_y": [["K", 16]],
    },
    {"level": "register_file", "temporal": [["R", 3]]},
]


def test_json_round_trip():
    plain = [m for mode in ("shared", "split") for _, m in examples(mapped_layers(mode), 30)]
    for data in [*plain, *(case.mapping for case in conformance.shipped_cases()), EXAMPLE]:
        mapping = mapping_from_json(data)
        text = json.dumps(mapping_to_json(mapping))
        assert mapping_from_json(json.loads(text)) == mapping
        assert mapping.is_split == (len(data) == 5)


def test_loops_of_bound_one_are_left_out():
    longer = [dict(level) for level in EXAMPLE]
    longer[0] = {"level": "dram", "temporal": [["N", 1], ["K", 3], ["C", 1], ["Q", 4]]}
    assert mapping_from_json(longer) == mapping_from_json(EXAMPLE)
    assert mapping_from_json(EXAMPLE).loop_bounds == (1, 48, 2, 32, 32, 3, 1, 1)


def test_the_printed_loop_nest():
    assert format_loop_nest(mapping_from_json(EXAMPLE)).splitlines() == [
        "[dram]",
        "for K in range(3)",
        "  for Q in range(4)",
        "    [global_buffer]",
        "    for Q in range(8)",
        "      for P in range(32)",
        "        parallel_for_x C in range(2)",
        "          parallel_for_y K in range(16)",
        "            [register_file]",
        "            for R in range(3)",
        "              multiply_accumulate",
    ]


def _changed(index, **changes):
    return [level | changes if i == index else level for i, level in enumerate(EXAMPLE)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "not a list"),
        (7, "not a list"),
        ([{}], "level"),
        ([1, 2, 3], "not a list"),
        (EXAMPLE[:2], "levels are dram, global_buffer"),
        (EXAMPLE[::-1], "levels are register_file"),
        (_changed(0, temporal=[["X", 3]]), "over 'X'"),
        (_changed(0, temporal=[["K", 0]]), "bound of K"),
        (_changed(0, temporal=[["K", -3]]), "bound of K"),
        (_changed(0, temporal=[["K", 2.0]]), "bound of K"),
        (_changed(0, temporal=[["K", "3"]]), "bound of K"),
        (_changed(0, temporal=[["K", 3, 4]]), "not a list"),
        (_changed(0, temporal=7), "not a list"),
        (_changed(2, spatial_x=[["K", 3]]), "only global_buffer may"),
    ],
)
def test_data_that_is_no_mapping(data, message):
    with pytest.raises(UserError, match="mapping") as error:
        mapping_from_json(data)
    assert message in str(error.value) and "\n" not in str(error.value)
