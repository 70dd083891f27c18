"""The comparison with timeloop-mapper, and what it takes for extrapolated."""

from __future__ import annotations

import copy

import pytest

from dance_tf.errors import UserError
from dance_tf.hardware.loopnest.mapper_validation import (
    compare_with_mapper,
    is_extrapolated,
    parse_mapper_reference,
)
from dance_tf.hardware.loopnest.mapping import mapping_from_json
from tests import reference, reference_mappings
from tests.conformance import cases as conformance
from tests.hardware import plain
from tests.strategies import examples, mapped_layers


def _pairs():
    for case in conformance.shipped_cases():
        yield case.layer, case.mapping
    for case in conformance.shipped_mapper_cases():
        yield case["layer"], case["best"]["mapping"]
    for mode in ("shared", "split"):
        yield from examples(mapped_layers(mode), 300)
    yield from reference_mappings.sliding_mappings()


def test_a_mapping_is_extrapolated_where_that_changes_a_count():
    num_extrapolated = 0
    for layer, mapping in _pairs():
        expected = reference.extrapolated_counts(layer, mapping) != reference.closed_counts(
            layer, mapping
        )
        found = is_extrapolated(plain.to_layer(layer), mapping_from_json(mapping))
        assert found == expected, (layer, mapping)
        num_extrapolated += found
    assert num_extrapolated > 50


@pytest.fixture(scope="module")
def dense():
    """Return a case of our own making: a dense layer under a poor mapping."""
    layer = {"type": "conv", "stride": 1, "dilation": 1}
    layer |= {"N": 1, "K": 8, "C": 6, "P": 1, "Q": 1, "R": 1, "S": 1}
    array = {"pe_x": 2, "pe_y": 4, "rf_words": 16, "rf_mode": "shared", "global_buffer_kib": 128}
    array |= {"dataflow": "weight_stationary"}
    empty = {"temporal": [], "spatial_x": [], "spatial_y": []}
    mapping = [
        {"level": "dram"} | empty | {"temporal": [["C", 6], ["K", 8]]},
        {"level": "global_buffer"} | empty,
        {"level": "register_file"} | empty,
    ]
    counts = reference.closed_counts(layer, plain.with_keeps(mapping))
    cost = reference.cost(
        layer,
        plain.with_keeps(mapping),
        array,
        counts,
        technology_name="accelergy_2020_45nm",
        dram_words_per_cycle=None,
    )
    best = {"cycles": cost["cycles"], "energy_pj": cost["energy_pj"], "mapping": mapping}
    return {"name": "dense", "layer": layer, "accelerator": array, "best": best}


def test_the_ratio_is_of_energy_times_cycles(dense):
    space = reference_mappings.Mapspace(dense["layer"], dense["accelerator"], "timeloop")
    twin = space.best(technology_name="accelergy_2020_45nm", dram_words_per_cycle=None)
    theirs = dense["best"]["cycles"] * dense["best"]["energy_pj"]
    report = compare_with_mapper(parse_mapper_reference([dense], "file"))
    (entry,) = report["cases"]
    assert entry["ratio"] == pytest.approx(twin["cycles"] * twin["energy_pj"] / theirs)
    assert report["edp_ratio_median"] == report["edp_ratio_max"] == entry["ratio"] < 0.5
    assert entry["cycles"] == twin["cycles"]
    assert entry["timeloop_cycles"] == entry["mapper_cycles"] == 48


def test_a_mapping_within_its_own_mapspace_is_never_beaten_by_it(dense):
    space = reference_mappings.Mapspace(dense["layer"], dense["accelerator"], "timeloop")
    twin = space.best(technology_name="accelergy_2020_45nm", dram_words_per_cycle=None)
    best = {key: twin[key] for key in ("cycles", "energy_pj", "mapping")}
    report = compare_with_mapper(parse_mapper_reference([dense | {"best": best}], "file"))
    assert report["edp_ratio_max"] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("key", ["cycles", "energy_pj"])
def test_numbers_that_are_not_those_of_the_mapping_are_refused(dense, key):
    wrong = copy.deepcopy(dense)
    wrong["best"][key] *= 1.002
    with pytest.raises(UserError, match="case dense: Timeloop gives its mapping") as error:
        compare_with_mapper(parse_mapper_reference([wrong], "file"))
    assert "\n" not in str(error.value)
    wrong["best"][key] = dense["best"][key] * 1.0009
    assert compare_with_mapper(parse_mapper_reference([wrong], "file"))["num_cases"] == 1


def test_skipped_cases_have_no_part_in_the_ratios(dense):
    skipped = [
        dense | {"accelerator": dense["accelerator"] | {"dataflow": "output_stationary_relaxed"}},
        dense | {"metric": "delay"},
    ]
    report = compare_with_mapper(parse_mapper_reference([*skipped, dense], "file"))
    assert (report["num_cases"], report["num_skipped"]) == (3, 2)
    assert [set(entry) for entry in report["cases"][:2]] == [{"name", "skipped_reason"}] * 2
    alone = compare_with_mapper(parse_mapper_reference([dense], "file"))
    assert report["edp_ratio_max"] == alone["edp_ratio_max"]
    nothing = compare_with_mapper(parse_mapper_reference(skipped, "file"))
    assert nothing["edp_ratio_median"] is None and nothing["edp_ratio_max"] is None
