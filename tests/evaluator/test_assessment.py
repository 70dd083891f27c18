"""Assessment: the exact evaluator is perfect in it, a wrong one has the numbers of its faults."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator.assessment import evaluate_evaluator
from dance_tf.evaluator.dataset import (
    OBJECTIVE_KINDS,
    draw_objectives,
    sample_mixtures,
    sample_one_hot,
)
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.evaluator.training import EvaluatorTrainer
from dance_tf.hardware.accelerator import HEADS
from dance_tf.structs import METRICS, Evaluation, Trust

ARCHITECTURES = ("one_hot", "soft")
NUM_SOFT_MINIMUM = 80  # one whole chunk and a part


class WrongEvaluator:
    """Always the same accelerator, and its exact metrics times a factor each."""

    kind = "wrong"
    factors = (1.02, 0.99, 1.0)

    def __init__(self, table: Any, index: int) -> None:
        self.table, self.index = table, index

    def evaluate(self, mixture_weights: Any, objective_vectors: Any) -> Evaluation:
        index = tf.fill([len(objective_vectors)], self.index)
        return Evaluation(self.estimate(mixture_weights, index), index)

    def estimate(self, mixture_weights: Any, accelerator_index: Any) -> tf.Tensor:
        return self.table.metrics_at(mixture_weights, accelerator_index) * self.factors

    def trust(self, weights: Any, vectors: Any, evaluation: Evaluation) -> Trust:
        del vectors, evaluation
        nothing = np.zeros(len(weights), np.float32)
        return Trust(nothing, nothing + 0.03, nothing == 0)


def _report(evaluator: Any, table: Any) -> dict:
    return evaluate_evaluator(evaluator, table, 600, seed=0, num_soft_minimum=NUM_SOFT_MINIMUM)


@pytest.fixture(scope="module")
def exact_report(table) -> dict:
    return _report(ExactEvaluator(table), table)


@pytest.fixture(scope="module")
def wrong_report(table) -> dict:
    return _report(WrongEvaluator(table, 7), table)


@pytest.fixture(scope="module")
def untrained_report(table) -> dict:
    config = EvaluatorConfig(
        generator_form="joint", num_blocks=1, generator_units=8, estimator_units=8
    )
    trainer = EvaluatorTrainer(table, config, 0, np.arange(54))
    evaluator = trainer.evaluator()
    return _report(evaluator, table)


def test_has_every_number_and_is_strict_json(exact_report, untrained_report, wrong_report):
    for report in (exact_report, untrained_report, wrong_report):
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        assert report["num_architectures"] == 600  # one whole chunk and a part
        assert report["num_accelerators"] == 54
        for architectures in ARCHITECTURES:
            part = report[architectures]
            assert tuple(part["objectives"]) == OBJECTIVE_KINDS
            for kind in part["objectives"].values():
                assert tuple(kind["heads"]) == HEADS
                assert tuple(kind["error_end_to_end"]) == METRICS
                assert {"mean", "p50", "p99", "max"} < set(kind["regret"])
            for cosine in part["gradient_cosine"].values():
                assert set(cosine) == {"num", "median", "p10", "p1"}


@pytest.mark.parametrize("architectures", ARCHITECTURES)
def test_the_exact_evaluator_has_no_error(exact_report, architectures):
    part = exact_report[architectures]
    for kind in part["objectives"].values():
        assert all(head["accuracy"] == 1.0 for head in kind["heads"].values())
        assert kind["regret"]["max"] < 1e-6  # rounding
        assert kind["regret"]["share_within_0.001"] == 1.0
    for error in part["error_at_random_accelerators"].values():
        assert error["p99"] == 0.0
    cosine = part["gradient_cosine"]["soft_minimum"]
    assert cosine["num"] == NUM_SOFT_MINIMUM  # of 600: the rest is not asked for
    assert cosine["p1"] == pytest.approx(1.0, abs=1e-6)


def test_the_two_minima_agree_where_nothing_is_averaged(exact_report):
    """At one-hot architectures the soft minimum is the hard one; at soft ones it is near."""
    hard = exact_report["one_hot"]["gradient_cosine"]["hard_minimum"]
    assert hard["num"] == 600
    assert hard["p1"] == pytest.approx(1.0, abs=1e-6)
    soft = exact_report["soft"]["gradient_cosine"]["hard_minimum"]
    assert 0.99 < soft["median"] <= 1.0


def test_trust_is_part_of_the_report(exact_report, wrong_report):
    exact, wrong = exact_report["trust"]["all"], wrong_report["trust"]["all"]
    assert (exact["share_flagged"], exact["num_large_errors"]) == (0.0, 0)
    assert exact["error_bound_held"] and exact["largest_trusted_regret"] < 1e-5
    assert wrong["num_large_errors"] == wrong["num"] and wrong["recall"] == 0.0
    assert wrong["largest_trusted_error"] == pytest.approx(0.02, abs=1e-6)


def test_one_hot_metrics_of_the_exact_evaluator_are_exact(exact_report):
    for kind in exact_report["one_hot"]["objectives"].values():
        assert all(error["p99"] < 1e-6 for error in kind["error_end_to_end"].values())


@pytest.mark.parametrize("architectures", ARCHITECTURES)
def test_errors_of_a_wrong_evaluator_are_its_factors(wrong_report, architectures):
    part = wrong_report[architectures]
    ends = [kind["error_end_to_end"] for kind in part["objectives"].values()]
    for errors in (*ends, part["error_at_random_accelerators"]):
        for metric, factor in zip(METRICS, WrongEvaluator.factors, strict=True):
            expected = {"mean": abs(factor - 1), "p99": abs(factor - 1)}
            assert errors[metric] == pytest.approx(expected, abs=3e-7)


@pytest.mark.parametrize(
    ("architectures", "sample"), [("one_hot", sample_one_hot), ("soft", sample_mixtures)]
)
def test_regret_and_heads_are_those_of_brute_force(table, wrong_report, architectures, sample):
    """The same draws once more, and the arithmetic in plain float64."""
    rng = np.random.default_rng([0, ARCHITECTURES.index(architectures)])
    mixtures = sample(table.space, 600, rng).astype(np.float64)
    latency = np.einsum("bdo,doa->ba", mixtures, table.latency_ms) + table.fixed_latency_ms
    energy = np.einsum("bdo,doa->ba", mixtures, table.energy_mj) + table.fixed_energy_mj
    for kind in OBJECTIVE_KINDS:
        is_linear, *weights = draw_objectives(kind, 600, rng).astype(np.float64).T[..., None]
        parts = [
            metric / unit
            for metric, unit in zip((latency, energy, table.area_mm2), table.reference, strict=True)
        ]
        linear = sum(w * part for w, part in zip(weights, parts, strict=True))
        product = np.prod([part**w for w, part in zip(weights, parts, strict=True)], axis=0)
        values = np.where(is_linear, linear, product)
        regret = values[:, 7] / values.min(axis=1) - 1.0
        measured = wrong_report[architectures]["objectives"][kind]
        expected = {
            "mean": regret.mean(),
            "p50": np.quantile(regret, 0.5),
            "p99": np.quantile(regret, 0.99),
            "max": regret.max(),
            "share_within_0.001": np.mean(regret <= 1e-3),
        }
        assert measured["regret"] == pytest.approx(expected, rel=1e-5, abs=3e-6)
        best = table.accelerators.head_indices(_least(values, table.area_mm2, energy, latency))
        ours = table.accelerators.head_indices([7])
        for position, head in enumerate(HEADS):
            shares = np.bincount(best[:, position]) / 600
            bits = -sum(share * np.log2(share) for share in shares if share)
            accuracy = np.mean(best[:, position] == ours[0, position])
            assert measured["heads"][head] == pytest.approx(
                {
                    "accuracy": accuracy,
                    "label_entropy_bits": bits,
                    "majority_accuracy": shares.max(),
                }
            )


def _least(values, area, energy, latency) -> np.ndarray:
    """Return the column of the least value of each row; ties go by the other arguments."""
    best = []
    for row, of_row in enumerate(values):
        tied = np.flatnonzero(of_row <= of_row.min() * (1 + 2e-6))
        best.append(tied[np.lexsort((latency[row, tied], energy[row, tied], area[tied]))[0]])
    return np.asarray(best)


def test_an_untrained_evaluator_is_seen_to_be_bad(untrained_report):
    for architectures in ARCHITECTURES:
        part = untrained_report[architectures]
        products = part["objectives"]["random_products"]
        assert products["regret"]["mean"] > 0.1
        assert products["heads"]["dataflow"]["accuracy"] < 0.9
        assert part["error_at_random_accelerators"]["latency_ms"]["mean"] > 0.1
        assert part["gradient_cosine"]["hard_minimum"]["median"] < 0.99


def test_labels_are_described_whatever_the_evaluator(exact_report, untrained_report):
    for kind in OBJECTIVE_KINDS:
        ours, theirs = (
            report["one_hot"]["objectives"][kind] for report in (exact_report, untrained_report)
        )
        assert ours["num_best_accelerators"] == theirs["num_best_accelerators"]
        for head in HEADS:
            for name in ("label_entropy_bits", "majority_accuracy"):
                assert ours["heads"][head][name] == theirs["heads"][head][name]


def test_the_seed_determines_the_report(table):
    first, again, other = (
        evaluate_evaluator(WrongEvaluator(table, 7), table, 20, seed=seed) for seed in (0, 0, 1)
    )
    assert again == first
    assert other["one_hot"] != first["one_hot"]


def test_at_least_one_architecture(table):
    with pytest.raises(UserError, match="num_architectures is 0"):
        evaluate_evaluator(ExactEvaluator(table), table, 0, seed=0)
