"""python -m tools.search: from images to exports, an orderly end, one line for a mistake."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dance_tf.config import config_from_json, override
from dance_tf.export import networks, tflite
from dance_tf.files import read_json
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.technology import technology
from dance_tf.presets import preset
from dance_tf.run import reporting
from dance_tf.run.folder_lock import owned
from dance_tf.search import pipeline
from dance_tf.search.result import SearchResult
from dance_tf.search.retrain import retrain
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet, derive
from tools import flags as common
from tools import report, search

#: A search of seconds: one step an epoch, and two retraining steps.
QUICK = (
    "--preset=tiny",
    "--set=search.epochs=6",
    "--set=search.warmup_epochs=2",
    "--set=search.batch_size=1000",
    "--set=retrain.batch_size=500",
)
RESULT_FIELDS = {
    "schema_version",
    "architecture",
    "accelerator",
    "predicted_cost",
    "exact_cost",
    "exact_best_accelerator",
    "exact_best_cost",
    "evaluator_accelerator",
    "evaluator_accelerator_exact_cost",
    "accuracy",
    "int8_accuracy",
    "seed",
    "times",
    "num_trained_candidates",
    "num_cost_model_calls",
    "op_counts",
    "zero_share",
    "warnings",
    "objective",
    "versions",
    "is_deterministic",
    "arch_logits",
    "limits",
}


@pytest.fixture(scope="module")
def call(cache_dir):
    def call(*arguments):
        arguments = ["search", f"--cache_dir={cache_dir}", *arguments]
        return common.call(search.main, search.FLAGS, arguments)

    return call


@pytest.fixture(scope="module")
def printed(call, tmp_path_factory):
    """Folder of a whole run, and what it printed on stdout and stderr."""
    folder = tmp_path_factory.mktemp("runs") / "whole run"
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as error,
    ):
        assert call(*QUICK, f"--output_dir={folder}") == 0
    return folder, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def finished(printed):
    return printed[0]


def _result(folder):
    result = read_json(folder / "result.json")
    del result["times"]
    return result


def test_a_run_leaves_everything(finished):
    result = read_json(finished / "result.json")
    assert set(result) >= RESULT_FIELDS
    assert result["accuracy"]["split"] == "test" and result["accuracy"]["num_images"] == 359
    int8 = result["int8_accuracy"]
    assert int8["num_images"] == 359 and int8["float_value"] == result["accuracy"]["value"]
    assert abs(int8["value"] - int8["float_value"]) < 0.1 and int8["fine_tuned_value"] is None
    assert result["num_trained_candidates"] == 1 and result["is_deterministic"] is True
    assert result["versions"]["tensorflow"] and result["seed"] == 0
    assert {"wall_s", "search_s", "retrain_s"} <= set(result["times"])
    for name in ("predicted_cost", "exact_cost", "exact_best_cost"):
        cost = result[name]
        product = cost["latency_ms"] * cost["energy_mj"] * cost["area_mm2"]
        assert cost["edap_ms_mj_mm2"] == pytest.approx(product)
        assert cost["latency_cycles"] == round(cost["latency_ms"] * 200e3)
    accelerator, machine, cost = networks.read_accelerator(finished / "accelerator.json")
    assert vars(accelerator) == result["accelerator"] and cost == result["exact_cost"]
    config = config_from_json(read_json(finished / "config.json"))
    assert config == override(preset("tiny"), [a.removeprefix("--set=") for a in QUICK[1:]])
    assert machine == config.hardware.machine
    info = read_json(finished / "run_info.json")
    assert info["seed"] == 0 and info["wall_time_s"] > 0 and info["is_deterministic"] is True
    # The figures that were used can be given back, and are known by their hash.
    used = technology(os.fspath(finished / "technology.json"))
    assert used == technology("cacti_45nm")
    source = {"kind": "loop_nest", "name": "cacti_45nm", "sha256": used.sha256}
    assert info["cost_source"] == source and len(info["cost_table_sha256"]) == 64
    assert read_json(finished / "accelerator.json")["cost_source"] == source
    phases = [line["phase"] for line in reporting.read_history(finished / "history.jsonl")]
    assert phases == ["warmup"] * 2 + ["search"] * 4 + ["retrain"]
    assert len(SearchResult.load(finished).history) == 6
    exports = finished / "exports"
    network = networks.load_network(os.fspath(exports / "network.keras"))
    images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    logits = tflite.TFLiteClassifier(exports / "network.tflite").predict(images)
    np.testing.assert_allclose(logits, network(images), atol=1e-4)
    assert (exports / "saved_model" / "saved_model.pb").exists()
    assert (exports / "evaluator" / "1" / "saved_model.pb").exists()
    assert (finished / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_the_exact_cost_is_that_of_the_table(finished, cache_dir):
    result, config = SearchResult.load(finished), preset("tiny")
    space = make_space(config.space)
    table = load_or_build_table(space, config.hardware, cache_dir=cache_dir)
    metrics = table.metrics_of(space.to_indices(result.architecture)[None]).numpy()[0]
    edap = np.prod(metrics.astype(np.float64), axis=-1)
    row = table.accelerators.encode(result.accelerator)
    assert edap[row] == pytest.approx(result.exact_cost.edap_ms_mj_mm2, rel=1e-5)
    assert edap[row] == pytest.approx(edap.min(), rel=1e-5)
    assert result.num_cost_model_calls == table.num_cost_model_calls > 54


def test_the_summary_says_where_and_a_finished_run_is_not_repeated(call, printed, capsys):
    folder, out, error = printed
    summary = json.loads(out)
    assert summary["output_dir"] == str(folder)
    assert summary["architecture"] == _result(folder)["architecture"]
    for path in summary["files"].values():
        assert os.path.exists(path)
    assert {"report", "result", "accelerator", "saved_model", "tflite", "tflite_int8"} <= set(
        summary["files"]
    )
    assert "warmup 100%" in error and "search 100%" in error
    before = os.stat(folder / "result.json")
    assert call(*QUICK, "--resume", f"--output_dir={folder}") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == summary and "nothing is left to do" in captured.err
    assert os.stat(folder / "result.json").st_mtime_ns == before.st_mtime_ns


def test_same_seed_same_search(call, finished, tmp_path):
    again = tmp_path / "again"
    assert call(*QUICK, "--noretrain", f"--output_dir={again}") == 0
    results = [_result(folder) for folder in (again, finished)]
    for name in ("architecture", "accelerator", "arch_logits", "exact_cost", "predicted_cost"):
        assert results[0][name] == results[1][name]
    histories = [(folder / "history.jsonl").read_bytes() for folder in (again, finished)]
    assert histories[1].startswith(histories[0]) and histories[0].count(b"\n") == 6


def test_the_report_is_written_anew_with_every_part(finished, cache_dir, tmp_path, capsys):
    output = tmp_path / "again.html"
    arguments = [f"--run_dir={finished}", f"--output={output}", f"--baseline_dir={finished}"]
    arguments = ["report", *arguments, f"--cache_dir={cache_dir}"]
    assert common.call(report.main, report.FLAGS, arguments) == 0
    assert capsys.readouterr().out == f"{output}\n"
    text, first = output.read_text("utf-8"), (finished / "report.html").read_text("utf-8")
    assert "left-out" not in first.partition("</style>")[2]
    assert "Energy by component" in first and "depthwise" in first
    largest = "Baseline: the largest network"
    assert largest in first and largest not in text and "Baseline" in text


def test_limits_hold_and_the_range_within_reach_is_said(
    call, finished, without_tracing, tmp_path, capsys
):
    """A limit just below what the run without limits costs."""
    folder, free = tmp_path / "run", _result(finished)["exact_cost"]
    latency, area = free["latency_ms"] * 0.999, free["area_mm2"] * 1.5
    limits = (f"--max_latency_ms={latency}", f"--max_area_mm2={area}")
    assert call(*QUICK, *limits, "--noretrain", f"--output_dir={folder}") == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    cost = summary["exact_cost"]
    assert cost["latency_ms"] <= latency and cost["area_mm2"] <= area
    assert summary["limits"]["max_latency_ms"] == latency
    assert summary["limits"]["max_energy_mj"] is None
    (line,) = [x for x in captured.err.splitlines() if x.startswith("within reach")]
    low, high = (float(x) for x in line.split("latency_ms ")[1].split(",")[0].split(" to "))
    assert low <= cost["latency_ms"] <= free["latency_ms"] <= high


def test_the_network_of_a_run_can_be_looked_up(call, finished, tmp_path, capsys):
    first, folder = _result(finished), tmp_path / "lookup"
    architecture = f"--fixed_architecture={finished / 'result.json'}"
    assert call("--preset=tiny", architecture, f"--output_dir={folder}") == 0
    capsys.readouterr()
    found = read_json(folder / "result.json")
    for name in ("architecture", "accelerator", "exact_cost", "predicted_cost"):
        assert found[name] == first[name]
    assert found["num_weight_steps"] == found["num_trained_candidates"] == 0
    assert found["accuracy"] is None and found["arch_logits"] == []
    assert not (folder / "history.jsonl").exists() and (folder / "accelerator.json").exists()
    assert "fixed_architecture" in (folder / "config.json").read_text()


def test_the_accelerator_can_be_fixed(without_tracing, call, tmp_path):
    fixed = "pe_x=16,pe_y=12,rf_bytes=64,dataflow=row_stationary"
    folder = tmp_path / "network"
    arguments = (*QUICK, f"--fixed_accelerator={fixed}", "--noretrain", f"--output_dir={folder}")
    assert call(*arguments) == 0
    found = _result(folder)
    assert ",".join(f"{k}={v}" for k, v in found["accelerator"].items()) == fixed
    assert found["evaluator_accelerator"] == found["accelerator"]
    assert found["predicted_cost"]["latency_ms"] == pytest.approx(found["exact_cost"]["latency_ms"])
    assert found["exact_best_cost"]["objective"] <= found["exact_cost"]["objective"]
    config = config_from_json(read_json(folder / "config.json"))
    assert vars(config.search.fixed_accelerator) == found["accelerator"]


def test_without_retraining_there_is_no_accuracy_and_later_there_is(
    without_tracing, call, tmp_path, capsys
):
    folder = tmp_path / "run"
    product = ("--objective=product", "--objective_weights=2,1,0.5")
    assert call(*QUICK, "--noretrain", *product, f"--output_dir={folder}") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["accuracy"] is None and "not retrained" in summary["accuracy_reason"]
    result = _result(folder)
    assert result["num_trained_candidates"] == 0 and result["objective"]["kind"] == "product"
    weights = {"latency_ms": 2.0, "energy_mj": 1.0, "area_mm2": 0.5}
    assert result["objective"]["weights"] == weights
    resumed = (*QUICK, *product, "--resume", "--noexport", f"--output_dir={folder}")
    assert call(*resumed) == 0
    later = _result(folder)
    assert later["accuracy"]["split"] == "test" and later["arch_logits"] == result["arch_logits"]


def _snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} | {
        path: None for path in sorted(folder.rglob("*")) if path.is_dir()
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--output_dir is missing"),
        (["--output_dir={out}", "--preset=tinny"], "did you mean 'tiny'"),
        (["--output_dir={out}", "--set=search.epoch=2"], "did you mean 'epochs'"),
        (["--output_dir={out}", "--set=search.arch_gradient=three_path"], "not one of"),
        (["--output_dir={out}", *QUICK, "--objective_weights=2,1,1"], "EDAP has its own weights"),
        (["--output_dir={out}", *QUICK, "--objective_weights=2,1"], "three numbers are needed"),
        (["--output_dir={out}", "--preset=tiny", "--set=search.warmup_epochs=2"], "leaves no"),
        (["--output_dir={out}", *QUICK, "--dataset=digit"], "did you mean 'digits'"),
        (["--output_dir={out}", *QUICK, "--dataset=cifar10", "--data_dir={tmp}"], "prepare_data"),
        (["--output_dir={out}", *QUICK, "--set=space.name=tiny_mbcon"], "did you mean"),
        (["--output_dir={out}", *QUICK, "--set=space.num_classes=4"], "has 10 classes"),
        (["--output_dir={out}", *QUICK, "--set=search.arch_every=50"], "would never move"),
        (["--output_dir={out}", *QUICK, "--max_latency_ms=1e-6"], "out of reach: the least is"),
        (["--output_dir={out}", *QUICK, "--max_area_mm2=0"], "not within"),
        (["--output_dir={out}", *QUICK, "--fixed_accelerator=pe_x=8"], "pe_y, rf_bytes, dataflow"),
        (
            [
                "--output_dir={out}",
                *QUICK,
                "--fixed_accelerator=pe_x=9,pe_y=8,rf_bytes=16,dataflow=row_stationary",
            ],
            "pe_x = 9 is outside the space",
        ),
        (["--output_dir={out}", *QUICK, "--fixed_architecture=zero,zero"], "is not allowed"),
        (["--output_dir={out}", *QUICK, "--fixed_architecture={tmp}/a.json"], "a.json"),
        (
            [
                "--output_dir={out}",
                *QUICK,
                "--set=retrain.initial_weights=inherited",
                "--fixed_architecture=mbconv3_e3,zero",
                "--retrain",
            ],
            "needs a trained supernet",
        ),
        (["--output_dir={out}", *QUICK, "--evaluator=neural"], "--evaluator=exact"),
        (["--output_dir={tmp}", *QUICK], "is not empty: add --resume"),
        (["--output_dir={tmp}", "--resume", *QUICK], "no config.json"),
        (["--output_dir={tmp}/a file", *QUICK], "is a file"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(call, tmp_path, capsys, arguments, says):
    (tmp_path / "a file").write_text("mine")
    before = _snapshot(tmp_path)
    assert call(*(a.format(tmp=tmp_path, out=tmp_path / "out") for a in arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and says in _mistake(captured.err)
    assert _snapshot(tmp_path) == before


def _mistake(text):
    """Return the one line on a mistake; warnings may stand before it."""
    *others, mistake = text.splitlines()
    assert all(line.startswith("warning: ") for line in others), text
    assert mistake.startswith("search: ")
    return mistake


def test_retraining_may_start_from_what_the_search_has_trained(
    without_tracing, call, tmp_path, monkeypatch
):
    given = []

    def spy(*arguments, supernet, **options):
        given.append((arguments[1], derive(supernet), supernet.get_weights()))
        return retrain(*arguments, supernet=supernet, **options)

    monkeypatch.setattr(pipeline, "retrain", spy)
    inherited = "--set=retrain.initial_weights=inherited"
    assert call(*QUICK, inherited, "--noexport", f"--output_dir={tmp_path / 'run'}") == 0
    ((architecture, derived, weights),) = given
    assert architecture == derived == SearchResult.load(str(tmp_path / "run")).architecture
    config = config_from_json(read_json(tmp_path / "run" / "config.json"))
    fresh = Supernet(make_space(config.space, 10), config.seed, config.search.supernet)
    assert any((a != b).any() for a, b in zip(weights, fresh.get_weights(), strict=True))


def test_a_run_is_resumed_with_its_own_configuration_only(call, finished, capsys):
    before = _snapshot(finished)
    assert call(*QUICK, "--seed=1", "--resume", f"--output_dir={finished}") == 1
    assert "seed = 0, this run 1" in capsys.readouterr().err
    assert call(*QUICK, "--set=search.lambda_2=0.3", "--resume", f"--output_dir={finished}") == 1
    assert "search.lambda_2 = 0.1, this run 0.3" in capsys.readouterr().err
    assert _snapshot(finished) == before


def test_what_a_finished_run_has_lost_is_made_again(call, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    lost = ("accelerator.json", "technology.json", "exports/network.tflite", "report.html")
    for name in (*lost, "exports/saved_model/variables/variables.index", "exports/export.json"):
        (folder / name).unlink()
    assert call(*QUICK, "--resume", f"--output_dir={folder}") == 0
    error = capsys.readouterr().err
    assert f"{folder} is finished but lacks accelerator.json, technology.json" in error
    for name in ("accelerator.json", "technology.json"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    assert pipeline.missing_exports(str(folder / "exports")) == []
    assert (folder / "report.html").exists() and _result(folder) == _result(finished)
    (folder / "history.jsonl").unlink()
    assert call(*QUICK, "--resume", f"--output_dir={folder}") == 0
    error = capsys.readouterr().err
    assert "lacks history.jsonl: not made again" in error and "nothing is left to do" in error


def test_of_two_at_once_the_second_is_refused(call, finished, capsys):
    before = _snapshot(finished)
    with ThreadPoolExecutor() as threads, owned(finished):
        arguments = (*QUICK, "--resume", f"--output_dir={finished}")
        assert threads.submit(call, *arguments).result() == 1
    error = capsys.readouterr().err
    assert "is in use by process" in error and error.count("\n") == 1
    assert _snapshot(finished) == before


def test_damaged_tables_end_in_one_line(call, finished, cache_dir, tmp_path, capsys):
    key = read_json(finished / "run_info.json")["cost_table_sha256"][:16]
    shutil.copytree(cache_dir / f"table_{key}", tmp_path / f"table_{key}")
    table = tmp_path / f"table_{key}" / "latency_ms.npy"
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    arguments = (*QUICK, f"--cache_dir={tmp_path}", f"--output_dir={tmp_path / 'new'}")
    assert call(*arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "corrupted" in error and not (tmp_path / "new").exists()
