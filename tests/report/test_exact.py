"""Exact costs in the report agree with the run, and with enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dance_tf.hardware.objective import EDAP, Objective
from dance_tf.report.exact import cheapest_network, exact_parts
from dance_tf.report.run_folder import read_run
from dance_tf.structs import METRICS
from tests.evaluator.fake_table import make_fake_table
from tests.search.problems import shuffled_table


def test_layers_and_components_sum_up_to_the_exact_cost(run_dir, table):
    run = read_run(run_dir)
    exact, cost = exact_parts(run, table), run.costs["exact_cost"]
    total = {
        name: sum(entry[name] for entry in exact.entries)
        for name in ("latency_ms", "latency_cycles", "energy_pj")
    }
    assert total["latency_ms"] == pytest.approx(cost["latency_ms"], rel=1e-5)
    assert total["latency_cycles"] == pytest.approx(cost["latency_cycles"], rel=1e-5)
    assert total["energy_pj"] * 1e-9 == pytest.approx(cost["energy_mj"], rel=1e-5)
    assert sum(exact.area_um2.values()) * 1e-6 == pytest.approx(cost["area_mm2"], rel=1e-5)
    for entry in exact.entries:
        parts = sum(entry["energy_by_component_pj"].values())
        assert parts == pytest.approx(entry["energy_pj"], rel=1e-5)
    assert exact.is_of_the_run and len(exact.layers) == len(exact.entries)


def test_the_best_accelerators_begin_with_that_of_the_result(run_dir, table):
    run = read_run(run_dir)
    exact = exact_parts(run, table)
    best = run.result["exact_best_accelerator"]
    assert {name: exact.best[0][name] for name in best} == best
    values = [row["objective"] for row in exact.best]
    assert values[0] == pytest.approx(run.costs["exact_best_cost"]["objective"], rel=1e-5)
    assert values == sorted(values) and len(values) == 5
    assert values[-1] <= exact.median_objective <= exact.worst_objective
    assert 1 <= len(exact.front) < exact.num_accelerators == len(table.accelerators)


def _enumerated(table, objective):
    """Return the least objective of all networks on all accelerators."""
    choices = [np.flatnonzero(row) for row in table.space.op_mask]
    networks = np.asarray(list(itertools.product(*choices)), np.int32)
    values = np.asarray(objective(table.metrics_of(networks), table.reference))
    return values.min()


@pytest.mark.parametrize(
    "objective", [EDAP, Objective("linear", (1, 0, 0)), Objective("linear", (0.2, 1, 0.5))]
)
def test_the_cheapest_network_is_that_of_enumeration(table, objective):
    for some_table in (table, make_fake_table()):
        cheapest = cheapest_network(some_table, objective, some_table.reference)
        assert cheapest.objective == pytest.approx(_enumerated(some_table, objective), rel=1e-5)
        metrics = dict(zip(METRICS, cheapest.metrics, strict=True))
        assert all(value > 0 for value in metrics.values())


def test_without_a_proof_there_is_no_cheapest_network():
    found = [
        (cheapest_network(some_table, EDAP, some_table.reference), _enumerated(some_table, EDAP))
        for some_table in map(shuffled_table, range(8))
    ]
    assert any(cheapest is None for cheapest, _ in found)
    for cheapest, least in found:
        assert cheapest is None or cheapest.objective == pytest.approx(least, rel=1e-5)


def test_costs_of_another_day_are_noticed(run_dir, table):
    run = read_run(run_dir)
    run.info["cost_table_sha256"] = "0" * 64
    assert not exact_parts(run, table).is_of_the_run
