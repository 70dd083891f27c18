"""Export to MLflow: what a store holds of a run and of a sweep, and what is refused."""

from __future__ import annotations

import json
import pathlib

import pytest

from tools import export_mlflow
from tools import flags as common


def _call(capsys, *given: str) -> tuple[int, str, str]:
    status = common.call(export_mlflow.main, export_mlflow.FLAGS, ["export_mlflow", *given])
    return status, *capsys.readouterr()


def _write(folder: pathlib.Path, **files: object) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / f"{name}.json").write_text(json.dumps(data))


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "sweep"
    _write(folder, config={"seed": 3, "search": {"epochs": 2}}, pareto={"hypervolume": 0.25})
    search = folder / "searches" / "EDAP_lambda1_seed3"
    costs = {"latency_ms": 0.5, "energy_mj": 0.1}
    _write(search, result={"exact_cost": costs, "zero_share": 0.0, "is_deterministic": True})
    lines = [{"step": s, "phase": "search", "cross_entropy": 2.0 / s} for s in (1, 2)]
    (search / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_folder_without_results_and_a_missing_package_are_one_line(
    sweep, tmp_path, capsys, monkeypatch
):
    store = f"--mlflow_dir={tmp_path / 'store'}"
    status, _, error = _call(capsys, f"--run_dir={tmp_path}", store)
    assert status == 1 and "holds none of result.json" in error
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, error = _call(capsys, f"--run_dir={sweep}", store)
    assert status == 1 and "pip install 'dance_tf[mlflow]'" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "store").exists()


def test_a_sweep_and_its_searches_are_runs_of_the_store(sweep, tmp_path, capsys):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed (dance_tf[mlflow])")
    store = tmp_path / "store"
    status, out, error = _call(capsys, f"--run_dir={sweep}", f"--mlflow_dir={store}")
    assert status == 0, error
    client = mlflow.MlflowClient(tracking_uri=store.as_uri())
    of_sweep = client.get_run(out.strip())
    assert of_sweep.data.params == {"seed": "3", "search.epochs": "2"}
    assert of_sweep.data.metrics == {"hypervolume": 0.25}
    assert {file.path for file in client.list_artifacts(out.strip())} == {
        "config.json",
        "pareto.json",
    }
    experiment = client.get_experiment_by_name("dance_tf").experiment_id
    runs = client.search_runs([experiment])
    (search,) = (run for run in runs if run.data.tags.get("mlflow.parentRunId") == out.strip())
    assert search.data.metrics["exact_cost.latency_ms"] == 0.5
    curve = client.get_metric_history(search.info.run_id, "search.cross_entropy")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0)]
