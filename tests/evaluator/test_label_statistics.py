"""Statistics of labels against plain counting, and the warnings about poor ones."""

from __future__ import annotations

import numpy as np
import pytest

from dance_tf.evaluator import label_statistics as stats
from dance_tf.evaluator.dataset import OBJECTIVE_KINDS, draw_objectives
from dance_tf.evaluator.label_dataset import LabelConfig, draw_chunk
from tests.evaluator.fake_table import with_arrays
from tests.evaluator.test_label_dataset import values_in_float64


@pytest.fixture(scope="module")
def chunk(table):
    return draw_chunk(LabelConfig(table=table, num_architectures=1200), 0)


@pytest.fixture(scope="module")
def summary(table, chunk):
    return stats.label_statistics(table, *chunk[:4])


def test_entropy():
    assert stats.entropy_bits(np.repeat([3, 5, 7, 9], 4)) == pytest.approx(2.0)
    assert stats.entropy_bits(np.repeat([0, 1], [1, 3])) == pytest.approx(0.811278, abs=1e-6)
    assert stats.entropy_bits(np.zeros(9)) == stats.entropy_bits(np.empty(0)) == 0.0


@pytest.mark.parametrize("kind", OBJECTIVE_KINDS[1:])
def test_kinds_are_recognised(kind: str):
    vectors = draw_objectives(kind, 200, np.random.default_rng(0))
    assert {OBJECTIVE_KINDS[k] for k in stats.kinds_of_objectives(vectors)} == {kind}


def test_edap_against_plain_counting(table, chunk, summary):
    of_edap = summary["objectives"]["edap"]
    labels = chunk.best_accelerators[:, 1]
    counts = np.unique(labels, return_counts=True)[1]
    assert of_edap["num_labels"] == 400 == counts.sum()
    assert of_edap["num_ever_best"] == len(counts)
    assert of_edap["most_frequent_share"] == counts.max() / 400
    pe_x = np.unique(table.accelerators.all().pe_x[labels], return_counts=True)[1] / 400
    expected = -np.sum(pe_x * np.log2(pe_x))
    assert of_edap["head_entropy_bits"]["pe_x"] == pytest.approx(expected)
    energy = chunk.best_metrics[:, 1, 1]
    assert of_edap["best_metrics"]["energy_mj"] == pytest.approx(
        {"min": energy.min(), "median": np.median(energy), "max": energy.max()}
    )


def test_each_kind_counts_its_own_labels(chunk, summary):
    counts = {name: of["num_labels"] for name, of in summary["objectives"].items()}
    assert sum(counts.values()) == summary["num_labels"] == 800
    is_single = np.count_nonzero(chunk.objectives[:, 0, 1:], axis=1) == 1
    assert counts["single_metrics"] == is_single.sum()
    assert summary["num_ever_best"] == len(np.unique(chunk.best_accelerators))
    assert summary["num_labels_without_accelerator"] == 0


@pytest.mark.parametrize("kind", ["edap", "random_linear"])
def test_one_for_all_is_the_least_loss_by_brute_force(table, chunk, summary, kind):
    kinds = stats.kinds_of_objectives(chunk.objectives[:, 0])
    rows = np.arange(400) if kind == "edap" else kinds == OBJECTIVE_KINDS.index(kind)
    vectors = chunk.objectives[rows, 1 if kind == "edap" else 0]
    values = values_in_float64(table, chunk.mixture_weights[rows], vectors)
    losses = values / values.min(axis=1, keepdims=True) - 1
    one = summary["objectives"][kind]["one_for_all"]
    assert losses.mean(axis=0)[one["accelerator_index"]] == pytest.approx(
        losses.mean(axis=0).min(), abs=1e-6
    )
    best = losses[:, one["accelerator_index"]]
    assert one["mean_loss"] == pytest.approx(best.mean(), abs=2e-6)
    assert one["max_loss"] == pytest.approx(best.max(), abs=1e-5)
    decoded = table.accelerators.decode(one["accelerator_index"])
    assert one["accelerator"] == vars(decoded)


def test_good_labels_have_no_warning(summary):
    good = summary | {"num_pairs": 100, "num_infinite_pairs": 1, "objectives": {}}
    assert stats.describe_degeneracy(good) == []
    good["objectives"] = {"random_products": summary["objectives"]["random_products"]}
    found = stats.describe_degeneracy(good)
    entropies = good["objectives"]["random_products"]["head_entropy_bits"]
    assert len(found) == any(bits < stats.MIN_HEAD_ENTROPY_BITS for bits in entropies.values())


def test_one_answer_for_everything_is_seen(table):
    # One accelerator is better than the others in everything.
    latency, energy = table.latency_ms.copy(), table.energy_mj.copy()
    fixed, area = table.fixed_latency_ms.copy(), table.area_mm2.copy()
    fixed_energy = table.fixed_energy_mj.copy()
    for array in (latency, energy, fixed, fixed_energy, area):
        array[..., 5] = 0.5 * array.min(axis=-1)
    best = with_arrays(
        table,
        latency_ms=latency,
        energy_mj=energy,
        fixed_latency_ms=fixed,
        fixed_energy_mj=fixed_energy,
        area_mm2=area,
    )
    chunk = draw_chunk(LabelConfig(table=best, num_architectures=300), 0)
    summary = stats.label_statistics(best, *chunk[:4])
    assert summary["num_ever_best"] == 1
    one = summary["objectives"]["edap"]["one_for_all"]
    assert (one["accelerator_index"], one["mean_loss"], one["max_loss"]) == (5, 0.0, 0.0)
    pairs = {"num_pairs": 100, "num_infinite_pairs": 3}
    lines = stats.describe_degeneracy(summary | pairs)
    assert "3.0% of the random pairs" in lines[0]
    assert len(lines) == 1 + 3 * len(summary["objectives"])
    assert lines[1] == "edap: one accelerator is the best for every network"
    assert "pe_x (0.00 bits), pe_y" in lines[2] and "loses 0.000% on average" in lines[3]
    # A head with one value is no question.
    sizes = {"pe_x": 1, "pe_y": 3, "rf_bytes": 2, "dataflow": 3}
    assert "pe_x" not in stats.describe_degeneracy(summary | pairs, sizes)[2]


def test_networks_that_no_accelerator_runs_are_counted_and_passed_over(table):
    latency = table.latency_ms.copy()
    latency[0, 0] = np.inf
    partly = with_arrays(table, latency_ms=latency)
    partly.reference = table.reference
    chunk = draw_chunk(LabelConfig(table=partly, num_architectures=300), 0)
    cannot = chunk.mixture_weights[:, 0, 0] > np.finfo(np.float32).tiny
    summary = stats.label_statistics(partly, *chunk[:4])
    assert summary["num_labels_without_accelerator"] == 2 * cannot.sum() > 0
    lines = stats.describe_degeneracy(summary | {"num_pairs": 1, "num_infinite_pairs": 0})
    assert lines[0] == f"{2 * cannot.sum()} of 200 labels: no accelerator runs the network"
    assert np.isfinite(summary["objectives"]["edap"]["one_for_all"]["max_loss"])
