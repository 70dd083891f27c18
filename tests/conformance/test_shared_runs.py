"""Every reference run of the shared folder; skipped where the folder is absent."""

from __future__ import annotations

import json

import pytest

from dance_tf.hardware import validation
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
