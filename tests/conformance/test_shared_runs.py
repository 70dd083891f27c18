"""Every reference run of the shared folder; skipped where the folder is absent."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dance_tf.hardware.loopnest import mapper_validation, validation
from tests import reference
from tests.conformance import cases as conformance

FOLDER = conformance.shared_folder()
FILES = ("fixed_mappings.json", "odd_layers.json")

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="no shared folder: name it with DANCE_TF_SHARED"
)


@pytest.fixture(scope="module", params=FILES)
def file_name(request):
    return request.param


def test_the_twin_counts_what_every_run_counted(file_name):
    for case in conformance.shared_cases(FOLDER, file_name):
        found = reference.closed_counts(case.layer, case.mapping, case.accounting)
        assert found == case.true_counts, case.name
        reported = reference.extrapolated_counts(case.layer, case.mapping, case.accounting)
        assert reported == case.counts, case.name


def test_the_cost_model_agrees_with_every_run(file_name):
    data = json.loads((FOLDER / file_name).read_text("utf-8"))
    wires = json.loads((FOLDER / "wires.json").read_text("utf-8"))
    report = validation.validate(
        validation.parse_reference(data, file_name), validation.parse_wires(wires, "wires.json")
    )
    assert report["num_cases"] == len(data)
    assert report["num_extrapolated"] == sum(case["extrapolated"] for case in data)
    assert report["num_extrapolated_matching_walked"] == report["num_extrapolated"]
    assert report["max_error_accesses"] == 0
    assert report["max_error_cycles"] < 4e-4  # Timeloop's division, one cycle now and then
    assert report["max_error_energy"] < 2.1e-4  # its rounding to accesses of four words
    assert report["max_error_area"] < 1e-12
    assert report["max_error_wires"] < 1e-7
    assert report["num_wires"] == sum(case["name"] in wires for case in data)


def test_the_shipped_cases_are_runs_of_the_folder():
    shared = {case.name: case for name in FILES for case in conformance.shared_cases(FOLDER, name)}
    for case in conformance.shipped_cases():
        original = shared[case.name]
        assert (case.counts, case.walked) == (original.counts, original.walked)
        assert case.cost == original.cost


def _mapper_data() -> list[dict]:
    return json.loads((FOLDER / "mapper_best.json").read_text("utf-8"))


def test_the_twin_gives_the_mappers_mappings_timeloops_numbers():
    for case in _mapper_data():
        layer, best, array = case["layer"], case["best"], case["accelerator"]
        cost = reference.cost(
            layer,
            best["mapping"],
            array,
            reference.extrapolated_counts(layer, best["mapping"]),
            technology_name="accelergy_2020_45nm",
            dram_words_per_cycle=None,
        )
        for key in ("cycles", "energy_pj"):
            assert cost[key] == pytest.approx(best[key], rel=1e-4), case["name"]


@pytest.mark.slow
def test_the_best_mappings_are_no_worse_than_the_mappers():
    data = _mapper_data()
    report = mapper_validation.compare_with_mapper(
        mapper_validation.parse_mapper_reference(data, "mapper_best.json")
    )
    is_compared = [
        case["accelerator"]["rf_mode"] == "shared"
        and "relaxed" not in case["accelerator"]["dataflow"]
        for case in data
    ]
    assert report["num_cases"] == len(data)
    assert report["num_skipped"] == is_compared.count(False)
    assert ["ratio" in entry for entry in report["cases"]] == is_compared
    assert report["edp_ratio_median"] <= 1.0
    assert report["edp_ratio_max"] <= 1.001


@pytest.mark.slow
def test_the_best_mappings_of_split_register_files_are_no_worse_either():
    data = [case for case in _mapper_data() if case["accelerator"]["rf_mode"] == "split"]
    cases = mapper_validation.parse_mapper_reference(data, "mapper_best.json")
    report = mapper_validation.compare_with_mapper(
        [dataclasses.replace(case, skipped_reason=None) for case in cases]
    )
    assert report["num_skipped"] == 0 and len(data) > 10
    assert report["edp_ratio_max"] <= 1.0


def test_the_shipped_mappers_cases_are_those_of_the_folder():
    shared = {case["name"]: case for case in _mapper_data()}
    for case in conformance.shipped_mapper_cases():
        original = shared[case["name"]]
        assert case["best"] == original["best"]
        assert case["accelerator"] == original["accelerator"]
        layer = original["layer"]
        for key, value in case["layer"].items():
            pair = reference.pair(layer[key]) if key in ("stride", "dilation") else layer[key]
            assert (tuple(value) if isinstance(value, list) else value) == pair
