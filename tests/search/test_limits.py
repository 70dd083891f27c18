"""Hard limits: altered steps lower what is above, and every result is within."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os

import numpy as np
import pytest

from dance_tf.config import SearchConfig
from dance_tf.errors import UserError
from dance_tf.hardware.objective import EDAP, Limits
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.search.dance import DanceSearch
from dance_tf.search.judge import ChosenEvaluator, Judge
from dance_tf.search.limits import LimitKeeper, reachable_costs, smallest_correction
from dance_tf.search.problem import limits_of
from dance_tf.search.result import SearchResult
from dance_tf.structs import METRICS
from dance_tf.supernet.supernet import Supernet
from tests.search.problems import ScoredSupernet, Unlabelled, make_problem, shuffled_table

CONFIG = SearchConfig(
    epochs=5,
    warmup_epochs=1,
    batch_size=32,
    arch_learning_rate=0.05,
    arch_every=1,
    arch_paths=8,
    lambda_2=0.0,
    log_every=10,
    max_zero_share=1.0,
)  # 20 steps an epoch, 80 architecture steps
NETWORKS = np.asarray(list(itertools.product(range(6), range(7))), np.int32)


@pytest.fixture(scope="module")
def table():
    return shuffled_table(5)


@pytest.fixture(scope="module")
def every(table):
    """Metrics of every pair, float32 [42, A, 3]."""
    return table.metrics_of(NETWORKS).numpy()


def _problem(table, seed=0):
    """The costlier an op, the more accurate: accuracy alone ends above every limit here."""
    scores = (table.latency_ms + table.energy_mj).mean(axis=-1)
    scores = 2.0 * scores / scores.max()
    supernet = ScoredSupernet(table.space, scores, seed)
    return make_problem(table, supernet=supernet, dataset=Unlabelled(640))


def _metrics(cost):
    return np.asarray([getattr(cost, name) for name in METRICS], np.float32)


@pytest.mark.parametrize("num_gradients", [1, 2, 3])
def test_the_correction_is_the_smallest_that_lowers_everything(num_gradients):
    random = np.random.RandomState(num_gradients)
    for _ in range(50):
        step = random.normal(size=8)
        gradients = random.normal(size=(num_gradients, 8))
        correction = smallest_correction(step, gradients, 0.3)
        assert (gradients @ (step + correction) <= -0.3 + 1e-9).all()
        # No other vector that does it is shorter: of a sphere's points around it none is.
        others = correction + random.normal(size=(2000, 8)) * 0.05
        does = (gradients @ (step + others).T <= -0.3).all(axis=0)
        assert (np.linalg.norm(others[does], axis=1) >= np.linalg.norm(correction) - 1e-9).all()
    falling = -gradients.sum(axis=0) * 100
    assert not smallest_correction(falling, gradients[:1], 1e-6).any()


def test_opposite_gradients_are_corrected_for_the_worse_one():
    gradients = np.asarray([[1.0, 0.0], [-2.0, 0.0]])
    correction = smallest_correction(np.asarray([1.0, 0.0]), gradients, 0.5)
    assert correction == pytest.approx([-1.5, 0.0])


def test_an_altered_step_lowers_the_violated_cost(table):
    """By delta, to first order, with the least change; delta grows, and starts again."""
    supernet, config = Supernet(table.space, 0), dataclasses.replace(CONFIG, limit_delta=1e-4)
    before = np.random.RandomState(0).normal(size=(2, 7)).astype(np.float32)
    supernet.arch_logits.assign(before)
    low = reachable_costs(table)["latency_ms"][0]
    limits = Limits(max_latency_ms=1.01 * low)
    evaluator = ChosenEvaluator(make_problem(table).evaluator, table, limits)
    keeper = LimitKeeper(supernet, evaluator, limits, EDAP.vector, config)

    def expected_latency():
        weights = supernet.mixture_weights()[None]
        derived = table.one_hot(np.argmax(weights, axis=-1))
        index = evaluator.evaluate(derived, EDAP.vector[None]).accelerator_index
        return float(table.metrics_at(weights, index)[0, 0])

    first = expected_latency()
    is_altered, excess = keeper.keep(before)
    assert is_altered and excess > 0.0
    fall = (first - expected_latency()) / limits.max_latency_ms
    deltas = 1e-4 * 1.01 ** np.arange(11)  # ten alterations do not suffice
    assert fall == pytest.approx(deltas[:10].sum(), rel=0.05)
    assert keeper.delta == pytest.approx(deltas[10])
    # Where no step had been made, the smallest correction goes along the gradient.
    for _ in range(300):
        before = supernet.arch_logits.numpy()
        is_altered, excess = keeper.keep(before)
        if not is_altered:
            break
    assert excess <= 0.0 and keeper.delta == 1e-4
    np.testing.assert_array_equal(supernet.arch_logits.numpy(), before)


@pytest.fixture(scope="module")
def free(table):
    return DanceSearch(CONFIG, seed=1).search(_problem(table))


@pytest.mark.parametrize(
    ("fields", "kept_by"),
    [((0,), "gradient"), ((2,), "gradient"), ((0, 1, 2), "gradient"), ((1, 2), "penalty")],
)
def test_every_result_is_within_its_limits(table, every, free, fields, kept_by):
    assert free.limits is None
    pairs = every.reshape(-1, 3)
    target = pairs[np.argmin(pairs.astype(np.float64).prod(axis=1))]
    limits = {f"max_{METRICS[i]}": float(target[i]) * 1.1 for i in fields}
    config = dataclasses.replace(CONFIG, limits=kept_by, **limits)
    assert not (_metrics(free.exact_cost) <= limits_of(config).vector).all() or fields == (2,)
    result = DanceSearch(config, seed=1).search(_problem(table))

    exact = _metrics(result.exact_cost)
    assert (exact <= limits_of(config).vector).all()
    row = table.accelerators.encode(result.accelerator)
    ops = table.space.to_indices(result.architecture)
    metrics = every[np.flatnonzero((ops == NETWORKS).all(axis=1))[0]]
    np.testing.assert_allclose(exact, metrics[row])
    # The accelerator is the best of those within the limits.
    is_within = (metrics <= limits_of(config).vector).all(axis=1)
    edap = metrics.astype(np.float64).prod(axis=1)
    assert edap[row] == pytest.approx(edap[is_within].min(), rel=1e-5)
    assert result.exact_best_cost.edap_ms_mj_mm2 == pytest.approx(edap.min(), rel=1e-5)

    record = result.limits
    assert {k: v for k, v in record.items() if v in limits.values()} == limits
    assert record["kept_by"] == kept_by
    assert record["is_repaired"] == (record["derived_ops"] != list(result.architecture.ops))
    assert (record["lost_log_probability"] > 0) == record["is_repaired"]
    derived = np.asarray([record["derived_exact"][name] for name in METRICS], np.float32)
    assert (derived <= limits_of(config).vector).all() != record["is_repaired"]
    if kept_by == "gradient":
        assert result.history[-1].limit_excess is not None
        assert fields == (2,) or any(r.altered_share for r in result.history[1:])


def test_altered_steps_end_within_where_a_weak_penalty_does_not(table, every):
    """Of the network that is derived, before any repair."""
    fastest = every[..., 0].min(axis=1)
    needs_repair = {"gradient": None, "penalty": None}
    for kept_by in needs_repair:
        config = dataclasses.replace(
            CONFIG,
            limits=kept_by,
            limit_penalty=0.05,
            max_latency_ms=float(np.quantile(fastest, 0.2)),
            limit_delta=0.01,
        )
        result = DanceSearch(config, seed=1).search(_problem(table))
        needs_repair[kept_by] = result.limits["is_repaired"]
    assert needs_repair == {"gradient": False, "penalty": True}


def test_repair_gives_up_the_least_log_probability(table, every):
    logits = np.random.RandomState(3).normal(size=(2, 7)) * 2
    masked = np.where(table.space.op_mask, logits, -np.inf)
    log_p = masked - np.log(np.exp(masked).sum(axis=1, keepdims=True))
    totals = log_p[0, NETWORKS[:, 0]] + log_p[1, NETWORKS[:, 1]]
    derived = table.space.from_indices(masked.argmax(axis=1))
    num_repaired = 0
    for quantiles in itertools.product((0.02, 0.1, 0.3), (0.05, 0.3), (0.2, 1.0)):
        values = [np.quantile(every[..., i], q) for i, q in enumerate(quantiles)]
        fields = {f"max_{name}": float(v) for name, v in zip(METRICS, values, strict=True)}
        config = dataclasses.replace(CONFIG, **fields)
        vector = limits_of(config).vector
        is_within = (every <= vector).all(axis=2).any(axis=1)
        if not is_within.any():
            with pytest.raises(UserError, match="out of reach"):
                Judge(config, make_problem(table))
            continue
        architecture, lost = Judge(config, make_problem(table)).repair(derived, logits)
        best = NETWORKS[is_within][totals[is_within].argmax()]
        assert table.space.to_indices(architecture).tolist() == best.tolist()
        assert lost == pytest.approx(totals.max() - totals[is_within].max())
        num_repaired += architecture != derived
    assert num_repaired > 2


def test_the_chosen_accelerator_is_the_best_within_or_the_nearest(table, every):
    limits = Limits(
        float(np.quantile(every[..., 0], 0.1)),
        float(np.quantile(every[..., 1], 0.3)),
        float(np.quantile(every[..., 2], 0.6)),
    )
    weights = table.one_hot(NETWORKS)
    vectors = np.tile(EDAP.vector, (len(NETWORKS), 1))
    evaluation = ChosenEvaluator(make_problem(table).evaluator, table, limits).evaluate(
        weights, vectors
    )
    best = best_accelerators(table, weights, vectors, limits)
    feasible = best.is_feasible.numpy()
    assert 0 < feasible.sum() < len(NETWORKS)
    index = evaluation.accelerator_index.numpy()
    assert (index[feasible] == best.accelerator_index.numpy()[feasible]).all()
    for row in np.flatnonzero(~feasible):
        is_in_area = every[row, :, 2] <= limits.vector[2]
        excess = np.where(is_in_area, (every[row] / limits.vector)[:, :2].max(axis=1), np.inf)
        assert excess[index[row]] == excess.min()
    np.testing.assert_allclose(evaluation.metrics, every[range(len(NETWORKS)), index], rtol=1e-6)


def test_a_search_under_limits_resumes_to_the_same_result(table, every, tmp_path):
    limit = float(np.quantile(every[..., 0].min(axis=1), 0.2))
    config = dataclasses.replace(CONFIG, max_latency_ms=limit, epochs=3)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = DanceSearch(config, seed=3, output_dir=str(tmp_path / "whole")).search(_problem(table))

    def die(record):
        if record.step == 50:  # after the checkpoint of step 40
            raise MemoryError

    cut = str(tmp_path / "cut")
    with pytest.raises(MemoryError):
        DanceSearch(config, seed=3, output_dir=cut).search(_problem(table), die)
    resumed = DanceSearch(config, seed=3, output_dir=cut, is_resuming=True).search(_problem(table))
    assert dataclasses.replace(resumed, times={}) == dataclasses.replace(whole, times={})
    histories = [tmp_path / name / "history.jsonl" for name in ("whole", "cut")]
    assert histories[0].read_bytes() == histories[1].read_bytes()
    path = resumed.save(cut)
    assert SearchResult.load(path) == resumed
    with open(path, encoding="utf-8") as file:
        assert json.load(file)["limits"]["max_latency_ms"] == limit


def test_a_limit_out_of_reach_is_refused_before_any_step(table, tmp_path):
    low = reachable_costs(table)["energy_mj"][0]
    config = dataclasses.replace(CONFIG, max_energy_mj=low * 0.9)
    with pytest.raises(UserError, match="out of reach: the least is"):
        DanceSearch(config, output_dir=str(tmp_path)).search(_problem(table))
    assert not os.listdir(tmp_path)
    with pytest.raises(UserError, match="not within"):
        dataclasses.replace(CONFIG, max_area_mm2=-1.0)
    with pytest.raises(UserError, match="not one of gradient, penalty"):
        dataclasses.replace(CONFIG, limits="hope")
