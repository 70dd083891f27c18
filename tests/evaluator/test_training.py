"""Networks of an evaluator in training: they learn, follow their seed, and stop in time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import EvaluatorConfig
from dance_tf.evaluator.dataset import ever_best_accelerators
from dance_tf.evaluator.training import EvaluatorTrainer

SHORT = EvaluatorConfig(
    generator_units=16, estimator_units=16, estimator_steps=20, generator_steps=20, batch_size=32
)


@pytest.mark.parametrize("generator_form", ["ranked", "joint", "heads"])
def test_overfits_32_rows(table, generator_form):
    candidates = ever_best_accelerators(table, 1024, 0.5, seed=0)
    config = EvaluatorConfig(
        generator_form=generator_form,
        generator_units=64,
        estimator_units=64,
        estimator_steps=300,
        generator_steps=300,
        batch_size=32,
    )
    trainer = EvaluatorTrainer(table, config, 0, candidates)
    for stage in trainer.stages:
        batch = stage.batch(0)
        first = float(stage.train_step(batch))
        while not stage.is_finished:
            last = float(stage.train_step(batch))
        assert last < 0.02 * first
    mixtures, objectives, best, *_ = batch
    evaluation = trainer.evaluator().evaluate(mixtures, objectives)
    np.testing.assert_array_equal(evaluation.accelerator_index, candidates[best])
    exact = table.metrics_at(mixtures, evaluation.accelerator_index)
    np.testing.assert_allclose(evaluation.metrics, exact, rtol=0.03)


@pytest.mark.parametrize("estimator_form", ["plain", "unforwarded"])
def test_the_papers_forms_overfit_32_rows(table, estimator_form):
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0, is_edap=True)
    config = EvaluatorConfig(
        generator_form="heads",
        estimator_form=estimator_form,
        training_objectives="edap",
        estimator_units=64,
        estimator_steps=300,
        batch_size=32,
    )
    [stage, _] = EvaluatorTrainer(table, config, 0, candidates).stages
    batch = architectures, accelerators, metrics = stage.batch(0)
    np.testing.assert_array_equal(metrics, table.metrics_at(architectures, accelerators))
    while not stage.is_finished:
        loss = float(stage.train_step(batch))
    assert loss < 1e-3


def test_a_batch_is_drawn_anew_at_each_step_and_by_seed(without_tracing, table):
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0)
    trainers = [EvaluatorTrainer(table, SHORT, seed, candidates) for seed in (0, 0, 1)]
    for place in range(2):
        first, again, other = (trainer.stages[place].batch(0)[0] for trainer in trainers)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        stage = trainers[0].stages[place]
        stage.train_step()
        assert stage.step == 1
        assert not np.array_equal(stage.batch(1)[0], first)


def test_all_candidates_are_in_every_batch_of_the_estimator(table):
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0)
    stage = EvaluatorTrainer(table, SHORT, 0, candidates).stages[0]
    for step in range(3):
        architectures, accelerators = stage.batch(step)
        assert np.isin(candidates, accelerators).all()
        assert len(architectures) == 16 and len(accelerators) >= 32


def test_with_exact_coefficients_the_estimator_has_no_loss(table):
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0)
    trainer = EvaluatorTrainer(table, SHORT, 0, candidates)
    stage, estimator = trainer.stages[0], trainer.estimator
    batch = stage.batch(0)
    assert float(stage._loss(*batch)) > 1e-3
    exact = tf.gather(tf.constant(estimator.table_coefficients(table)), batch[1])
    estimator.coefficients = lambda heads: exact
    assert float(stage._loss(*batch)) < 1e-9


def test_stops_early_when_nothing_is_gained(without_tracing, table):
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0)
    config = dataclasses.replace(SHORT, early_stop_checks=3, learning_rate=1e-12)
    stage = EvaluatorTrainer(table, config, 0, candidates).stages[0]
    for done in range(4):
        assert not stage.is_finished, done
        stage.check()
    assert stage.is_finished and stage.step == 0
