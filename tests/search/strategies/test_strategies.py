"""Properties of every strategy of the registry, on problems of 42 networks."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig
from dance_tf.hardware.objective import Limits
from dance_tf.search.strategies.problem import Goal, StrategyProblem, Trace, run_strategy
from dance_tf.search.strategies.registry import STRATEGIES, make_strategy
from tests.evaluator.fake_table import make_fake_table

#: Those that know nothing of limits: they hand pairs outside in where a network has no other.
BLIND = {"accuracy_first", "macs_penalty", "best_of_both_separate"}

#: All but those that bring a predictor along, which has tests of its own.
NAMES = sorted(name for name, entry in STRATEGIES.items() if "dance" not in name)


class AdditiveErrors:
    """Errors that fall with each block's op, by a made-up gain; an AccuracySource."""

    kind = "table"

    def __init__(self, op_mask: np.ndarray) -> None:
        gains = np.random.default_rng(3).uniform(0.0, 1.0, op_mask.shape)
        self.gains, self.num_asked = np.where(op_mask, gains, np.nan), 0

    def errors(self, op_indices: np.ndarray) -> np.ndarray:
        self.num_asked += len(op_indices)
        blocks = np.arange(op_indices.shape[1])
        return 0.3 * np.exp(-self.gains[blocks, op_indices].sum(axis=1))


@functools.cache
def _table(space_name: str):
    accelerators = AcceleratorSpaceConfig((8, 16), (8,), (16, 64), ("row_stationary",))
    return make_fake_table(space_name, HardwareConfig(accelerators=accelerators))


def _problem(goal: Goal, space_name: str = "tiny_mbconv") -> StrategyProblem:
    table = _table(space_name)
    return StrategyProblem(table.space, table, goal)


def _run(name: str, goal: Goal, budget: int, seed: int = 0, space_name: str = "tiny_mbconv"):
    problem = _problem(goal, space_name)
    source = AdditiveErrors(problem.space.op_mask)
    return problem, run_strategy(make_strategy(name), problem, source, budget, seed)


def _limits() -> Limits:
    """A latency that about half of the networks can keep to, on a small accelerator."""
    costs = _problem(Goal()).costs
    smallest = int(_table("tiny_mbconv").area_mm2.argmin())
    metrics = [costs.at((a, b), smallest).metrics for a in range(6) for b in range(7)]
    return Limits(float(np.median([m[0] for m in metrics])), max_area_mm2=float(metrics[0][2]))


def _assert_valid(problem: StrategyProblem, trace: Trace) -> None:
    for trial in trace.trials:
        ops, row = trial.pair
        assert all(type(op) is int for op in ops) and type(row) is int
        assert all(problem.space.op_mask[block, op] for block, op in enumerate(ops))
        assert 0 <= row < len(problem.table.accelerators)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_the_key(name: str):
    assert make_strategy(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_valid_and_fixed_by_the_seed(name: str):
    problem, trace = _run(name, Goal(), budget=12, seed=5)
    _assert_valid(problem, trace)
    assert len(trace.errors) == 12
    assert _run(name, Goal(), budget=12, seed=5)[1] == trace
    assert _run(name, Goal(), budget=12, seed=6)[1] != trace


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_kept(name: str):
    limits = _limits()
    problem, trace = _run(name, Goal(0.1, limits), budget=10)
    _assert_valid(problem, trace)
    within = [problem.costs.is_within(problem.costs.at(*t.pair).metrics) for t in trace.trials]
    assert any(within)
    if name not in BLIND:
        assert all(within)


@pytest.mark.parametrize("name", NAMES)
def test_ends_where_no_pair_is_within_the_limits(name: str):
    problem, trace = _run(name, Goal(0.1, Limits(max_area_mm2=0.01)), budget=3)
    _assert_valid(problem, trace)
    assert (len(trace.trials) == 0) == (name not in BLIND)


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_in_a_space_that_is_exhausted(name: str, monkeypatch):
    monkeypatch.setattr("dance_tf.search.strategies.problem._MOST_REPEATS", 100)
    _, trace = _run(name, Goal(0.1), budget=1000)
    assert 20 <= len(trace.errors) <= 42


@pytest.mark.parametrize("name", ["edd", "edd_cost"])
def test_edd_searches_the_number_of_pes_alone(name: str):
    problem, trace = _run(name, Goal(), budget=30, space_name="cifar_mbconv_small")
    decoded = [problem.table.accelerators.decode(t.pair.accelerator) for t in trace.trials]
    assert len({(a.rf_bytes, a.dataflow) for a in decoded}) == 1
