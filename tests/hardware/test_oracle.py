"""The exact best accelerator by brute force: ties, limits, ranks and fronts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, MachineConfig, SpaceConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.dataset import CandidateTable, sample_mixtures, sample_one_hot
from dance_tf.hardware import oracle
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.objective import (
    EDAP,
    Limits,
    Objective,
    objective_values,
    random_objectives,
)
from dance_tf.hardware.oracle import (
    TIE_TOLERANCE,
    best_accelerators,
    pareto_front,
    rank_accelerators,
)
from dance_tf.supernet.space_files import make_space
from tests.evaluator.fake_table import make_fake_table, with_arrays

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


# Brute force, in plain numpy


def _plain_best(table, weights, vector, reference, limits):
    """Return index and value of the best accelerator of one architecture, or None."""
    cells = np.stack([table.latency_ms, table.energy_mj]).astype(np.float64)
    used = np.argwhere(weights > 0)
    sums = sum(float(weights[d, o]) * cells[:, d, o] for d, o in used)
    sums += np.stack([table.fixed_latency_ms, table.fixed_energy_mj]).astype(np.float64)
    metrics = np.stack([*sums, np.asarray(table.area_mm2, np.float64)], axis=-1)
    most = [limits.max_latency_ms, limits.max_energy_mj, limits.max_area_mm2]
    most = np.asarray([np.inf if m is None else m for m in most], np.float32)
    rows = [
        a
        for a, m in enumerate(metrics)
        if np.isfinite(m).all() and (m.astype(np.float32) <= most).all()
    ]
    if not rows:
        return None
    is_linear, *powers = vector.astype(np.float64)
    normalised = metrics[rows] / reference.astype(np.float64)
    values = normalised @ powers if is_linear else np.prod(normalised**powers, axis=-1)
    tied = [a for a, v in zip(rows, values, strict=True) if v <= values.min() * (1 + 2e-6)]
    chosen = min(tied, key=lambda a: (*metrics[a, ::-1], a))
    return chosen, metrics[chosen], values[rows.index(chosen)]


def _coarse(table, rng, is_tied, share_infeasible):
    """Return a table of random cells, of few different values if there are to be ties."""
    num = len(table.accelerators)
    arrays = {}
    for name in ("latency_ms", "energy_mj", "fixed_latency_ms", "fixed_energy_mj", "area_mm2"):
        shape = np.shape(getattr(table, name))
        values = rng.integers(1, 4, shape) / 8 if is_tied else rng.uniform(0.5, 2, shape)
        arrays[name] = values.astype(np.float32)
    blocked = rng.random((*arrays["latency_ms"].shape[:2], num)) < share_infeasible
    for name in ("latency_ms", "energy_mj"):
        arrays[name][blocked] = np.inf
    table = with_arrays(table, **arrays)
    table.reference = np.float32([2.0, 3.0, 0.5])  # a uniform mixture may run nowhere
    return table


LIMITS = (
    Limits(),
    Limits(max_latency_ms=2.9),
    Limits(max_latency_ms=3.3, max_energy_mj=3.1, max_area_mm2=1.0),
    Limits(max_area_mm2=0.1),
)


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("share_infeasible", [0.0, 0.3])
def test_it_is_what_brute_force_finds(is_tied, share_infeasible):
    """Hard and soft, any objective, under limits, ties and all; on made-up physics too."""
    rng = np.random.default_rng([is_tied, int(10 * share_infeasible)])
    base, num, num_infeasible = make_fake_table(), 24, 0
    for table in (base, *(_coarse(base, rng, is_tied, share_infeasible) for _ in range(4))):
        mixtures = np.concatenate(
            [sample_mixtures(table.space, num // 2, rng), sample_one_hot(table.space, num, rng)]
        )
        objectives = random_objectives(len(mixtures), rng)
        for limits in LIMITS:
            best = best_accelerators(table, mixtures, objectives, limits)
            index, metrics, value = (np.asarray(field) for field in best)
            for row, weights in enumerate(mixtures):
                arguments = (weights, objectives[row], table.reference, limits)
                found = _plain_best(table, *arguments)
                assert bool(best.is_feasible[row]) == (found is not None)
                if found is None:
                    num_infeasible += 1
                    assert np.isinf(metrics[row]).all() and np.isinf(value[row])
                    continue
                assert index[row] == found[0]
                np.testing.assert_array_equal(metrics[row], found[1].astype(np.float32))
                assert value[row] == pytest.approx(found[2], rel=1e-5)
    assert num_infeasible > 0


def test_what_never_comes_into_question_is_left_out():
    def contenders(latency, area):
        return oracle._contenders(_table(latency, [1] * 4, area)).rows.numpy().tolist()

    assert contenders([4, 5, 3, 1], [1, 2, 4, 4]) == [0, 3]
    assert contenders([4, 4, 4, 3], [1, 1, 1, 2]) == [0, 3]  # of equal ones the first
    assert contenders([np.inf] * 4, [1, 2, 1, 3]) == [0]
    assert contenders([4, 3, 2, 1], [1, 2, 3, 4]) == [0, 1, 2, 3]


def test_nothing_is_lost_where_no_accelerator_is_always_worse():
    """Latency falls as area rises, so each of the four is the best for some objective."""
    table = _table([8, 3, 1.5, 1], [1] * 4, [1, 1.5, 3, 8])
    table.reference = np.ones(3, np.float32)
    vectors = np.float32([[1, w, 0, 1 - w] for w in np.linspace(0, 1, 20)])
    weights = np.repeat(table.one_hot(SPACE.sample(1, seed=0)), len(vectors), axis=0)
    best = best_accelerators(table, weights, vectors).accelerator_index.numpy()
    assert best.tolist() == sorted(best) and set(best) == {0, 1, 2, 3}


def test_many_networks_are_as_each_alone():
    """More than go through at once; in a graph too, where the table is first asked there."""
    rng = np.random.default_rng(5)
    num = oracle._CHUNK * 2 + 17
    mixtures = sample_mixtures(SPACE, num, rng)
    objectives = random_objectives(num, rng)
    limits = Limits(max_area_mm2=0.9)
    table = make_fake_table()
    in_graph = tf.function(lambda *rows: best_accelerators(table, *rows, limits))
    graph = in_graph(mixtures[:64], objectives[:64])
    together = best_accelerators(table, mixtures, objectives, limits)
    assert together.accelerator_index.shape == (num,) and together.metrics.shape == (num, 3)
    for row in [*range(0, num, 97), num - 1]:
        part = slice(row, row + 1)
        alone = best_accelerators(table, mixtures[part], objectives[part], limits)
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[row])
    for ours, theirs in zip(graph, together, strict=True):
        np.testing.assert_array_equal(ours, theirs[:64])


def test_a_part_of_a_table_will_do():
    """Whatever has expected metrics and a reference; the evaluator labels among few so."""
    table, rng = make_fake_table(), np.random.default_rng(6)
    part = CandidateTable(table, np.arange(len(table.accelerators)))
    mixtures, objectives = sample_mixtures(SPACE, 64, rng), random_objectives(64, rng)
    ours, theirs = (best_accelerators(t, mixtures, objectives) for t in (part, table))
    assert np.mean(ours.accelerator_index == theirs.accelerator_index) > 0.95
    np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-5)


# Ties


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


# What cannot be


def test_an_accelerator_that_cannot_run_the_network_is_never_chosen():
    table = _table([np.inf, 5, 6, 7], [np.inf, 5, 6, 7], [1, 9, 9, 9])
    for objective in (EDAP, Objective("linear", (0.0, 0.0, 1.0)), Objective("product", (0, 0, 3))):
        assert int(_best(table, objective)[0][0]) != 0, objective


@pytest.mark.parametrize("kind", ["linear", "product"])
def test_a_metric_of_zero_is_the_best_and_no_nan(kind):
    table = _table([1, 0, 2, 3], [1] * 4, [4, 5, 2, 3])
    table.reference = np.ones(3, np.float32)
    assert int(_best(table, Objective(kind, (1.0, 0.0, 0.0)))[0][0]) == 1
    assert int(_best(table, Objective(kind, (0.0, 0.0, 1.0)))[0][0]) == 2


def test_weights_that_are_no_numbers_find_nothing():
    table = make_fake_table()
    weights = np.full((1, *SPACE.op_mask.shape), np.nan, np.float32)
    best = best_accelerators(table, weights, EDAP.vector[None])
    assert not best.is_feasible[0] and not np.isnan(best.metrics).any()


# One network: ranks, limits, front

METRICS_OF_FOUR = np.asarray([[4, 1, 1], [2, 3, 2], [1, 2, 4], [np.inf, np.inf, 0.5]])
ONES = np.ones(3)


def test_ranks_are_those_of_repeated_choice():
    rng = np.random.default_rng(7)
    for is_tied in (False, True):
        metrics = rng.integers(1, 4, (30, 3)) / 2 if is_tied else rng.uniform(1, 2, (30, 3))
        metrics[rng.random(30) < 0.2, :2] = np.inf
        for vector in random_objectives(8, rng):
            objective = Objective("linear" if vector[0] else "product", tuple(vector[1:].tolist()))
            ranks = rank_accelerators(metrics, objective, ONES, top_k=100).tolist()
            assert sorted(ranks) == np.flatnonzero(np.isfinite(metrics[:, 0])).tolist()
            assert ranks[:7] == rank_accelerators(metrics, objective, ONES, top_k=7).tolist()
            left = metrics.copy()
            for row in ranks:
                assert row == rank_accelerators(left, objective, ONES)[0]
                left[row] = np.inf


def test_the_first_rank_is_the_oracles_choice():
    table, rng = make_fake_table(), np.random.default_rng(8)
    ops, objectives = SPACE.sample(40, seed=2), random_objectives(40, rng)
    limits = Limits(max_area_mm2=0.8)
    best = best_accelerators(table, table.one_hot(ops), objectives, limits)
    for row in range(40):
        kind = "linear" if objectives[row, 0] else "product"
        objective = Objective(kind, tuple(objectives[row, 1:].tolist()))
        metrics = table.metrics_of(ops[row : row + 1])[0]
        (first,) = rank_accelerators(metrics, objective, table.reference, limits)
        assert first == int(best.accelerator_index[row])


def test_a_limit_at_a_reported_metric_is_kept():
    table = make_fake_table()
    metrics = table.metrics_of(SPACE.sample(1, seed=3)).numpy()[0]
    for row in range(0, len(metrics), 7):
        limits = Limits(*metrics[row].tolist())
        assert row in rank_accelerators(metrics, EDAP, table.reference, limits, top_k=999)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_latency_ms=0.5), "within max_latency_ms = 0.5: the least is 1$"),
        (Limits(max_latency_ms=2, max_area_mm2=0.5), "within max_area_mm2 = 0.5: the least is 1$"),
        (
            Limits(max_latency_ms=3, max_energy_mj=1.5),
            "within the others, latency_ms is at least 4, above max_latency_ms = 3$",
        ),
        (
            Limits(max_latency_ms=1, max_energy_mj=1, max_area_mm2=2),
            "latency_ms is at least 4, above max_latency_ms = 1$",
        ),
    ],
)
def test_limits_out_of_reach_are_said(limits, message):
    with pytest.raises(UserError, match=message):
        rank_accelerators(METRICS_OF_FOUR, EDAP, ONES, limits)


def test_no_two_limits_at_once():
    apart = np.asarray([[1.0, 9, 9], [9, 1, 9], [9, 9, 1]])
    with pytest.raises(UserError, match="within any two of max_latency_ms = 1, max_energy_mj = 1"):
        rank_accelerators(apart, EDAP, ONES, Limits(1, 1, 1))


def test_a_network_that_runs_nowhere_is_said():
    nowhere = np.full((3, 3), np.inf)
    with pytest.raises(UserError, match="can run on no accelerator"):
        rank_accelerators(nowhere, EDAP, ONES)
    assert pareto_front(nowhere).tolist() == []


def test_bad_questions_are_refused():
    with pytest.raises(UserError, match="top_k is 0"):
        rank_accelerators(METRICS_OF_FOUR, EDAP, ONES, top_k=0)
    for ask in (pareto_front, lambda metrics: rank_accelerators(metrics, EDAP, ONES)):
        with pytest.raises(ValueError, match="NaN"):
            ask(np.asarray([[1.0, np.nan, 1.0]]))
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            ask(np.ones(3))


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "3", True])
def test_bad_limits_are_named(value):
    with pytest.raises(UserError, match=r"limits: max_energy_mj is .*, not a positive number"):
        Limits(max_energy_mj=value)


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(9)
    for num_values in (3, 6, 1000):
        metrics = rng.integers(1, 1 + num_values, (200, 3)).astype(np.float32)
        metrics[rng.random(200) < 0.1, 0] = np.inf
        front = pareto_front(metrics)
        expected = [
            a
            for a, m in enumerate(metrics)
            if np.isfinite(m).all()
            and not ((metrics <= m).all(axis=1) & (metrics < m).any(axis=1)).any()
            and not (metrics[:a] == m).all(axis=1).any()
        ]
        assert sorted(front.tolist()) == expected
        assert (np.diff(metrics[front, 0]) >= 0).all()


def test_the_best_of_any_objective_is_on_the_front():
    table, rng = make_fake_table(), np.random.default_rng(10)
    metrics = table.metrics_of(SPACE.sample(1, seed=4)).numpy()[0]
    front = metrics[pareto_front(metrics)]
    for vector in random_objectives(50, rng):
        objective = Objective("linear" if vector[0] else "product", tuple(vector[1:].tolist()))
        (first,) = rank_accelerators(metrics, objective, table.reference)
        assert (front == metrics[first]).all(axis=1).any()


# Objectives


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


@pytest.mark.parametrize("kind", ["product", "linear"])
@pytest.mark.parametrize("weight", [1e39, 1e308, math.inf, math.nan, 1e-39, 1e-320, -1.0])
def test_weights_that_float32_cannot_hold_are_refused(kind, weight):
    with pytest.raises(UserError, match=r"^objective: "):
        Objective(kind, (weight, 1.0, 1.0))


@pytest.mark.parametrize(
    "objective",
    [
        Objective("product", (12.0, 0.0, 0.0)),
        Objective("product", (1e-30, 1e-30, 1e-30)),
        Objective("linear", (1e30, 1e-30, 0.0)),
        Objective("linear", (1e-30, 0.0, 0.0)),
    ],
)
def test_the_largest_and_the_least_weights_give_numbers(objective):
    """At a thousandth and at a thousandfold of the reference, as ranked and as a value."""
    metrics = np.asarray([[1e-3] * 3, [1.0] * 3, [1e3] * 3])
    values = np.asarray(objective(metrics, ONES))
    assert np.isfinite(values).all() and (values > 0).all()
    assert (np.diff(values) >= 0).all()
    assert rank_accelerators(metrics, objective, ONES)[0] == 0


def test_a_value_past_float32_is_still_of_a_network_that_runs():
    """Vectors that are no Objective's may reach it; what is best is known all the same."""
    vector = np.asarray([[0.0, 400.0, 0.0, 0.0], [1.0, 3e38, 3e38, 3e38]], np.float32)
    table = make_fake_table()
    ops = table.space.sample(2, seed=0)
    best = best_accelerators(table, table.one_hot(ops), vector)
    assert np.asarray(best.is_feasible).all()
    assert np.isfinite(np.asarray(best.metrics)).all()
