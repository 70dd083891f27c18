"""The assessment of trust: what is atypical, and the numbers of evaluators with known faults."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.evaluator.trust import ATYPICAL, assess_trust
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import Evaluation, Trust
from tests.evaluator.fake_table import make_fake_table


@dataclasses.dataclass
class FaultyEvaluator:
    """Exact but where the first block has op 0, where the latency is 3 % too high."""

    table: Any
    sees_its_fault: bool
    kind = "faulty"

    def _has_fault(self, weights: Any) -> np.ndarray:
        return np.asarray(weights)[:, 0, 0] > 0.5

    def evaluate(self, mixture_weights: Any, objective_vectors: Any) -> Evaluation:
        index = best_accelerators(self.table, mixture_weights, objective_vectors).accelerator_index
        return Evaluation(self.estimate(mixture_weights, index), index)

    def estimate(self, mixture_weights: Any, accelerator_index: Any) -> tf.Tensor:
        factors = np.ones((len(mixture_weights), 3), np.float32)
        factors[self._has_fault(mixture_weights), 0] = 1.03
        return self.table.metrics_at(mixture_weights, accelerator_index) * factors

    def trust(self, weights: Any, vectors: Any, evaluation: Evaluation) -> Trust:
        del vectors, evaluation
        faulty = self._has_fault(weights)
        is_seen = faulty & self.sees_its_fault
        return Trust(np.zeros(len(faulty)), np.where(is_seen, 0.03, 0.001), ~is_seen)


def test_a_fault_that_is_seen_is_flagged(table):
    report = assess_trust(FaultyEvaluator(table, True), table, 60, seed=0)
    for group in (report["typical"], *report["atypical"].values(), report["all"]):
        assert group["share_flagged"] == group["num_large_errors"] / group["num"]
        assert group["recall"] == 1.0
        assert group["largest_trusted_regret"] < 1e-5 and group["largest_trusted_error"] < 1e-5
        assert group["error_bound_held"] is True
    assert tuple(report["atypical"]) == tuple(ATYPICAL)
    assert report["all"]["num"] == 60 * (1 + len(ATYPICAL))
    assert report["all"]["num_large_errors"] == sum(
        group["num_large_errors"] for group in (report["typical"], *report["atypical"].values())
    )


def test_a_fault_that_is_not_seen_is_the_largest_trusted_error(table):
    report = assess_trust(FaultyEvaluator(table, False), table, 60, seed=0)
    assert report["all"]["share_flagged"] == 0.0 == report["all"]["recall"]
    assert report["all"]["num_large_errors"] > 20
    assert report["all"]["largest_trusted_error"] == pytest.approx(0.03, abs=1e-5)
    assert report["all"]["error_bound_held"] is False


class DistrustingEvaluator(FaultyEvaluator):
    """Answers with accelerator 7 whatever is asked, and trusts nothing."""

    def evaluate(self, mixture_weights: Any, objective_vectors: Any) -> Evaluation:
        index = np.full(len(mixture_weights), 7, np.int32)
        return Evaluation(self.estimate(mixture_weights, index), index)

    def trust(self, weights: Any, vectors: Any, evaluation: Evaluation) -> Trust:
        assert (np.asarray(evaluation.accelerator_index) == 7).all()
        nothing = np.zeros(len(weights))
        return Trust(nothing, nothing + 0.03, nothing > 0)


def test_regret_is_a_large_error_too_and_without_trust_there_is_no_largest(table):
    group = assess_trust(DistrustingEvaluator(table, True), table, 60, seed=0)["all"]
    assert group["num_large_errors"] > 150
    assert (group["share_flagged"], group["recall"]) == (1.0, 1.0)
    assert group["largest_trusted_regret"] is group["largest_trusted_error"] is None


@pytest.mark.parametrize("name", ATYPICAL)
def test_atypical_queries_are_queries_of_the_space(table, name):
    mixtures, objectives = ATYPICAL[name](table.space, 50, np.random.default_rng(0))
    assert mixtures.dtype == objectives.dtype == np.float32
    assert objectives.shape == (50, 4) and (objectives[:, 1:].max(axis=1) > 0).all()
    assert (mixtures[:, ~table.space.op_mask] == 0).all()
    np.testing.assert_allclose(mixtures.sum(axis=-1), 1.0, atol=1e-6)


def test_atypical_queries_are_atypical():
    space = make_fake_table("cifar_mbconv_small").space
    rng = np.random.default_rng(0)
    has_all = space.op_mask.all(axis=0)
    same = ATYPICAL["one_op_everywhere"](space, 300, rng)[0]
    first = same[:, 0].argmax(axis=-1)
    is_common = has_all[first] & (same.argmax(axis=-1) == first[:, None]).all(axis=1)
    assert is_common.mean() > 0.8
    zero = ATYPICAL["mostly_zero"](space, 300, rng)[0][:, space.op_mask[:, -1], -1]
    assert zero.mean() == pytest.approx(0.9, abs=0.05)
    biased = ATYPICAL["biased_ops"](space, 300, rng)[0]
    most_frequent = biased[:, :, has_all].mean(axis=1).max(axis=-1)
    assert np.median(most_frequent) > 0.5
    objectives = ATYPICAL["extreme_objectives"](space, 300, rng)[1]
    weights = np.sort(objectives[:, 1:], axis=1)
    assert (weights[:, 1] <= 0.01 * weights[:, 2] * 1.001).all() and (weights[:, 0] > 0).all()
