"""The plain twins agree with the shipped reference runs and with each other."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given, settings

from tests import reference, reference_mappings, reference_words
from tests.conformance import cases as conformance
from tests.strategies import STEADY, mapped_layers

CASES = conformance.shipped_cases()
SMALL = [c for c in CASES if math.prod(b for m in c.mapping[:2] for _, b in m["temporal"]) < 2500]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_formula_counts_what_the_runs_counted(case):
    counts = reference.closed_counts(case.layer, case.mapping, case.accounting)
    assert counts == case.true_counts


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_walking_counts_what_the_runs_counted(case):
    assert reference.walk_counts(case.layer, case.mapping, case.accounting) == case.true_counts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cost_is_that_of_the_runs(case):
    cost = reference.cost(
        case.layer,
        case.mapping,
        case.array,
        case.counts,
        technology_name="accelergy_2020_45nm",
        accounting=case.accounting,
        dram_words_per_cycle=None,
    )
    assert cost["compute_cycles"] == case.cost["compute_cycles"]
    for key in ("cycles", "energy_pj", "area_um2"):
        assert cost[key] == pytest.approx(case.cost[key], rel=1e-3), key
    if "wire_energy_pj" in case.cost:
        assert sum(cost["wires"].values()) == pytest.approx(case.cost["wire_energy_pj"], rel=1e-7)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_extrapolating_counts_what_timeloop_reported(case):
    counts = reference.extrapolated_counts(case.layer, case.mapping, case.accounting)
    assert counts == case.counts
    assert (counts != case.true_counts) == case.is_extrapolated


def _check_twins(pair):
    """The formula, the walk of the box and, where there are no gaps, sets of words agree."""
    for accounting in ("timeloop_2020", "timeloop_2025"):
        walked = reference.walk_counts(*pair, accounting)
        assert reference.closed_counts(*pair, accounting) == walked
        for level, by_operand in reference_words.word_counts(*pair, accounting).items():
            for operand, found in by_operand.items():
                for key, value in found.items():
                    if value is None:
                        assert operand == "inputs"  # only their boxes have gaps
                    else:
                        assert value == walked[level][operand][key], (level, operand, key)


@pytest.mark.parametrize("mode", ["shared", "split"])
def test_formula_equals_walking_equals_sets_of_words(mode):
    settings(max_examples=120, **STEADY)(given(mapped_layers(mode, max_macs=300))(_check_twins))()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shared", "split"])
def test_formula_equals_walking_equals_sets_of_words_at_length(mode):
    options = {**STEADY, "derandomize": False, "max_examples": 5000}
    settings(**options)(given(mapped_layers(mode))(_check_twins))()


def test_formula_equals_walking_however_boxes_slide():
    for layer, mapping in reference_mappings.sliding_mappings():
        walked = reference.walk_counts(layer, mapping)
        assert reference.closed_counts(layer, mapping) == walked, (layer, mapping)


def _renamed(mapping: list, old: str, new: str) -> list:
    loops = ("temporal", "spatial_x", "spatial_y")
    return [
        level | {k: [[new if d == old else d, b] for d, b in level[k]] for k in loops}
        for level in mapping
    ]


@pytest.mark.parametrize("case", [c for c in CASES if c.layer["type"] == "depthwise"])
def test_a_depthwise_layer_is_one_with_a_group_per_channel(case):
    layer = case.layer | {"type": "conv", "groups": case.layer["K"]}
    counts = reference.closed_counts(layer, _renamed(case.mapping, "K", "G"), case.accounting)
    assert counts == case.true_counts


@pytest.mark.parametrize("case", [c for c in CASES if c.layer["type"] == "conv"][::3])
def test_groups_one_after_the_other_cost_as_many_layers(case):
    layer = case.layer | {"groups": 3, "K": 3 * case.layer["K"]}
    mapping = copy.deepcopy(case.mapping)
    mapping[0]["temporal"].insert(0, ["G", 3])
    counts = reference.closed_counts(layer, mapping, case.accounting)
    for level, by_operand in case.true_counts.items():
        for operand, one in by_operand.items():
            found = counts[level][operand]
            for key in ("reads", "fills", "updates"):
                assert found[key] == 3 * one[key], (level, operand, key)


# The small checks that the contract works out by hand.


def _input_fills(layer: dict, gb: list, rf: list, dram: tuple = ()) -> int:
    layer = {"type": "conv", "N": 1, "K": 1, "C": 1, "stride": 1, "dilation": 1} | layer
    names = ("dram", "global_buffer", "register_file")
    mapping = [
        {
            "level": name,
            "keeps": reference.OPERANDS,
            "temporal": t,
            "spatial_x": [],
            "spatial_y": [],
        }
        for name, t in zip(names, (list(dram), gb, rf), strict=True)
    ]
    nest = reference.Nest(layer, mapping)
    walked = reference.walk_fills(nest, "inputs", 2)[0]
    assert walked == reference.closed_fills(nest, "inputs", 2)[0]
    return walked


def test_a_new_column_per_step():
    fills = _input_fills({"P": 8, "Q": 1, "R": 3, "S": 1}, [("P", 8)], [("R", 3)])
    assert fills == 3 + 7


def test_a_slide_that_goes_on_at_a_wrap():
    layer = {"P": 8, "Q": 1, "R": 3, "S": 1}
    assert _input_fills(layer, [("P", 2)], [("R", 3)], dram=[("P", 4)]) == 10


def test_dilated_single_words():
    layer = {"P": 8, "Q": 1, "R": 3, "S": 1, "dilation": 2}
    assert _input_fills(layer, [("R", 3), ("P", 8)], []) == 24


def test_a_wrap_that_stands_still():
    assert _input_fills({"P": 2, "Q": 1, "R": 2, "S": 1}, [("R", 2), ("P", 2)], []) == 3


def test_a_stride_beyond_the_filter():
    layer = {"P": 4, "Q": 4, "R": 2, "S": 2, "stride": 3}
    assert _input_fills(layer, [("Q", 4), ("P", 4)], [("R", 2), ("S", 2)]) == 16 * 4
