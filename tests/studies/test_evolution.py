"""Evolution on accuracies without a network: known fronts, budgets, the same after a kill."""

from __future__ import annotations

import itertools

import moocore
import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.hardware.objective import EDAP, Objective
from dance_tf.search.accuracy_memo import AccuracyMemo
from studies.evolution import EvolutionConfig, evolve, exact_costs
from tests.evaluator.fake_table import make_fake_table, with_arrays
from tests.search.problems import shuffled_table

LATENCY = Objective("product", (1.0, 0.0, 0.0))


class Scores:
    """Accuracies that are sums over the blocks and their pairs, and a count of questions.

    Larger ops tend to be more accurate, with less and less to gain.
    """

    def __init__(self, space, seed=0):
        random = np.random.RandomState(seed)
        shape = (space.num_blocks, space.num_ops)
        macs = np.asarray(
            [
                [sum(layer.macs for layer in space.op_layers(d, op)) for op in space.op_names]
                for d in range(space.num_blocks)
            ]
        )
        self._single = np.sqrt(macs / macs.max()) + random.normal(0, 0.1, shape)
        self._pairs = random.normal(0, 0.02, shape * 2)
        self.num_asked = 0

    def __call__(self, op_indices):
        found = []
        for row in np.asarray(op_indices):
            self.num_asked += 1
            blocks = np.arange(len(row))
            pairs = self._pairs[blocks[:, None], row[:, None], blocks, row].sum()
            score = (self._single[blocks, row].sum() + pairs) / len(row)
            found.append(1.0 - 0.2 - 0.4 * np.exp(-3.0 * score))
        return np.asarray(found)


def _all_networks(space):
    return list(itertools.product(*(np.flatnonzero(ops).tolist() for ops in space.op_mask)))


def _hypervolumes(*sets):
    """Return the hypervolume of each set of points, between the extremes of all of them."""
    points = np.concatenate(sets)
    low, high = points.min(axis=0), points.max(axis=0)
    return [moocore.hypervolume((some - low) / (high - low), ref=[1.0, 1.0]) for some in sets]


@pytest.mark.parametrize("objective", [EDAP, LATENCY, Objective("linear", (1.0, 2.0, 0.5))])
def test_costs_are_those_of_the_best_accelerator(objective):
    table = shuffled_table(1)
    networks = table.space.sample(5, 0)
    found = exact_costs(networks, [0.5] * 5, table, objective)
    one_hot = np.eye(table.space.num_ops, dtype=np.float32)[networks]
    metrics = np.asarray(table.expected_metrics(one_hot))  # [5, A, 3]
    values = np.asarray(objective(metrics, table.reference))
    np.testing.assert_allclose(found.values, values.min(axis=1), rtol=1e-5)
    rows = found.accelerator_index
    np.testing.assert_allclose(found.metrics, metrics[np.arange(5), rows], rtol=1e-5)
    np.testing.assert_allclose(found.points[:, 1], np.log(values.min(axis=1)), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_finds_the_front_of_a_small_space(seed):
    """Nearly all of it by two thirds of the 42 networks; a larger budget ends with the space."""
    table = shuffled_table(seed)
    networks, scores = _all_networks(table.space), Scores(table.space, seed)
    everything = exact_costs(networks, 1.0 - scores(networks), table, EDAP)
    config = EvolutionConfig(num_evaluations=28, population_size=8, tournament_size=4)
    found = evolve(table, scores, EDAP, config, seed)
    reached, possible = _hypervolumes(found.points, everything.points)
    assert 0.97 * possible < reached <= possible
    whole = evolve(table, scores, EDAP, EvolutionConfig(num_evaluations=99), seed)
    assert sorted(map(tuple, whole.op_indices.tolist())) == sorted(networks)


def test_beats_random_networks_on_a_large_space():
    table = make_fake_table("cifar_mbconv_small")
    scores = Scores(table.space)
    config = EvolutionConfig(num_evaluations=250, population_size=32)
    progress = []
    found = evolve(table, scores, EDAP, config, 5, lambda *done: progress.append(done))
    assert progress == [(n, 250) for n in range(1, 251)]
    assert len(set(map(tuple, found.op_indices.tolist()))) == scores.num_asked == 250
    drawn = table.space.sample(250, 5)
    random = exact_costs(drawn, 1.0 - scores(drawn), table, EDAP)
    reached, by_chance = _hypervolumes(found.points, random.points)
    assert reached > 1.2 * by_chance
    cheapest = found.op_indices[np.argmin(found.values)]
    assert [table.space.op_names[op] for op in cheapest[[1, 2, 4, 5, 7, 8]]] == ["zero"] * 6


def test_is_a_function_of_its_seed():
    table = shuffled_table(0)
    config = EvolutionConfig(num_evaluations=20, population_size=6, tournament_size=3)
    runs = [evolve(table, Scores(table.space), EDAP, config, seed) for seed in (1, 1, 2)]
    orders = [run.op_indices.tolist() for run in runs]
    assert orders[0] == orders[1] != orders[2]


class _Killed(Exception):
    pass


def test_goes_on_where_it_was_killed(tmp_path):
    """Every network is measured once, however often the run dies and tears its last line."""
    table, random = shuffled_table(2), np.random.RandomState(0)
    config = EvolutionConfig(num_evaluations=30, population_size=8, tournament_size=4)
    expected = evolve(table, Scores(table.space), EDAP, config, 3)
    path, scores, num_torn = tmp_path / "memo.jsonl", Scores(table.space), 0

    def measure(op_indices):
        if random.rand() < 0.3:
            raise _Killed
        return scores(op_indices)

    found = None
    while found is None:
        memo = AccuracyMemo(path, measure, {"of": "scores"})
        try:
            found = evolve(table, memo.accuracies, EDAP, config, 3)
        except _Killed:
            memo.close()
            lines = path.read_bytes().splitlines(keepends=True)
            if len(lines) > 1 and random.rand() < 0.5:
                path.write_bytes(b"".join(lines)[: -random.randint(1, len(lines[-1]))])
                num_torn += 1
    memo.close()
    assert num_torn > 2
    assert scores.num_asked == 30 + num_torn
    for field, value in zip(expected._fields, expected, strict=True):
        np.testing.assert_array_equal(getattr(found, field), value)


@pytest.mark.parametrize("energy_mj", [np.nan, np.inf])
def test_refuses_a_cost_that_is_not_finite(energy_mj):
    table = make_fake_table()
    spoilt = with_arrays(table, energy_mj=np.full_like(table.energy_mj, energy_mj))
    with pytest.raises(UserError, match="no finite cost"):
        evolve(spoilt, Scores(table.space), EDAP, EvolutionConfig(), 0)


@pytest.mark.parametrize(
    "changes", [{"tournament_size": 0}, {"population_size": 1}, {"num_evaluations": 1}]
)
def test_refuses_what_cannot_evolve(changes):
    with pytest.raises(UserError, match=f"{next(iter(changes))} is "):
        EvolutionConfig(**changes)
