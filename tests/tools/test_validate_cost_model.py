"""The command line that compares the cost model with reference runs."""

from __future__ import annotations

import copy
import json

import pytest

from tests.conformance import cases as conformance
from tools import flags as common
from tools import validate_cost_model

ERRORS = ("cycles", "energy", "accesses", "area")


def _as_file_case(case) -> dict:
    """Return a shipped case in the layout of the reference files."""
    cost = {k: v for k, v in case.cost.items() if k != "wire_energy_pj"}
    levels = {level: {"accesses": accesses} for level, accesses in case.counts.items()}
    return {
        "name": case.name,
        "accounting": case.accounting,
        "layer": case.layer,
        "accelerator": case.array | {"global_buffer_kib": 128},
        "mapping": case.mapping,
        "expected": cost | {"levels": levels},
        "extrapolated": case.is_extrapolated,
        "walked": [
            dict(zip(("level", "operand", "count", "value"), (*key, value), strict=True))
            for key, value in case.walked.items()
        ],
    }


@pytest.fixture(scope="module")
def reference():
    return [_as_file_case(case) for case in conformance.shipped_cases()]


@pytest.fixture
def validate(tmp_path, capsys):
    def run(data, *more):
        path = tmp_path / "reference.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
        argv = ["validate_cost_model", f"--reference={path}", *more]
        status = common.call(validate_cost_model.main, validate_cost_model.FLAGS, argv)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def compare(tmp_path, capsys):
    def run(data, *more):
        path = tmp_path / "mapper.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
        argv = ["validate_cost_model", f"--mapper_reference={path}", *more]
        status = common.call(validate_cost_model.main, validate_cost_model.FLAGS, argv)
        return status, *capsys.readouterr()

    return run


def test_shipped_runs_agree(validate, reference):
    status, out, _ = validate(reference)
    report = json.loads(out)
    assert status == 0
    assert report["num_cases"] == len(reference)
    assert report["num_extrapolated"] == sum(case["extrapolated"] for case in reference) > 3
    assert all(entry["matches_walked"] for entry in report["extrapolated"])
    assert all(report[f"max_error_{key}"] <= 1e-3 for key in ERRORS)
    assert "max_error_wires" not in report


def test_every_planted_difference_is_reported(validate, reference):
    plain = next(i for i, case in enumerate(reference) if not case["extrapolated"])
    for key, field in (("cycles", "cycles"), ("energy", "energy_pj"), ("area", "area_um2")):
        wrong = copy.deepcopy(reference)
        wrong[plain]["expected"][field] *= 1.25
        report = json.loads(validate(wrong)[1])
        assert report[f"max_error_{key}"] == pytest.approx(0.2, abs=2e-3)
    wrong = copy.deepcopy(reference)
    wrong[plain]["expected"]["levels"]["dram"]["accesses"]["outputs"]["updates"] *= 2
    assert json.loads(validate(wrong)[1])["max_error_accesses"] == pytest.approx(0.5)


def test_extrapolated_runs_do_not_count_but_are_listed(validate, reference):
    case = copy.deepcopy(next(case for case in reference if case["extrapolated"]))
    case["expected"]["energy_pj"] *= 3
    report = json.loads(validate([case])[1])
    assert report["max_error_energy"] == 0
    (entry,) = report["extrapolated"]
    assert entry["name"] == case["name"] and entry["matches_walked"]
    assert entry["max_error_extrapolated"] > 0
    case["walked"][0]["value"] *= 2
    (entry,) = json.loads(validate([case])[1])["extrapolated"]
    assert not entry["matches_walked"]
    assert entry["max_error_walked"] == pytest.approx(0.5)


def test_wires(validate, reference, tmp_path):
    shipped = {case.name: case.cost.get("wire_energy_pj") for case in conformance.shipped_cases()}
    path = tmp_path / "wires.json"

    def entry(total):
        by_operand = {"weights": total, "inputs": 0.0, "outputs": 0.0}
        return {"wire_energy_pj": total, "by_operand": by_operand}

    # By operand the shipped cases say nothing, so only that the flag is read is seen here.
    path.write_text(json.dumps({name: entry(v) for name, v in shipped.items() if v}), "utf-8")
    report = json.loads(validate(reference, f"--wires={path}")[1])
    assert report["num_wires"] == sum(v is not None for v in shipped.values())
    assert report["max_error_wires"] > 0.01
    path.write_text(json.dumps({"another": entry(1.0)}), "utf-8")
    status, _, error = validate(reference, f"--wires={path}")
    assert status == 1 and "no case of the reference" in error
    path.write_text(json.dumps({"another": {"wire_energy_pj": 1.0}}), "utf-8")
    status, _, error = validate(reference, f"--wires={path}")
    assert status == 1 and "entry 'another'" in error


def _without(*path):
    def edit(cases):
        node = cases[3]
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]

    return edit


def _with(value, *path):
    def edit(cases):
        node = cases[3]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_without("layer"), "'layer' is missing"),
        (_without("layer", "K"), "'K' is missing"),
        (_without("expected", "levels"), "'levels' is missing"),
        (_with("12", "layer", "K"), "K is '12'"),
        (_with("grouped", "layer", "type"), "kind is 'grouped'"),
        (_with(7, "mapping"), "mapping"),
        (_with([], "mapping", 0, "temporal"), "factors of"),
        (_with(["weights"], "mapping", 0, "keeps"), "bypassing"),
        (_with("sometimes", "accounting"), "accounting"),
        (_with("16", "accelerator", "rf_words"), "rf_words"),
        (_with(99, "accelerator", "global_buffer_kib"), "KiB, not for 99"),
        (_with("many", "expected", "cycles"), "many"),
        (_with({}, "expected", "levels"), "counts are of"),
    ],
)
def test_a_malformed_case_is_named_in_one_line(validate, reference, edit, message):
    cases = copy.deepcopy(reference)
    edit(cases)
    status, out, error = validate(cases)
    assert (status, out) == (1, "")
    assert error.count("\n") == 1 and message in error
    assert cases[3]["name"] in error


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"text"', "[1]", "[NaN]", "null"])
def test_a_file_that_is_no_reference(validate, text):
    status, out, error = validate(text)
    assert (status, out) == (1, "")
    assert error.count("\n") == 1 and "reference.json" in error


def test_our_best_mappings_are_no_worse_than_the_mappers(compare):
    cases = conformance.shipped_mapper_cases()
    status, out, _ = compare(cases)
    report = json.loads(out)
    assert status == 0
    assert report["num_cases"] == len(report["cases"]) == len(cases)
    assert report["num_skipped"] == 2 and report["num_extrapolated"] == 1
    assert report["edp_ratio_median"] <= 1.0 and report["edp_ratio_max"] <= 1.001
    for case, entry in zip(cases, report["cases"], strict=True):
        assert entry["name"] == case["name"]
        if "skipped_reason" in entry:
            array = case["accelerator"]
            assert array["rf_mode"] == "split" or array["dataflow"].endswith("_relaxed")
        else:
            assert entry["timeloop_cycles"] == case["best"]["cycles"]
            edp = entry["mapper_cycles"] * entry["mapper_energy_pj"]
            assert entry["ratio"] == pytest.approx(entry["cycles"] * entry["energy_pj"] / edp)
            timeloop = case["best"]["cycles"] * case["best"]["energy_pj"]
            assert (edp == pytest.approx(timeloop, rel=2e-3)) != entry["is_extrapolated"]


def test_both_references_at_once(compare, reference, tmp_path):
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(reference), "utf-8")
    skipped = [c for c in conformance.shipped_mapper_cases() if "OSM" in c["name"]]
    report = json.loads(compare(skipped, f"--reference={path}")[1])
    assert report["num_cases"] == len(reference)
    assert report["mapper_reference"]["num_cases"] == 1
    assert report["mapper_reference"]["edp_ratio_max"] is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_without("layer"), "'layer' is missing"),
        (_without("layer", "K"), "'K' is missing"),
        (_without("best"), "'best' is missing"),
        (_without("best", "mapping"), "'mapping' is missing"),
        (_without("best", "cycles"), "'cycles' is missing"),
        (_without("accelerator", "rf_words"), "'rf_words' is missing"),
        (_with(0, "layer", "K"), "K is 0"),
        (_with(-3, "best", "cycles"), "cycles is -3"),
        (_with("many", "best", "energy_pj"), "energy_pj is 'many'"),
        (_with(None, "best", "energy_pj"), "energy_pj is None"),
        (_with(2.5, "accelerator", "pe_x"), "pe_x is 2.5"),
        (_with(100000, "accelerator", "rf_words"), "words, not for 100000"),
        (_with(99, "accelerator", "global_buffer_kib"), "KiB, not for 99"),
        (_with("magic", "accelerator", "dataflow"), "dataflow is 'magic'"),
        (_with("split", "accelerator", "rf_mode"), "rf_mode is 'split'"),
        (_with([], "best", "mapping", 0, "temporal"), "factors of"),
        (_with("inner", "best", "mapping", 0, "level"), "levels are inner"),
        (_with(["weights"], "best", "mapping", 1, "keeps"), "bypassing"),
    ],
)
def test_a_malformed_case_of_the_mapper_is_named_in_one_line(compare, edit, message):
    cases = conformance.shipped_mapper_cases()
    edit(cases)
    status, out, error = compare(cases)
    assert (status, out) == (1, "")
    assert error.count("\n") == 1 and message in error
    assert cases[3]["name"] in error


def test_numbers_that_are_not_timeloops_end_the_comparison(compare):
    cases = [conformance.shipped_mapper_cases()[0]]
    cases[0]["best"]["energy_pj"] *= 1.01
    status, out, error = compare(cases)
    assert (status, out) == (1, "")
    assert error.count("\n") == 1 and cases[0]["name"] in error


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[1]", "[NaN]", "null"])
def test_a_file_that_is_no_mapper_reference(compare, text):
    status, out, error = compare(text)
    assert (status, out) == (1, "")
    assert error.count("\n") == 1 and "mapper.json" in error


def test_no_file_and_no_flag(capsys):
    for argv in (
        [],
        ["--reference=/no/such/file.json"],
        ["--reference=/"],
        ["--mapper_reference=/no/such/file.json"],
        ["--wires=/no/such/file.json"],
    ):
        argv = ["validate_cost_model", *argv]
        assert common.call(validate_cost_model.main, validate_cost_model.FLAGS, argv) == 1
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1
