"""Costs within reach, and the best network within limits, against plain enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.hardware.objective import Limits
from dance_tf.search.limits import NetworkFinder, check_reachable, least_within, reachable_costs
from dance_tf.structs import METRICS
from tests.evaluator.fake_table import make_fake_table, with_arrays
from tests.search.problems import shuffled_table

NETWORKS = np.asarray(list(itertools.product(range(6), range(7))), np.int32)


@pytest.fixture(scope="module")
def table():
    return shuffled_table(5)


@pytest.fixture(scope="module")
def every(table):
    """Metrics of every pair, float32 [42, A, 3]."""
    return table.metrics_of(NETWORKS).numpy()


def _limits(every, quantiles):
    """Limits at quantiles of all pairs; None for none."""
    flat = every.reshape(-1, 3)
    values = [
        None if q is None else float(np.quantile(flat[:, i], q)) for i, q in enumerate(quantiles)
    ]
    return Limits(*values)


def _brute_force(every, limits, losses):
    """Return the least loss of a network that some accelerator runs within limits."""
    is_within = (every <= limits.vector).all(axis=2).any(axis=1)
    totals = losses[0, NETWORKS[:, 0]] + losses[1, NETWORKS[:, 1]]
    return totals[is_within].min() if is_within.any() else None


_QUANTILES = list(itertools.product((None, 0.02, 0.2, 0.6), (None, 0.05, 0.4), (None, 0.1, 0.5)))


@pytest.mark.parametrize("seed", range(3))
def test_the_finder_finds_what_enumeration_finds(table, every, seed):
    losses = np.random.RandomState(seed).exponential(10.0 ** (seed - 1), size=(2, 7))
    num_found = 0
    for quantiles in _QUANTILES:
        limits = _limits(every, quantiles)
        found = NetworkFinder(table, limits).find(losses)
        expected = _brute_force(every, limits, losses)
        assert (found is None) == (expected is None), quantiles
        if found is not None:
            num_found += 1
            assert losses[[0, 1], found].sum() == pytest.approx(expected, rel=1e-9)
            assert len(NetworkFinder(table, limits).metrics_within(found))
            assert NetworkFinder(table, limits).find() is not None
    assert 10 < num_found < len(_QUANTILES)


def test_a_limit_at_a_reported_value_is_kept(table, every):
    losses = np.zeros((2, 7))
    for row in range(0, len(NETWORKS), 5):
        metrics = every[row, 3]
        limits = Limits(*map(float, metrics))
        losses[:] = 1.0
        losses[[0, 1], NETWORKS[row]] = 0.0
        assert NetworkFinder(table, limits).find(losses).tolist() == NETWORKS[row].tolist()


def test_in_a_larger_space_it_finds_what_enumeration_finds():
    """Nine blocks; the networks that keep the first six at their best are enumerated."""
    table = make_fake_table("cifar_mbconv_small")
    mask = table.space.op_mask
    losses = np.where(mask, np.random.RandomState(1).exponential(size=mask.shape), 0.0)
    losses -= np.where(mask, losses, np.inf).min(axis=1, keepdims=True)
    losses[~mask] = 0.0
    kept = np.where(mask, losses, np.inf).argmin(axis=1)
    is_open = mask.copy()
    is_open[:6] = False
    is_open[range(6), kept[:6]] = True
    choices = [np.flatnonzero(row) for row in is_open]
    networks = np.asarray(list(itertools.product(*choices)), np.int32)
    metrics = table.metrics_of(networks).numpy()
    totals = losses[np.arange(9), networks].sum(axis=1)
    for quantile in (0.1, 0.3, 0.6):
        latency_ms, energy_mj, _ = np.quantile(metrics[:, 7], quantile, axis=0)
        limits = Limits(float(latency_ms), float(energy_mj))
        is_within = (metrics <= limits.vector).all(axis=2).any(axis=1)
        found = NetworkFinder(table, limits, op_mask=is_open).find(losses)
        assert is_within.any() and found is not None
        assert losses[np.arange(9), found].sum() == pytest.approx(totals[is_within].min())
        freely = NetworkFinder(table, limits).find(losses)
        assert losses[np.arange(9), freely].sum() <= totals[is_within].min() + 1e-9


def test_the_range_within_reach_is_that_of_all_pairs(table, every):
    costs = reachable_costs(table)
    for i, metric in enumerate(METRICS):
        assert costs[metric] == (every[..., i].min(), every[..., i].max())
    rows, mask = [4, 7], np.zeros((2, 7), bool)
    mask[[0, 1], [2, 6]] = True
    few = every[2 * 7 + 6][rows]
    costs = reachable_costs(table, rows, mask)
    assert [costs[m] for m in METRICS] == [(c.min(), c.max()) for c in few.T]


@pytest.mark.parametrize("seed", range(4))
def test_the_least_within_limits_is_that_of_enumeration(table, every, seed):
    random = np.random.RandomState(seed)
    for i, metric in enumerate(METRICS):
        quantiles = random.uniform(0.02, 0.5, 3)
        limits = _limits(every, quantiles)
        others = [j for j in range(3) if j != i]
        is_within = (every[..., others] <= limits.vector[others]).all(axis=2)
        expected = every[..., i][is_within].min() if is_within.any() else None
        assert least_within(table, metric, limits) == expected


@pytest.mark.parametrize("metric", METRICS)
def test_a_limit_out_of_reach_is_refused_with_the_least_within_reach(table, every, metric):
    least = every[..., METRICS.index(metric)].min()
    low = Limits(**{f"max_{metric}": float(least) * 0.99})
    with pytest.raises(UserError, match=f"max_{metric} = .* the least is ") as caught:
        check_reachable(table, low)
    told = float(str(caught.value).rpartition(" ")[2])
    check_reachable(table, Limits(**{f"max_{metric}": told}))
    assert np.float32(told) == least and "\n" not in str(caught.value)


def test_limits_out_of_reach_together_are_refused_with_what_each_would_have_to_be(table, every):
    fast = every[..., 0].min()
    limits = Limits(float(fast) * 1.05, None, float(every[..., 2].min()) * 1.05)
    with pytest.raises(UserError, match="out of reach together: max_latency_ms = ") as caught:
        check_reachable(table, limits)
    values = [float(part.split()[0]) for part in str(caught.value).split("have to be ")[1:]]
    is_small = every[..., 2] <= limits.vector[2]
    assert np.float32(values[0]) == every[..., 0][is_small].min()
    assert np.float32(values[1]) == every[..., 2][every[..., 0] <= limits.vector[0]].min()
    check_reachable(table, Limits(values[0], None, limits.max_area_mm2))
    check_reachable(table, Limits(limits.max_latency_ms, None, values[1]))
    with pytest.raises(UserError, match="but of no two"):
        check_reachable(table, Limits(*(every[..., i].min() * 1.0001 for i in range(3))))


def test_what_cannot_run_is_never_within_limits(table):
    latency = table.latency_ms.copy()
    latency[0, 1:] = np.inf  # one op is left in the first block
    latency[1, :, 5:] = np.inf  # and few accelerators run the second
    broken = with_arrays(table, latency_ms=latency)
    losses = np.random.RandomState(0).exponential(size=(2, 7))
    found = NetworkFinder(broken, Limits(max_energy_mj=1e6)).find(losses)
    assert found.tolist() == [0, losses[1].argmin()]
    metrics = broken.metrics_of(NETWORKS).numpy()
    highest = metrics[np.isfinite(metrics[..., 0]), 0].max()
    assert reachable_costs(broken)["latency_ms"][1] == highest
    latency[0] = np.inf
    with pytest.raises(UserError, match="no network of the space runs"):
        reachable_costs(with_arrays(table, latency_ms=latency))
