"""Assessment: the exact evaluator is perfect in it, an untrained one is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.evaluator.assessment import evaluate_evaluator
from dance_tf.evaluator.dataset import OBJECTIVE_KINDS
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.evaluator.neural import EvaluatorDomain, NeuralEvaluator, make_networks
from dance_tf.hardware.accelerator import HEADS
from dance_tf.structs import METRICS


@pytest.fixture(scope="module")
def exact_report(table) -> dict:
    return evaluate_evaluator(ExactEvaluator(table), table, 300, seed=0)


@pytest.fixture(scope="module")
def untrained_report(table) -> dict:
    domain = EvaluatorDomain.of_table(table)
    generator, estimator = make_networks(
        domain,
        cell_mask=table.latency_ms.max(axis=-1) > 0,
        num_blocks=1,
        generator_units=8,
        estimator_units=8,
    )
    evaluator = NeuralEvaluator(generator, estimator, domain=domain, candidates=np.arange(54))
    return evaluate_evaluator(evaluator, table, 300, seed=0)


def test_has_every_number_and_is_strict_json(exact_report, untrained_report):
    for report in (exact_report, untrained_report):
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        for architectures in ("one_hot", "soft"):
            part = report[architectures]
            assert tuple(part["objectives"]) == OBJECTIVE_KINDS
            for kind in part["objectives"].values():
                assert tuple(kind["heads"]) == HEADS
                assert tuple(kind["error_end_to_end"]) == METRICS
                assert {"mean", "p50", "p99", "max"} < set(kind["regret"])
            assert {"median", "p10", "p1"} < set(part["gradient_cosine"])


@pytest.mark.parametrize("architectures", ["one_hot", "soft"])
def test_the_exact_evaluator_has_no_error(exact_report, architectures):
    part = exact_report[architectures]
    for kind in part["objectives"].values():
        assert all(head["accuracy"] == 1.0 for head in kind["heads"].values())
        assert kind["regret"]["max"] < 1e-6  # rounding
    for error in part["error_at_random_accelerators"].values():
        assert error["p99"] == 0.0
    cosine = part["gradient_cosine"]
    assert cosine["num"] > 250
    assert cosine["p1"] == pytest.approx(1.0, abs=1e-6)


def test_one_hot_metrics_of_the_exact_evaluator_are_exact(exact_report):
    for kind in exact_report["one_hot"]["objectives"].values():
        assert all(error["p99"] < 1e-6 for error in kind["error_end_to_end"].values())


def test_an_untrained_evaluator_is_seen_to_be_bad(untrained_report):
    for architectures in ("one_hot", "soft"):
        part = untrained_report[architectures]
        products = part["objectives"]["random_products"]
        assert products["regret"]["mean"] > 0.1
        assert products["heads"]["dataflow"]["accuracy"] < 0.9
        assert part["error_at_random_accelerators"]["latency_ms"]["mean"] > 0.1
        assert part["gradient_cosine"]["median"] < 0.99


def test_labels_are_described_whatever_the_evaluator(exact_report, untrained_report):
    for kind in OBJECTIVE_KINDS:
        ours, theirs = (
            report["one_hot"]["objectives"][kind] for report in (exact_report, untrained_report)
        )
        assert ours["num_best_accelerators"] == theirs["num_best_accelerators"]
        for head in HEADS:
            entropy = ours["heads"][head]["label_entropy_bits"]
            majority = ours["heads"][head]["majority_accuracy"]
            assert entropy == theirs["heads"][head]["label_entropy_bits"]
            assert 0.0 <= entropy <= np.log2(3) + 1e-6
            # A distribution whose largest share is m has at least -log2(m) bits.
            assert entropy >= -np.log2(majority) - 1e-9


def test_the_seed_determines_the_report(table, exact_report):
    again = evaluate_evaluator(ExactEvaluator(table), table, 300, seed=0)
    assert again == exact_report
    other = evaluate_evaluator(ExactEvaluator(table), table, 300, seed=1)
    assert other["one_hot"] != exact_report["one_hot"]


def test_more_than_one_chunk_of_architectures(exact_report):
    assert exact_report["num_architectures"] == 300  # one whole chunk and a part
    assert exact_report["num_accelerators"] == 54


def test_at_least_one_architecture(table):
    with pytest.raises(UserError, match="num_architectures is 0"):
        evaluate_evaluator(ExactEvaluator(table), table, 0, seed=0)
