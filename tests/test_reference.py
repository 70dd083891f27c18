"""The plain twins agree with the shipped reference runs and with each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import reference, reference_mappings
from tests.conformance import cases as conformance

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


def test_formula_equals_walking():
    rng = np.random.default_rng(0)
    pairs = [
        reference_mappings.random_mapping(rng, mode)
        for mode in ("shared", "split")
        for _ in range(200)
    ]
    for layer, mapping in [*pairs, *reference_mappings.sliding_mappings()]:
        for accounting in ("timeloop_2020", "timeloop_2025"):
            walked = reference.walk_counts(layer, mapping, accounting)
            assert reference.closed_counts(layer, mapping, accounting) == walked, (layer, mapping)


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
