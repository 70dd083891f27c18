"""The count of kept limits, on searches with a known cross-entropy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dance_tf.search import pipeline
from studies import limits_hits
from tests.evaluator.fake_table import make_fake_table
from tests.search.problems import ScoredSupernet, make_problem

TINY = (
    "--preset=tiny",
    "--supernet_dir=nowhere",
    "--num_seeds=2",
    "--shares=0.8,1",
    "--set=search.batch_size=32",
    "--set=search.epochs=8",
    "--set=search.lambda_2=0.001",
)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Return a call of the script; it gives limits.json and what was printed."""
    table = make_fake_table()
    # Accurate where it is dear: without a limit the search ends there.
    scores = np.asarray(table.latency_ms.mean(axis=-1) / table.latency_ms.mean())
    supernet = ScoredSupernet(table.space, scores)
    problem = make_problem(table, supernet=supernet, is_warm=True)
    monkeypatch.setattr(pipeline, "prepare", lambda config: problem)

    def run(*arguments):
        assert limits_hits.main([*TINY, f"--output_dir={tmp_path}", *arguments]) == 0
        return json.loads((tmp_path / "limits.json").read_text()), capsys.readouterr().out

    return run


@pytest.mark.slow
def test_every_result_keeps_its_limit_and_those_that_did_by_themselves_are_counted(run, tmp_path):
    report, out = run()
    rows = report["rows"]
    assert len(rows) == 2 * 2 * len(limits_hits.KEPT_BY)
    assert all(row["is_within"] for row in rows)
    for row in rows:
        assert row["max_latency_ms"] == pytest.approx(row["share"] * row["free_latency_ms"])
        assert row["latency_ms"] <= row["max_latency_ms"] * (1 + 1e-6)
        is_within = row["derived_latency_ms"] <= row["max_latency_ms"] * (1 + 1e-6)
        assert row["derived_is_within"] == is_within
    for group in report["summary"]:
        own = [r for r in rows if (r["share"], r["kept_by"]) == (group["share"], group["kept_by"])]
        assert group["num_searches"] == len(own) == group["num_within"] == 2
        assert group["num_derived_within"] == sum(row["derived_is_within"] for row in own)
    assert out.count("at the end") == len(report["summary"]) == 6
    assert report["config"]["search"]["supernet_dir"] is None
    assert run() == (report, out), "what is finished is read"
    fewer, _ = run("--kept_by=gradient")
    assert fewer["rows"] == [row for row in rows if row["kept_by"] == "gradient"]


def test_groups_are_counted():
    rows = [
        {"share": 0.5, "kept_by": kept_by, "derived_is_within": derived, "is_within": True}
        for kept_by, derived in (("gradient", True), ("gradient", True), ("penalty 1", False))
    ]
    assert limits_hits.summary(rows) == [
        {
            "share": 0.5,
            "kept_by": "gradient",
            "num_searches": 2,
            "num_derived_within": 2,
            "num_within": 2,
        },
        {
            "share": 0.5,
            "kept_by": "penalty 1",
            "num_searches": 1,
            "num_derived_within": 0,
            "num_within": 1,
        },
    ]


def test_a_mistake_is_one_line(capsys):
    assert limits_hits.main([*TINY, "--output_dir=x", "--set=search.epoch=2"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "epoch" in error
