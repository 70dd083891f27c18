"""The manual's measured results are those of the files that its commands wrote."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.repo import evaluator_rows, search_rows, strategy_rows
from tests.repo.source import ROOT

MEASURED = (ROOT / "docs/measured_results.md").read_text(encoding="utf-8")
RUNS = {
    name: json.loads((ROOT / f"studies/results/{name}.json").read_text(encoding="utf-8"))
    for name in ("digits", "cifar10_small")
}


def _cost(cost: dict[str, Any]) -> str:
    latency, energy, area = (cost[k] for k in ("latency_ms", "energy_mj", "area_mm2"))
    return f"{latency:.4f} ms, {energy:#.4g} mJ, {area:.4f} mm2"


def _cells(run: dict[str, Any]) -> dict[str, str]:
    result, exports, times = run["result"], run["exports"], run["result"]["times"]
    accelerator = result["accelerator"]
    formats = ("tflite", "tflite_int8")
    agreement = [f"{exports[f]['top1_agreement']:.1%}".replace("%", " %") for f in formats]
    accuracies = [exports["keras_test_accuracy"], *(exports[f]["test_accuracy"] for f in formats)]
    return {
        "accuracy of": f"{100 * result['accuracy']['value']:.2f} %",
        "latency, energy, area": _cost(result["exact_cost"]),
        "the same, predicted": _cost(result["predicted_cost"]),
        "EDAP, relative": f"{result['exact_cost']['objective']:.3f}",
        "accelerator": (
            f"{accelerator['pe_x']} x {accelerator['pe_y']} PEs, {accelerator['rf_bytes']} B,"
            f" {accelerator['dataflow']}"
        ),
        "TFLite float / int8": " / ".join(agreement),
        "accuracy on these": " / ".join(f"{100 * value:.1f}" for value in accuracies) + " %",
        "search / retraining": f"{times['search_s']:.0f} s / {times['retrain_s']:.0f} s",
    }


def _row(start: str) -> list[str]:
    (row,) = [line for line in MEASURED.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in row.strip("|").split("|")[1:]]


@pytest.mark.parametrize("start", _cells(RUNS["digits"]))
def test_run(start: str):
    assert _row(start) == [_cells(run)[start] for run in RUNS.values()]


def _figure(report: dict[str, Any], name: str, digits: int, scale: float = 1.0) -> str:
    """Return a figure of a report of tools.benchmark: median, then smallest to largest."""
    spread = report["spread"][name]
    values = (report[name], spread["min"], spread["max"])
    median, least, most = (f"{scale * value:,.{digits}f}" for value in values)
    return f"{median} ({least} to {most})"


def _benchmark_rows(report: dict[str, Any]) -> dict[str, str]:
    """Return the rows of a report of the suite cost_model."""
    figure = functools.partial(_figure, report)
    return {
        "mappings evaluated per second": f"{figure('mappings_per_s', 1, 1e-6)} million",
        "the same over the small layers": f"{figure('table_mappings_per_s', 1, 1e-6)} million",
        "whole default table, from nothing": (
            f"{figure('table_build_s', 1)} s, {report['peak_memory_mb'] / 1e3:.2f} GB resident,"
            f" {report['table_mb']:.1f} MB on disk"
        ),
        "exact best accelerator of one network": f"{figure('oracle_ms_per_network', 2)} ms",
        f"exact best accelerators of {report['num_networks']:,} networks": (
            f"{report['num_networks'] / report['oracle_networks_per_s']:.2f} s"
        ),
        "MobileNetV2 at 224": f"{figure('keras_application_s', 1)} s",
    }


def test_benchmark():
    path = ROOT / "studies/results/benchmark_cost_model.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for start, text in _benchmark_rows(report).items():
        assert _row(start) == [text]
    assert report["mappings_per_s"] > 1e6 > report["baseline"]["mappings_per_cpu_s"]


def test_benchmark_of_the_evaluator():
    path = ROOT / "studies/results/benchmark_evaluator.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    figure = functools.partial(_figure, report)
    rows = {
        "one query, TFLite": f"{figure('tflite_ms', 3)} ms",
        "the same with the checks": f"{figure('tflite_checked_ms', 3)} ms",
        "one query, SavedModel": f"{figure('saved_model_ms', 2)} ms",
        "one query, exact table": f"{figure('exact_ms', 2)} ms",
        "queries per second in batches, SavedModel": figure("batched_per_s", 0),
        "queries per second in batches, exact table": figure("exact_batched_per_s", 0),
        "labels of 50,000 architectures": f"{figure('labels_s', 1)} s",
        "training of both networks": f"{report['train_s']:.0f} s",
    }
    for start, text in rows.items():
        assert _row(start) == [text]
    assert report["space"] == "cifar_mbconv" and report["batch_size"] == 1024


def test_benchmark_of_the_search():
    report = search_rows.read("benchmark_search")
    figure = functools.partial(_figure, report)
    rows = {
        "a weight step": f"{figure('weight_step_s', 3)} s",
        "an architecture step without": f"{figure('architecture_step_no_cost_s', 3)} s",
        "added by the neural evaluator": f"{figure('neural_added', 1, 100)} %",
        "added by the exact evaluator": f"{figure('exact_added', 1, 100)} %",
    }
    for start, text in rows.items():
        assert _row(start) == [text]
    assert report["neural_added"] <= 0.05 and report["arch_every"] == 4


def test_benchmark_of_the_supernets():
    report = search_rows.read("benchmark_supernet")
    row = _row("a step of all candidates / of `superkernel`")
    steps = ("train_path", "train"), ("gate_gradient", "gate_gradient")
    ratios = [
        report[f"all_candidates_{all_}_s"] / report[f"superkernel_{own}_s"] for own, all_ in steps
    ]
    assert row == [f"{ratios[0]:.1f} for the weights, {ratios[1]:.1f} for the gates"]
    assert min(ratios) >= 3


def test_peers():
    path = ROOT / "studies/results/peers_zigzag.json"
    peers = json.loads(path.read_text(encoding="utf-8"))
    metrics = ("cycles", "energy_pj")
    groups = {
        f"rank correlation (Spearman), all {peers['num_pairs']} pairs": "all",
        "convolutions and dense": "conv",
        "depthwise layers": "depthwise",
        "within one layer": "within_layers",
    }
    for start, group in groups.items():
        assert _row(start) == [f"{peers['rank_correlation'][m][group]:.3f}" for m in metrics]
    ratios = [peers["ours_over_zigzag"][m] for m in metrics]
    assert _row("ours / ZigZag") == [
        f"{r['median']:.3f} ({r['min']:.3f} to {r['max']:.3f})" for r in ratios
    ]
    for metric in metrics:
        assert min(peers["rank_correlation"][metric][g] for g in ("conv", "depthwise")) > 0.9


def test_runs_reach_what_they_are_for():
    digits, cifar10 = (run["result"]["accuracy"] for run in RUNS.values())
    assert digits["split"] == cifar10["split"] == "test"
    assert digits["value"] >= 0.97
    assert cifar10["value"] > 0.75
    assert cifar10["num_images"] == 10_000


def _assert_written(texts_of_files: list[tuple[Path, str, str]]) -> None:
    """Compare what stands between the marks of files with what belongs there."""
    for path, name, between in texts_of_files:
        begin, end = evaluator_rows.marks(name)
        text = path.read_text(encoding="utf-8")
        assert text.partition(begin)[2].partition(end)[0] == between, (path.name, name)


def test_evaluators():
    """`python -m tests.repo.evaluator_rows` writes them."""
    _assert_written(evaluator_rows.texts())


def test_searches():
    """`python -m tests.repo.search_rows` writes them."""
    _assert_written(search_rows.texts())


def test_searches_are_of_the_shipped_supernet_and_three_seeds():
    sweep = search_rows.read("sweep_cifar10_small")
    assert {point["search"]["seed"] for point in sweep["points"]} == {0, 1, 2}
    shipped = json.loads(
        (ROOT / "saved_models/supernet_cifar_mbconv_small/supernet.json").read_text("utf-8")
    )
    assert sweep["supernet_sha256"] == shipped["weights_sha256"]
    trained = search_rows.read("findings_cifar10_small")["trained"]
    trainings = search_rows.read("trained_cifar10_small")
    assert trainings["config"]["retrain"]["epochs"] == trained["epochs"] == 24
    assert sum(row["is_spread"] for row in trainings["networks"]) == 12


def test_strategies():
    """`python -m tests.repo.strategy_rows` writes them."""
    _assert_written(strategy_rows.texts())


def test_int8_accuracy():
    report = search_rows.read("int8_accuracy")
    rows = {f"inherited, {number}": row for number, row in enumerate(report["inherited"], start=1)}
    plain, large = report["retrained"]
    rows |= {"retrained": plain["before"], "the same, fine-tuned": plain["after"]}
    start = f"retrained, one channel {large['factor']:g} times larger"
    rows |= {start: large["before"], "that, fine-tuned": large["after"]}
    names = ("float", "fake_16", "fake_8", "int8", "agreement_fake_8", "agreement_float")
    for start, row in rows.items():
        assert _row(f"{start} |") == [f"{100 * row[name]:.2f} %" for name in names]
    # Post-training quantisation costs the networks of the space little.
    assert all(row["float"] - row["int8"] < 0.003 for row in report["inherited"])
    assert large["after"]["int8"] > large["before"]["int8"] + 0.003


def test_labels():
    sets = [
        json.loads((ROOT / f"studies/results/labels_{space}.json").read_text("utf-8"))
        for space in ("cifar_mbconv", "cifar_mbconv_small")
    ]
    kinds = {
        "edap": "EDAP",
        "random_products": "random products",
        "random_linear": "random linear",
        "single_metrics": "single metrics",
    }
    for kind, name in kinds.items():
        cells = []
        for labels in sets:
            found = labels["statistics"]["objectives"][kind]
            heads = ", ".join(f"{bits:.2f}" for bits in found["head_entropy_bits"].values())
            loss = 100 * found["one_for_all"]["mean_loss"]
            cells.append(f"{heads}; {found['num_ever_best']}; {loss:.2f} %")
        assert _row(f"labels, {name}") == cells
    assert _row("ever best, over") == [str(s["statistics"]["num_ever_best"]) for s in sets]
    assert _row("seconds of a core for 50,000") == [
        f"{s['without_writing']['cpu_s']:.1f} s, {s['cpu_s']:.1f} s" for s in sets
    ]
    assert all(s["statistics"]["num_pairs"] == 1_800_000 for s in sets)
