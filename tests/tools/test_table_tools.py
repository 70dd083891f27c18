"""Tables of one's own on the command line: show_technology, cost_template, and what takes them."""

from __future__ import annotations

import csv
import json

import pytest

from dance_tf.config import HardwareConfig, MachineConfig
from dance_tf.export.networks import write_accelerator
from dance_tf.hardware.cost_table import cost_source
from dance_tf.hardware.technology import technology
from dance_tf.structs import Accelerator
from tools import build_cost_table, cost_template, evaluate_cost, search, show_technology
from tools import flags as common

#: One board of the tiny space, with two sizes of register file.
BOARDS = [
    "--preset=tiny",
    "--set=hardware.accelerators.pe_x=[16]",
    "--set=hardware.accelerators.pe_y=[16]",
    "--set=hardware.accelerators.rf_bytes=[64,128]",
    '--set=hardware.accelerators.dataflow=["row_stationary"]',
]


@pytest.fixture
def call(capsys):
    def run(tool, *flags):
        status = common.call(tool.main, tool.FLAGS, [tool.__name__.split(".")[-1], *flags])
        return status, *capsys.readouterr()

    return run


def _fails(result, says):
    status, out, error = result
    assert (status, out) == (1, "")
    assert says in error and error.count("\n") == 1, error


@pytest.fixture
def my_technology(call, tmp_path):
    """Write a changed copy of what show_technology prints; return its path."""

    def write(**figures):
        status, out, error = call(show_technology)
        assert (status, error) == (0, "")
        table = json.loads(out, parse_constant=pytest.fail)
        table["name"] = "mine"
        for key, value in figures.items():
            if key == "word_bits":
                table[key] = value
            else:
                table[key]["value"] = value
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(table), encoding="utf-8")
        return str(path)

    return write


def test_a_shipped_table_is_printed_as_it_lies_there(call, my_technology):
    for name in ("cacti_45nm", "accelergy_2020_45nm"):
        status, out, error = call(show_technology, f"--name={name}")
        assert status == 0 and json.loads(out)["name"] == name
        # What has less effect than it seems to have is said beside the table.
        assert error.count("note: ") == error.count("\n") == {"cacti_45nm": 0}.get(name, 2)
    path = my_technology(mac_pj=1.5)
    status, out, _ = call(show_technology, f"--name={path}")
    assert status == 0 and json.loads(out)["mac_pj"]["value"] == 1.5
    _fails(call(show_technology, "--name=cacti_28nm"), "did you mean 'cacti_45nm'?")
    _fails(call(show_technology, f"--name={my_technology(dram_pj=-1)}"), "dram_pj.value is -1")


def _evaluate(call, *flags):
    status, out, error = call(evaluate_cost, "--format=json", *flags)
    assert (status, error) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


@pytest.mark.parametrize("dataflow", ["weight_stationary", "output_stationary", "row_stationary"])
def test_mac_energy_is_the_tables_whatever_the_array(call, my_technology, dataflow):
    """6912 MACs at 2.5 pJ are 17280 pJ on 42 PEs and on 168; cycles and area differ."""
    reports = []
    for pe_x, pe_y in ((7, 6), (14, 12)):
        accelerator = f"pe_x={pe_x},pe_y={pe_y},rf_bytes=64,dataflow={dataflow}"
        report = _evaluate(
            call,
            "--layer=conv:K=4,C=3,P=8,Q=8,R=3,S=3",
            f"--accelerator={accelerator}",
            f"--set=hardware.machine.technology={my_technology(mac_pj=2.5)}",
            "--set=hardware.accelerators.pe_x=[7,14]",
            "--set=hardware.accelerators.pe_y=[6,12]",
        )
        assert report["macs"] == 6912
        assert report["energy_by_component_pj"]["mac"] == 17280
        assert report["compute_cycles"] >= 6912 / (pe_x * pe_y)
        reports.append(report)
    assert reports[0]["area_um2"] < reports[1]["area_um2"]
    assert reports[0]["compute_cycles"] >= reports[1]["compute_cycles"]


def test_cycles_are_bounded_by_the_array(call):
    """43008 MACs take at least 1024 cycles on 42 PEs and 256 on 168."""
    for pe_x, pe_y, least in ((7, 6, 1024), (14, 12, 256)):
        report = _evaluate(
            call,
            "--layer=conv:K=12,C=14,P=16,Q=16,R=1,S=1",
            f"--accelerator=pe_x={pe_x},pe_y={pe_y},rf_bytes=64,dataflow=weight_stationary",
            "--set=hardware.accelerators.pe_x=[7,14]",
            "--set=hardware.accelerators.pe_y=[6,12]",
        )
        assert report["macs"] == 43008
        assert report["compute_cycles"] == least  # the layer fits these arrays exactly
        assert report["latency_cycles"] >= least


def test_the_width_of_a_word_is_the_tables(call, my_technology):
    flags = [
        "--layer=dense:K=8,C=8",
        "--accelerator=pe_x=8,pe_y=8,rf_bytes=64,dataflow=weight_stationary",
        f"--set=hardware.machine.technology={my_technology(word_bits=8)}",
    ]
    _fails(call(evaluate_cost, *flags), "word_bits is 16, but technology")
    narrow = _evaluate(call, *flags, "--set=hardware.machine.word_bits=8")
    # 64 B hold twice the words, and a file is as large as its words.
    tech = technology("cacti_45nm")
    files_um2 = 64 * float(tech.register_file_um2(64))
    assert narrow["area_by_component_um2"]["register_files"] == pytest.approx(files_um2)


def test_a_table_is_cached_by_what_the_file_says(call, tmp_path, my_technology):
    def build(*flags):
        status, out, _ = call(build_cost_table, *BOARDS, f"--cache_dir={tmp_path / 'c'}", *flags)
        assert status == 0
        return json.loads(out)

    setting = f"--set=hardware.machine.technology={my_technology(mac_pj=1.0)}"
    first = build(setting)
    assert build(setting)["is_from_cache"]
    my_technology(mac_pj=100.0)
    second = build(setting)
    assert not second["is_from_cache"] and second["content_hash"] != first["content_hash"]
    assert second["energy_mj"]["min"] > 2 * first["energy_mj"]["min"]
    my_technology(mac_pj=1.0)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "named otherwise.json"
    (tmp_path / "mine.json").rename(moved)
    assert build(f"--set=hardware.machine.technology={moved}")["is_from_cache"]


def test_the_figures_of_a_run_are_those_that_are_evaluated(call, tmp_path, my_technology):
    """An accelerator.json whose technology has changed, or was measured, is not costed anew."""
    machine = MachineConfig(technology=my_technology(mac_pj=2.0))
    path, accelerator = tmp_path / "accelerator.json", Accelerator(8, 8, 64, "weight_stationary")
    flags = ["--layer=dense:K=8,C=8", f"--accelerator={path}"]
    source = cost_source(HardwareConfig(machine=machine))
    write_accelerator(path, accelerator, machine, {}, cost_source=source)
    assert _evaluate(call, *flags)["energy_by_component_pj"]["mac"] == 128
    my_technology(mac_pj=3.0)
    _fails(call(evaluate_cost, *flags), "mine.json has changed since; what it was then: --config=")
    settings = f"--set=hardware.machine.technology={machine.technology}"
    assert _evaluate(call, *flags, settings)["energy_by_component_pj"]["mac"] == 192
    write_accelerator(path, accelerator, machine, {}, cost_source={**source, "kind": "measured"})
    _fails(call(evaluate_cost, *flags), "its costs were measured")


# Measured tables


@pytest.fixture
def template(call, tmp_path):
    """Return the path of an empty template of BOARDS."""
    path = tmp_path / "my boards.csv"
    status, out, error = call(cost_template, *BOARDS, f"--output={path}")
    assert (status, error) == (0, "")
    summary = json.loads(out)
    assert summary["output"] == str(path) and summary["num_accelerators"] == 2
    assert summary["num_rows"] == 2 * summary["num_layers"]
    return path


def _fill(path):
    """Fill in a template: cycles are MACs over PEs, the larger register file saves a tenth."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        macs = 1
        for name in "NKCPQRS":
            macs *= int(row[name])
        saved = 0.9 if row["rf_bytes"] == "128" else 1.0
        row |= {"latency_ms": macs / 256 / 200e3 * saved, "energy_mj": macs * 3e-9}
        row["area_mm2"] = 1.0 if row["rf_bytes"] == "64" else 1.05
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_template_is_never_overwritten(call, template):
    before = template.read_bytes()
    _fails(call(cost_template, *BOARDS, f"--output={template}"), "may hold measurements")
    assert template.read_bytes() == before
    _fails(call(cost_template, *BOARDS), "--output is missing")


def test_from_template_to_search(call, template, tmp_path):
    table = [f"--set=hardware.measured_csv={template}", f"--cache_dir={tmp_path / 'cache'}"]
    run = [*BOARDS, *table, f"--output_dir={tmp_path / 'run'}", "--set=search.batch_size=1000"]
    run += ["--noretrain", "--set=search.epochs=2", "--set=search.warmup_epochs=1"]
    _fails(call(search, *run), "latency_ms is empty")
    assert not (tmp_path / "run").exists()
    _fill(template)
    status, out, _ = call(search, *run)
    assert status == 0
    result = json.loads(out)
    assert result["accelerator"]["rf_bytes"] == 128
    assert result["exact_cost"]["area_mm2"] == pytest.approx(1.05)
    accelerator = json.loads((tmp_path / "run" / "accelerator.json").read_text("utf-8"))
    assert accelerator["cost_source"]["kind"] == "measured"
    assert accelerator["cost_source"]["name"] == str(template)
    assert not (tmp_path / "run" / "technology.json").exists()
    # Other measurements are another run, under the same name of the file all the same.
    text = template.read_text("utf-8")
    template.write_text(text.replace(",1.05\n", ",1.5\n"), encoding="utf-8")
    (tmp_path / "run" / "result.json").unlink()
    status, out, error = call(search, *run, "--resume")
    assert (status, out) == (1, "")
    assert "costs have changed since the run" in error.splitlines()[-1]


def test_an_estimate_is_the_cost_models_table(call, tmp_path):
    path, cache = tmp_path / "estimate.csv", f"--cache_dir={tmp_path / 'cache'}"
    status, out, progress = call(cost_template, *BOARDS, f"--output={path}", "--estimate")
    assert status == 0 and "100%" in progress
    num_rows = json.loads(out)["num_rows"]
    summaries = []
    for flags in ([], [f"--set=hardware.measured_csv={path}"]):
        status, out, _ = call(build_cost_table, *BOARDS, cache, *flags)
        assert status == 0
        summaries.append(json.loads(out))
    same = ("latency_ms", "energy_mj", "area_mm2", "reference", "num_infeasible_cells")
    assert [summaries[0][key] for key in same] == [summaries[1][key] for key in same]
    assert summaries[1]["num_cost_model_calls"] == num_rows
    kinds = [summary["cost_source"]["kind"] for summary in summaries]
    assert kinds == ["loop_nest", "measured"]
    assert summaries[0]["content_hash"] != summaries[1]["content_hash"]
