"""Figures of a comparison: shares, regrets and ratios against networks that can be counted."""

from __future__ import annotations

import dataclasses
import itertools
import os

import numpy as np
import pytest

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, SpaceConfig
from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.objective import EDAP, Limits
from dance_tf.search.strategies.compare import compare
from dance_tf.search.strategies.comparison import Referee
from dance_tf.search.strategies.problem import Goal, Pair, StrategyProblem, Trace, Trial
from dance_tf.search.strategies.runs import Setting
from dance_tf.supernet.space_files import make_space

SPACE = SpaceConfig("tiny_mbconv")
HARDWARE = HardwareConfig(
    accelerators=AcceleratorSpaceConfig((8, 16), (8,), (64,), ("row_stationary",))
)
NETWORKS = np.asarray(list(itertools.product(range(6), range(7))), np.int32)


def _errors(networks):
    """Return made-up errors: larger ops are better, with a scatter that is always the same."""
    sizes = np.asarray([2.0, 4.0, 3.0, 5.0, 4.0, 6.0, 0.0])[networks].sum(axis=1)
    return 0.3 / (1 + sizes / 10) + 0.004 * np.sin(100 * sizes + networks[:, 0])


@pytest.fixture(scope="module")
def problem():
    space = make_space(SPACE)
    return StrategyProblem(space, load_or_build_table(space, HARDWARE), Goal())


@pytest.fixture(scope="module")
def referee(problem):
    return Referee(problem, NETWORKS, _errors(NETWORKS), 1.01 * _errors(NETWORKS))


def _trace(problem, networks, errors):
    pairs = [Pair(tuple(n), problem.costs.best(n).accelerator) for n in networks.tolist()]
    return Trace(
        tuple(Trial(p, float(e), i + 1) for i, (p, e) in enumerate(zip(pairs, errors, strict=True)))
    )


def test_who_has_trained_everything_and_saw_the_truth_loses_nothing(problem, referee):
    whole = _trace(problem, NETWORKS, _errors(NETWORKS))
    assert referee.hypervolume(whole) == pytest.approx(1.0)
    for weight in (0.03, 0.3):
        assert referee.answer(whole, weight).regret == pytest.approx(0.0, abs=1e-6)
    assert referee.answer(whole, 0.1).seen_regret == pytest.approx(0.0, abs=1e-6)
    ratios = referee.cost_ratios(referee.handed_in(whole))
    assert ratios == referee.cost_ratios(np.arange(len(NETWORKS)))
    assert sorted(ratios) == ratios and ratios[0] >= 1


def test_an_answer_is_chosen_by_what_was_seen_and_judged_by_the_truth(problem, referee):
    pair = NETWORKS[[3, 20]]
    truth = _errors(pair)
    misled = _trace(problem, pair, truth[::-1])
    values = np.log(truth[::-1]) + 0.1 * np.asarray([problem.costs.best(n).log_cost for n in pair])
    answer = referee.answer(misled, 0.1)
    chosen = int(np.argmin(values))
    assert answer.error == pytest.approx(truth[chosen])
    judged = np.log(truth[chosen]) + 0.1 * problem.costs.best(pair[chosen]).log_cost
    assert np.log1p(answer.regret) == pytest.approx(judged - referee.optima(0.1, None)[0], abs=1e-6)


def test_an_answer_keeps_the_limits_or_there_is_none(problem, referee):
    latencies = [problem.costs.best(n).metrics[0] for n in NETWORKS]
    middle = Limits(max_latency_ms=float(np.median(latencies)))
    slowest = NETWORKS[[int(np.argmax(latencies))]]
    assert referee.answer(_trace(problem, slowest, [0.1]), 0.1, middle) is None
    limited = dataclasses.replace(problem, goal=Goal(0.1, middle))
    values = [
        np.log(error) + 0.1 * limited.costs.best(n).log_cost
        for n, error in zip(NETWORKS, _errors(NETWORKS), strict=True)
    ]
    assert referee.optima(0.1, middle)[0] == pytest.approx(min(values), abs=1e-6)
    assert referee.best_answer(0.1, middle).regret == pytest.approx(0, abs=1e-6)


def test_costs_of_pairs_are_those_of_the_table(problem):
    for network in NETWORKS[::9]:
        exact = np.asarray(problem.table.metrics_of(network[None]))[0]
        np.testing.assert_allclose(problem.costs.metrics(network), exact, rtol=1e-6)
        best = problem.costs.best(network)
        objective = np.asarray(EDAP(exact, problem.table.reference))
        assert best.accelerator == int(np.argmin(objective))
        assert np.exp(best.log_cost) == pytest.approx(objective.min(), rel=1e-5)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    path = tmp_path_factory.mktemp("accuracies") / "tiny.csv"
    lines = ["architecture,accuracy_percent_1,accuracy_percent_2"]
    for ops, error in zip(NETWORKS.tolist(), _errors(NETWORKS), strict=True):
        lines.append(f"{ops[0]}{ops[1]},{100 - 100 * error:.3f},{100 - 101 * error:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return Setting(SPACE, HARDWARE, str(path), 0, None, None, EDAP, None)


def test_a_comparison_goes_on_where_it_was_stopped(setting, tmp_path):
    folder = str(tmp_path / "runs")
    names = ["dance_predictor", "random_pairs"]
    whole = compare(setting, names, [6, 12], 2, folder)
    kept = sorted(os.listdir(folder))
    assert len(kept) == 2 * 2 * 4
    for name in kept[::2]:
        os.remove(os.path.join(folder, name))
    with open(os.path.join(folder, kept[1]), "rb") as file:
        before = file.read()
    again = compare(setting, names, [6, 12], 2, folder)
    with open(os.path.join(folder, kept[1]), "rb") as file:
        assert file.read() == before
    for entry in (*whole["strategies"], *again["strategies"]):
        del entry["wall_s_median"]
    assert again == whole
    ours, random = (
        next(e for e in whole["strategies"] if (e["strategy"], e["budget"]) == (name, 12))
        for name in names
    )
    assert ours["num_seeds"] == 2 and ours["hypervolume_median"] > random["hypervolume_median"]
    assert all(limit["share_kept"] == 1 for limit in ours["limits"].values())


def test_runs_on_other_accuracies_are_refused(setting, tmp_path):
    folder = str(tmp_path / "runs")
    compare(setting, ["random_pairs"], [4], 1, folder)
    with pytest.raises(UserError, match="other costs or other accuracies"):
        compare(dataclasses.replace(setting, training=1), ["random_pairs"], [4], 1, folder)
