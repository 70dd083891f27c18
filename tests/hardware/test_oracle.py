"""The exact best accelerator, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from dance_tf.config import AcceleratorSpaceConfig, MachineConfig, SpaceConfig
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import EDAP, Objective, objective_values, random_objectives
from dance_tf.hardware.oracle import TIE_TOLERANCE, best_accelerators
from dance_tf.supernet.search_space import make_space

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
FOUR = AcceleratorSpace(
    AcceleratorSpaceConfig(pe_x=(8, 9), pe_y=(8, 9), rf_bytes=(16,), dataflow=("row_stationary",))
)


def _table(latency, energy, area, cells=0.0):
    """Return a table whose networks differ by `cells` only."""
    num = len(FOUR)
    shape = (SPACE.num_blocks, len(SPACE.op_names), num)
    arrays = {
        "latency_ms": np.broadcast_to(np.float32(cells), shape).copy(),
        "energy_mj": np.broadcast_to(np.float32(cells), shape).copy(),
        "fixed_latency_ms": np.float32(latency),
        "fixed_energy_mj": np.float32(energy),
        "area_mm2": np.float32(area),
    }
    return CostTable(SPACE, FOUR, MachineConfig(), "hash", arrays, num)


def _best(table, objective=EDAP):
    weights = table.one_hot(SPACE.sample(1, seed=0))
    return best_accelerators(table, weights, objective.vector[None])


def test_it_is_the_minimum_by_enumeration():
    rng = np.random.default_rng(0)
    cells = rng.uniform(0.5, 2.0, size=(SPACE.num_blocks, len(SPACE.op_names), len(FOUR)))
    table = _table(*rng.uniform(1, 2, size=(3, len(FOUR))), cells=cells)
    ops = SPACE.sample(64, seed=1)
    objectives = random_objectives(64, rng)
    best = best_accelerators(table, table.one_hot(ops), objectives)
    for row in range(64):
        metrics = table.metrics_of(ops[row : row + 1]).numpy()[0]
        normalised = (metrics / table.reference).astype(np.float64)
        is_linear, *weights = objectives[row].astype(np.float64)
        values = normalised @ weights if is_linear else np.prod(normalised**weights, axis=-1)
        index = int(best.accelerator_index[row])
        assert values[index] <= values.min() * (1 + 4 * TIE_TOLERANCE)
        assert float(best.value[row]) == pytest.approx(values[index], rel=1e-5)
        np.testing.assert_allclose(best.metrics[row], metrics[index], rtol=1e-6)


def test_ties_go_to_area_then_energy_then_latency_then_index():
    latency_only = Objective("linear", (1.0, 0.0, 0.0))
    # The same latency: the smallest area.
    assert int(_best(_table([1] * 4, [1] * 4, [4, 3, 2, 5]), latency_only)[0][0]) == 2
    # The same latency and area: the smallest energy.
    assert int(_best(_table([1] * 4, [3, 2, 4, 5], [1] * 4), latency_only)[0][0]) == 1
    # The same area and energy under an objective of area alone: the smallest latency.
    area_only = Objective("linear", (0.0, 0.0, 1.0))
    assert int(_best(_table([3, 4, 5, 2], [1] * 4, [1] * 4), area_only)[0][0]) == 3
    # All the same: the first.
    assert int(_best(_table([1] * 4, [1] * 4, [1] * 4))[0][0]) == 0


def test_what_is_a_tie_and_what_is_not():
    latency_only = Objective("linear", (1.0, 0.0, 0.0))
    close = 1 + TIE_TOLERANCE / 4
    assert int(_best(_table([1, close, 2, 2], [1] * 4, [9, 1, 1, 1]), latency_only)[0][0]) == 1
    apart = 1 + TIE_TOLERANCE * 4
    assert int(_best(_table([1, apart, 2, 2], [1] * 4, [9, 1, 1, 1]), latency_only)[0][0]) == 0


def test_an_accelerator_that_cannot_run_the_network_is_never_chosen():
    table = _table([np.inf, 5, 6, 7], [np.inf, 5, 6, 7], [1, 9, 9, 9])
    for objective in (EDAP, Objective("linear", (0.0, 0.0, 1.0)), Objective("product", (0, 0, 3))):
        assert int(_best(table, objective)[0][0]) != 0, objective


def test_objectives_by_hand():
    metrics = np.float32([2.0, 3.0, 5.0])
    reference = np.float32([1.0, 1.0, 10.0])
    assert float(EDAP(metrics, reference)) == pytest.approx(3.0)
    linear = Objective("linear", (1.0, 2.0, 4.0))
    assert float(linear(metrics, reference)) == pytest.approx(2 + 6 + 2)
    without = Objective("linear", (0.0, 1.0, 0.0))
    assert float(without(np.float32([np.inf, 3.0, 5.0]), reference)) == pytest.approx(3.0)


def test_random_objectives_hold_every_corner():
    vectors = random_objectives(400, np.random.default_rng(0))
    weights = vectors[:, 1:]
    assert ((weights > 0).sum(axis=1) == 1).any() and (np.ptp(weights, axis=1) < 1e-6).any()
    np.testing.assert_allclose(weights.sum(axis=1), np.where(vectors[:, 0] > 0.5, 1, 3), rtol=1e-5)
    values = objective_values(vectors, np.ones(3, np.float32), np.ones(3, np.float32))
    np.testing.assert_allclose(values, np.ones(400), rtol=1e-5)
