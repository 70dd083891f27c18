"""Training: it learns, follows its seed, and goes on where it was stopped."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator import training
from dance_tf.evaluator.dataset import draw_batch, ever_best_accelerators
from dance_tf.evaluator.neural import NeuralEvaluator

SHORT = EvaluatorConfig(generator_units=16, estimator_units=16, training_steps=40, batch_size=32)


@pytest.fixture(autouse=True)
def _small_numbers(monkeypatch):
    monkeypatch.setattr(training, "_NUM_CANDIDATE_DRAWS", 1024)
    monkeypatch.setattr(training, "_NUM_ASSESSED", 64)
    monkeypatch.setattr(training, "_CHECKPOINT_EVERY", 10)
    monkeypatch.setattr(training, "_REPORT_EVERY", 5)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory) -> pathlib.Path:
    """A training from start to end, with its progress written beside it."""
    path = tmp_path_factory.mktemp("finished")
    reports = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_NUM_CANDIDATE_DRAWS", 1024)
        patch.setattr(training, "_NUM_ASSESSED", 64)
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


def test_overfits_32_rows(table):
    candidates = ever_best_accelerators(table, 1024, 0.5, seed=0)
    config = EvaluatorConfig(
        generator_units=64, estimator_units=64, training_steps=500, batch_size=32
    )
    trainer = training.EvaluatorTrainer(table, config, 0, candidates)
    batch = trainer.draw()
    first = {name: float(loss) for name, loss in trainer.train_step(batch).items()}
    for _ in range(499):
        losses = trainer.train_step(batch)
    last = {name: float(loss) for name, loss in losses.items()}
    assert last["heads"] < 0.02 * first["heads"]
    assert last["joint"] < 0.02 * first["joint"]
    assert last["relative_error"] < 1e-4
    evaluation = trainer.evaluator().evaluate(batch.mixture_weights, batch.objective_vectors)
    np.testing.assert_array_equal(evaluation.accelerator_index, candidates[batch.best_index])
    exact = table.metrics_at(batch.mixture_weights, evaluation.accelerator_index)
    # Every other best accelerator is among those whose cost is learnt in a step.
    np.testing.assert_allclose(evaluation.metrics[::2], exact[::2], rtol=0.03)


def test_a_batch_step_is_drawn_anew_and_by_seed(table):
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0)
    trainers = [training.EvaluatorTrainer(table, SHORT, seed, candidates) for seed in (0, 0, 1)]
    first, again, other = (trainer.draw() for trainer in trainers)
    np.testing.assert_array_equal(first.mixture_weights, again.mixture_weights)
    assert not np.array_equal(first.mixture_weights, other.mixture_weights)
    trainers[0].train_step()
    assert trainers[0].step == 1
    assert not np.array_equal(trainers[0].draw().mixture_weights, first.mixture_weights)


def test_a_finished_training_is_a_folder_with_a_manifest(table, finished):
    assert not (finished / "checkpoints").exists()
    metrics, reports = json.loads((finished / "returned.json").read_text())
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["metrics"] == metrics
    assert manifest["training"]["seed"] == 3
    assert manifest["training"]["config"]["training_steps"] == 40
    assert manifest["domain"]["content_hash"] == table.content_hash
    assert metrics["one_hot"]["objectives"]["edap"]["regret"]["mean"] >= 0
    assert [step for step, _, _ in reports] == list(range(5, 41, 5))
    assert {total for _, total, _ in reports} == {40}
    first, last = reports[0][2], reports[-1][2]
    assert set(last) == {"heads", "joint", "relative_error"}
    assert last["relative_error"] < first["relative_error"] and last["heads"] < first["heads"]


class _StoppedError(Exception):
    pass


def test_a_stopped_training_goes_on_to_the_same_result(table, finished, tmp_path):
    def stop_at_25(step: int, total_steps: int, **losses: float) -> None:
        if step == 25:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        training.train_evaluator(table, SHORT, 3, str(tmp_path), stop_at_25)
    assert not (tmp_path / "manifest.json").exists()
    steps = []
    training.train_evaluator(
        table, SHORT, 3, str(tmp_path), lambda step, total, **losses: steps.append(step)
    )
    assert steps[0] == 25  # the checkpoint is that of step 20
    for ours, theirs in zip(_weights(tmp_path), _weights(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_checkpoints_of_another_training_are_left_alone(table, tmp_path):
    def stop(step: int, total_steps: int, **losses: float) -> None:
        if step >= 15:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        training.train_evaluator(table, SHORT, 3, str(tmp_path), stop)
    with pytest.raises(UserError, match="another configuration, seed or cost table"):
        training.train_evaluator(table, SHORT, 4, str(tmp_path))
    [data] = (tmp_path / "checkpoints").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot read checkpoint .* to start anew"):
        training.train_evaluator(table, SHORT, 3, str(tmp_path))


def test_a_loss_that_is_not_finite_stops_with_its_step(table, tmp_path):
    config = EvaluatorConfig(
        generator_units=16, estimator_units=16, training_steps=40, learning_rate=1e6
    )
    with pytest.raises(UserError, match=r"not finite at step \d+: lower evaluator.learning_rate"):
        training.train_evaluator(table, config, 0, str(tmp_path))
    assert not (tmp_path / "manifest.json").exists()


def test_labels_of_a_batch_are_learnt_for_all_its_pairs(table):
    # A trainer's targets are the table: with exact coefficients its loss is 0.
    candidates = ever_best_accelerators(table, 512, 0.5, seed=0)
    trainer = training.EvaluatorTrainer(table, SHORT, 0, candidates)
    batch = draw_batch(table, np.arange(54), 16, 0.5, np.random.default_rng(0))
    exact = trainer.estimator.table_coefficients(table)[batch.accelerator_index]
    pairs = trainer.estimator.pairwise(batch.mixture_weights, exact).numpy()
    for column in range(16):
        metrics = table.metrics_at(
            np.repeat(batch.mixture_weights[column : column + 1], 16, axis=0),
            batch.accelerator_index,
        )
        np.testing.assert_allclose(pairs[:, column], metrics, rtol=1e-5)
