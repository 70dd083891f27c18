"""The load test in short: no request is lost, and a lost one is counted."""

from __future__ import annotations

import contextlib

import pytest

from tests.serving.load_test import load, start_server


@pytest.fixture(scope="module")
def address(folder):
    process, address = start_server(str(folder / "evaluator"))
    yield address
    with contextlib.closing(process.stdout):
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_no_request_is_lost(address, queries):
    names = ("mixture_weights", "objective_vectors")
    report = load(address, {name: queries[name][:1] for name in names}, 4, 2.0)
    assert report["num_lost"] == 0
    assert report["num_requests"] > 20
    assert 0 < report["p50_ms"] <= report["p99_ms"] <= report["max_ms"] < 2000


def test_a_refused_request_is_counted_as_lost(address, queries):
    inputs = {name: queries[name][:1] for name in ("mixture_weights", "objective_vectors")}
    inputs["objective_vectors"] = -inputs["objective_vectors"]
    report = load(address, inputs, 2, 0.2)
    assert report["num_lost"] == report["num_requests"] > 0
