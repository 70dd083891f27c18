"""Training: it learns, follows its seed, and goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator import training
from dance_tf.evaluator.dataset import ever_best_accelerators
from dance_tf.evaluator.neural import NeuralEvaluator
from dance_tf.evaluator.training import EvaluatorTrainer

SHORT = EvaluatorConfig(
    generator_units=16, estimator_units=16, estimator_steps=20, generator_steps=20, batch_size=32
)


@pytest.fixture(autouse=True)
def _small_numbers(monkeypatch):
    monkeypatch.setattr(training, "_NUM_CANDIDATE_DRAWS", 1024)
    monkeypatch.setattr(training, "_NUM_ASSESSED", 64)
    monkeypatch.setattr(training, "_CHECK_EVERY", 10)
    monkeypatch.setattr(training, "_REPORT_EVERY", 5)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory) -> pathlib.Path:
    """A training from start to end, with its progress written beside it."""
    path = tmp_path_factory.mktemp("finished")
    reports = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_NUM_CANDIDATE_DRAWS", 1024)
        patch.setattr(training, "_NUM_ASSESSED", 64)
        patch.setattr(training, "_CHECK_EVERY", 10)
        patch.setattr(training, "_REPORT_EVERY", 5)
        metrics = training.train_evaluator(
            table, SHORT, 3, str(path), lambda *steps, **losses: reports.append([*steps, losses])
        )
    (path / "returned.json").write_text(json.dumps([metrics, reports], allow_nan=False))
    return path


def _weights(path) -> list[np.ndarray]:
    evaluator = NeuralEvaluator.load(str(path))
    networks = (evaluator.generator, evaluator.estimator)
    return [weight for network in networks for weight in network.get_weights()]


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


def test_a_batch_is_drawn_anew_at_each_step_and_by_seed(table):
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


def test_stops_early_when_nothing_is_gained(table):
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0)
    config = dataclasses.replace(SHORT, early_stop_checks=3, learning_rate=1e-12)
    stage = EvaluatorTrainer(table, config, 0, candidates).stages[0]
    for done in range(4):
        assert not stage.is_finished, done
        stage.check()
    assert stage.is_finished and stage.step == 0


def test_a_finished_training_is_a_folder_with_a_manifest(table, finished):
    assert not (finished / "checkpoints").exists()
    metrics, reports = json.loads((finished / "returned.json").read_text())
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["metrics"] == metrics
    assert manifest["training"]["seed"] == 3
    assert manifest["training"]["config"]["estimator_steps"] == 20
    assert manifest["domain"]["content_hash"] == table.content_hash
    assert metrics["one_hot"]["objectives"]["edap"]["regret"]["mean"] >= 0
    assert [step for step, _, _ in reports] == list(range(5, 41, 5))
    assert {total for _, total, _ in reports} == {40}
    losses = [next(iter(report[2].items())) for report in reports]
    assert [name for name, _ in losses] == 4 * ["relative_error"] + 4 * ["cross_entropy"]
    assert losses[3][1] < losses[0][1]
    assert manifest["trust_thresholds"]["max_predicted_regret"] >= 1e-5
    assert (np.isfinite(list(manifest["trust_thresholds"].values()))).all()


class _StoppedError(Exception):
    pass


def test_a_stopped_training_goes_on_to_the_same_result(table, finished, tmp_path):
    folder = tmp_path / "exp[1]"  # TensorFlow reads this as a pattern.

    def stop_at_25(step: int, total_steps: int, **losses: float) -> None:
        if step == 25:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        training.train_evaluator(table, SHORT, 3, str(folder), stop_at_25)
    assert not (folder / "manifest.json").exists()
    steps = []
    training.train_evaluator(
        table, SHORT, 3, str(folder), lambda step, total, **losses: steps.append(step)
    )
    assert steps[0] == 25  # the checkpoint is that of step 20
    for ours, theirs in zip(_weights(folder), _weights(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_checkpoints_of_another_training_are_left_alone(table, tmp_path):
    def stop(step: int, total_steps: int, **losses: float) -> None:
        if step >= 15:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        training.train_evaluator(table, SHORT, 3, str(tmp_path), stop)
    with pytest.raises(UserError, match="another configuration, seed or cost table"):
        training.train_evaluator(table, SHORT, 4, str(tmp_path))
    [data] = (tmp_path / "checkpoints").glob("*/*.data-*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step_00000010 is not whole .*, and no older one is"):
        training.train_evaluator(table, SHORT, 3, str(tmp_path))
    assert data.exists()
    (tmp_path / "checkpoints" / "checkpoint").touch()
    with pytest.raises(UserError, match="of an earlier version"):
        training.train_evaluator(table, SHORT, 3, str(tmp_path))


def test_of_damaged_checkpoints_the_older_one_leads_to_the_same_end(
    table, finished, tmp_path, capsys
):
    def stop_at_25(step: int, total_steps: int, **losses: float) -> None:
        if step == 25:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        training.train_evaluator(table, SHORT, 3, str(tmp_path), stop_at_25)
    [data] = (tmp_path / "checkpoints" / "step_00000020").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:-1])
    training.train_evaluator(table, SHORT, 3, str(tmp_path))
    assert "going on from that of step 10" in capsys.readouterr().err
    for ours, theirs in zip(_weights(tmp_path), _weights(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_training_is_kept_and_what_it_has_lost_made_again(
    table, finished, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    metrics, _ = json.loads((finished / "returned.json").read_text())
    assert training.train_evaluator(table, SHORT, 3, str(tmp_path), pytest.fail) == metrics
    assert "is finished" in capsys.readouterr().err
    with pytest.raises(UserError, match="another configuration, seed or cost table"):
        training.train_evaluator(table, SHORT, 4, str(tmp_path))
    weights = tmp_path / "estimator.weights.h5"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(UserError, match="is not what was saved: choose another"):
        training.train_evaluator(table, SHORT, 3, str(tmp_path))
    weights.unlink()
    assert training.train_evaluator(table, SHORT, 3, str(tmp_path)) == metrics
    assert "lacks estimator.weights.h5: trained again" in capsys.readouterr().err
    for ours, theirs in zip(_weights(tmp_path), _weights(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loss_that_is_not_finite_stops_with_its_step(table, tmp_path):
    config = EvaluatorConfig(
        generator_units=16, estimator_units=16, estimator_steps=40, learning_rate=1e6
    )
    with pytest.raises(UserError, match=r"not finite at step \d+: lower evaluator.learning_rate"):
        training.train_evaluator(table, config, 0, str(tmp_path))
    assert not (tmp_path / "manifest.json").exists()
