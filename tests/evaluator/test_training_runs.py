"""Trainings of an evaluator: what one leaves, and how it goes on where it was stopped."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from dance_tf.config import EvaluatorConfig
from dance_tf.errors import UserError
from dance_tf.evaluator import training
from dance_tf.evaluator.neural import NeuralEvaluator

pytestmark = pytest.mark.usefixtures("module_without_tracing", "small_numbers")

SHORT = EvaluatorConfig(
    generator_units=16, estimator_units=16, estimator_steps=8, generator_steps=8, batch_size=32
)


@pytest.fixture(scope="module")
def small_numbers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_NUM_CANDIDATE_DRAWS", 1024)
        patch.setattr(training, "_NUM_ASSESSED", 64)
        patch.setattr(training, "_CHECK_EVERY", 4)
        patch.setattr(training, "_REPORT_EVERY", 2)
        yield


@pytest.fixture(scope="module")
def finished(table, module_without_tracing, small_numbers, tmp_path_factory) -> pathlib.Path:
    """A training from start to end, with its progress written beside it."""
    path = tmp_path_factory.mktemp("finished")
    reports = []
    metrics = training.train_evaluator(
        table, SHORT, 3, str(path), lambda *steps, **losses: reports.append([*steps, losses])
    )
    (path / "returned.json").write_text(json.dumps([metrics, reports], allow_nan=False))
    return path


def _weights(path) -> list[np.ndarray]:
    evaluator = NeuralEvaluator.load(str(path))
    networks = (evaluator.generator, evaluator.estimator)
    return [weight for network in networks for weight in network.get_weights()]


def test_a_finished_training_is_a_folder_with_a_manifest(table, finished):
    assert not (finished / "checkpoints").exists()
    metrics, reports = json.loads((finished / "returned.json").read_text())
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["metrics"] == metrics
    assert manifest["training"]["seed"] == 3
    assert manifest["training"]["config"]["estimator_steps"] == 8
    assert manifest["domain"]["content_hash"] == table.content_hash
    assert metrics["one_hot"]["objectives"]["edap"]["regret"]["mean"] >= 0
    assert [step for step, _, _ in reports] == list(range(2, 17, 2))
    assert {total for _, total, _ in reports} == {16}
    losses = [next(iter(report[2].items())) for report in reports]
    assert [name for name, _ in losses] == 4 * ["relative_error"] + 4 * ["cross_entropy"]
    assert losses[3][1] < losses[0][1]
    assert manifest["trust_thresholds"]["max_predicted_regret"] >= 1e-5
    assert (np.isfinite(list(manifest["trust_thresholds"].values()))).all()


class _StoppedError(Exception):
    pass


def _stop_at(last: int):
    """Return a report of progress that stops the training."""

    def stop(step: int, total_steps: int, **losses: float) -> None:
        if step >= last:
            raise _StoppedError

    return stop


def test_a_stopped_training_goes_on_to_the_same_result(table, finished, tmp_path, capsys):
    folder = tmp_path / "exp[1]"  # TensorFlow reads this as a pattern.
    for last in (6, 14):
        with pytest.raises(_StoppedError):
            training.train_evaluator(table, SHORT, 3, str(folder), _stop_at(last))
        assert not (folder / "manifest.json").exists()
    # Of damaged checkpoints the older one leads to the same end.
    [data] = (folder / "checkpoints" / "step_00000012").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:-1])
    steps = []
    training.train_evaluator(
        table, SHORT, 3, str(folder), lambda step, total, **losses: steps.append(step)
    )
    assert steps[0] == 10 and "going on from that of step 8" in capsys.readouterr().err
    for ours, theirs in zip(_weights(folder), _weights(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_checkpoints_of_another_training_are_left_alone(table, tmp_path):
    with pytest.raises(_StoppedError):
        training.train_evaluator(table, SHORT, 3, str(tmp_path), _stop_at(6))
    with pytest.raises(UserError, match="another configuration, seed or cost table"):
        training.train_evaluator(table, SHORT, 4, str(tmp_path))
    [data] = (tmp_path / "checkpoints").glob("*/*.data-*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step_00000004 is not whole .*, and no older one is"):
        training.train_evaluator(table, SHORT, 3, str(tmp_path))
    assert data.exists()
    (tmp_path / "checkpoints" / "checkpoint").touch()
    with pytest.raises(UserError, match="of an earlier version"):
        training.train_evaluator(table, SHORT, 3, str(tmp_path))


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
