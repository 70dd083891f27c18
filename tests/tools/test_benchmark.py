"""The command line benchmark: medians, spread, processes of their own."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import cost_model as library
from dance_tf.errors import UserError
from dance_tf.evaluator import training
from dance_tf.hardware import cost_table
from tests.evaluator.fake_table import make_fake_table
from tools import benchmark, fresh_process
from tools import flags as common

NAMES = {
    "mappings_per_s",
    "table_mappings_per_s",
    "table_build_s",
    "table_build_cpu_s",
    "peak_memory_mb",
    "oracle_ms_per_network",
    "oracle_networks_per_s",
    "keras_application_s",
    "keras_application_cpu_s",
}


def _call(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    status = common.call(benchmark.main, benchmark.FLAGS, ["benchmark", *flags])
    return status, *capsys.readouterr()


EVALUATOR_NAMES = {
    *(f"{name}_ms" for name in ("keras", "saved_model", "tflite", "tflite_checked", "exact")),
    *(f"{name}_per_s" for name in ("batched", "exact_batched")),
}


ON_ALL_CORES = {f"{name}_{unit}" for name in ("labels", "train") for unit in ("s", "cpu_s")}


def _check(report: dict, num_runs: int) -> None:
    _check_spread(report, NAMES, num_runs)
    assert report["baseline"]["mappings_per_cpu_s"] == 640 and report["baseline"]["source"]


def _check_spread(report: dict, names: set[str], num_runs: int) -> None:
    assert set(report["spread"]) == names
    for name in names:
        spread = report["spread"][name]
        assert spread["runs"] == num_runs
        assert 0 < spread["min"] <= report[name] <= spread["max"]
    assert report["machine"]["cpu"] and report["machine"]["memory_gib"]
    assert report["versions"]["tensorflow"]


def test_report_is_the_median_of_each_measure(monkeypatch, capsys, tmp_path):
    """With three runs whose times are known; nothing is built."""
    calls: list[tuple[str, ...]] = []

    def fresh(tool: str, *arguments: str) -> fresh_process.FreshRun:
        calls.append((tool, *arguments))
        for argument in arguments:
            if argument.startswith("--cache_dir="):
                folder = argument.partition("=")[2]
                assert folder not in str(calls[:-1])  # an empty cache each time
                benchmark.pathlib.Path(folder).mkdir()
                benchmark.pathlib.Path(folder, "table").write_bytes(b"x" * 5_000)
        return fresh_process.FreshRun({}, float(len(calls) ** 2), 2.0, 100.0 * len(calls))

    monkeypatch.setattr(benchmark, "run_fresh", fresh)
    mapper = library.MapperSpeed(2, 600, 1.5, [1.0, 3.0, 2.0])
    oracle = library.OracleSpeed(50_000, 0.5, [0.002, 0.001, 0.003], [5.0, 4.0, 10.0])
    monkeypatch.setattr(library, "measure_mapper", lambda *a, **k: mapper)
    monkeypatch.setattr(library, "measure_oracle", lambda *a, **k: oracle)
    monkeypatch.setattr("dance_tf.hardware.cost_table.load_or_build_table", lambda *a, **k: None)
    status, out, error = _call(capsys, "--suite=cost_model", "--runs=3")
    assert (status, error) == (0, "")
    report = json.loads(out, parse_constant=pytest.fail)
    _check(report, 3)
    assert report["suite"] == "cost_model"
    assert [call[0] for call in calls] == ["evaluate_cost"] * 3 + ["build_cost_table"] * 3
    assert "--application=MobileNetV2" in calls[0] and "--input_size=224" in calls[0]
    assert (report["keras_application_s"], report["keras_application_cpu_s"]) == (4.0, 2.0)
    assert (report["table_build_s"], report["peak_memory_mb"]) == (25.0, 500.0)
    assert report["table_mb"] == 0.005
    assert report["mappings_per_s"] == 300.0
    assert report["spread"]["mappings_per_s"] == {"min": 200.0, "max": 600.0, "runs": 3}
    assert report["oracle_ms_per_network"] == 2.0
    assert report["oracle_networks_per_s"] == 10_000.0
    assert report["num_accelerators"] == 4335 and report["compile_s"] == 1.5
    assert (report["oracle_first_s"], report["num_layers"]) == (0.5, 2)


def test_the_evaluator_is_asked_on_one_core_and_trained_on_all(monkeypatch, capsys):
    """With three runs whose numbers are known; nothing is asked or trained."""
    calls = []

    def fresh(tool: str, *arguments: str, environment=None) -> fresh_process.FreshRun:
        calls.append((tool, arguments, environment))
        if tool == "build_labels":
            return fresh_process.FreshRun(
                {"wall_s": float(len(calls)), "cpu_s": 9.0}, 60.0, 90.0, 100.0
            )
        median = {"keras_ms": float(len(calls)), "exact_per_s": 100.0 / len(calls)}
        facts = {"space": "s", "num_accelerators": 2, "num_queries": 3, "batch_size": 4}
        return fresh_process.FreshRun({**median, "spread": {**median}, **facts}, 60.0, 90.0, 100.0)

    monkeypatch.setattr(benchmark, "run_fresh", fresh)
    status, out, error = _call(capsys, "--suite=evaluator")
    assert (status, error) == (0, "")
    report = json.loads(out)
    assert [call[0] for call in calls] == [
        *["benchmark"] * 3,
        *["build_labels"] * 3,
        "train_evaluator",
    ]
    for _, arguments, environment in calls[:3]:
        assert arguments == ("--suite=evaluator_queries", "--runs=1")
        assert environment["TF_NUM_INTRAOP_THREADS"] == "1"
    for _, arguments, environment in calls[3:]:
        assert arguments[0] == "--preset=cifar10" and environment is None
    assert all("--nowrite" in arguments for _, arguments, _ in calls[3:6])
    assert (report["labels_s"], report["labels_cpu_s"]) == (5.0, 9.0)
    assert (report["train_s"], report["train_cpu_s"]) == (60.0, 90.0)
    assert report["spread"]["keras_ms"] == {"min": 1.0, "max": 3.0, "runs": 3}
    assert (report["keras_ms"], report["exact_per_s"], report["batch_size"]) == (2.0, 50.0, 4)


def test_queries_are_answered_by_all_ways(without_tracing, monkeypatch, capsys):
    """A hardly trained evaluator of a made-up table."""
    monkeypatch.setattr(cost_table, "load_or_build_table", lambda *a, **k: make_fake_table())
    monkeypatch.setattr(training, "_NUM_CANDIDATE_DRAWS", 1024)
    monkeypatch.setattr(training, "_NUM_ASSESSED", 16)
    status, out, error = _call(capsys, "--suite=evaluator_queries", "--quick")
    assert status == 0, error
    report = json.loads(out, parse_constant=pytest.fail)
    _check_spread(report, EVALUATOR_NAMES, 1)
    assert (report["space"], report["num_accelerators"]) == ("tiny_mbconv", 54)


def test_a_process_of_its_own_is_timed_and_weighed(monkeypatch, tmp_path):
    """A stand-in for Python, which holds 300 MB and answers with its arguments."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys, time\n"
        "held = bytearray(300_000_000)\n"
        "held[::1024] = b'x' * len(held[::1024])\n"
        "time.sleep(0.2)\n"
        "print(json.dumps({'arguments': sys.argv[1:]}))\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(fresh_process.sys, "executable", str(program))
    run = fresh_process.run_fresh("some_tool", "--flag=1")
    assert run.output == {"arguments": ["-m", "tools.some_tool", "--flag=1"]}
    assert run.wall_s > 0.2 and 0 < run.cpu_s < run.wall_s + 1
    assert run.peak_memory_mb > 300


def test_a_tool_that_fails_ends_the_benchmark(capfd):
    with pytest.raises(UserError, match="build_cost_table --preset=nothing ended with status 1"):
        fresh_process.run_fresh("build_cost_table", "--preset=nothing")
    assert "nothing" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"), [("--suite=speed", "cost_model"), ("--runs=0", "runs")]
)
def test_a_wrong_flag_is_one_line(capsys, flag, message):
    status, out, error = _call(capsys, flag)
    assert (status, out) == (2, "")
    assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_steps_of_both_supernets_are_measured(capsys):
    status, out, error = _call(capsys, "--suite=supernet", "--quick")
    assert status == 0, error
    report = json.loads(out, parse_constant=pytest.fail)
    kinds = {"train_path", "gate_gradient", "score_function"}
    names = {f"{net}_{kind}_s" for net in ("proxyless", "superkernel") for kind in kinds}
    _check_spread(report, names | {f"all_candidates_{k}_s" for k in ("train", "gate_gradient")}, 1)


@pytest.mark.slow
def test_steps_of_the_search_are_measured_with_and_without_a_cost(capsys):
    status, out, error = _call(capsys, "--suite=search", "--quick")
    assert status == 0, error
    report = json.loads(out, parse_constant=pytest.fail)
    steps = {"weight_step_s", "architecture_step_no_cost_s", "architecture_step_exact_s"}
    added = report["spread"].pop("exact_added")  # noise can make it negative
    assert added["min"] == added["max"] == report["exact_added"] < 10
    _check_spread(report, steps, 1)


@pytest.mark.slow
def test_quick_run_of_the_evaluator_measures_everything(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    status, out, error = _call(capsys, "--suite=evaluator", "--quick")
    assert status == 0, error
    report = json.loads(out, parse_constant=pytest.fail)
    _check_spread(report, {*EVALUATOR_NAMES, *ON_ALL_CORES}, 1)


@pytest.mark.slow
def test_quick_run_measures_everything(capsys):
    status, out, error = _call(capsys, "--quick")
    assert status == 0, error
    report = json.loads(out, parse_constant=pytest.fail)
    _check(report, 1)
    assert report["num_mappings"] > 10_000
    assert error.count("benchmark: ") >= 6
