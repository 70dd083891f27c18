"""The evaluator as TFLite is the evaluator in Keras, or is not kept."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.evaluator.loading import shipped_path
from dance_tf.evaluator.neural import NeuralEvaluator
from dance_tf.export import evaluator_tflite as module
from dance_tf.export.evaluator import random_queries
from dance_tf.export.evaluator_tflite import TFLiteEvaluator, export_evaluator_tflite
from dance_tf.structs import Evaluation


@pytest.fixture(scope="module")
def exported(evaluator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tflite") / "a folder"
    return folder, export_evaluator_tflite(evaluator, str(folder))


def _arguments(queries, rows=slice(None)):
    return queries["mixture_weights"][rows].copy(), queries["objective_vectors"][rows].copy()


@pytest.mark.parametrize("space", ["cifar_mbconv_small", "cifar_mbconv"])
def test_a_shipped_evaluator_converts_through_the_saved_model(space, tmp_path):
    """1,000 queries, hard and soft, of a reloaded Keras model."""
    evaluator = NeuralEvaluator.load(shipped_path(space))
    report = export_evaluator_tflite(evaluator, str(tmp_path))
    assert report["num_compared"] == 1000
    assert report["max_relative_difference"] < 1e-4
    assert sorted(os.listdir(tmp_path)) == ["evaluator.json", "evaluator.tflite"]
    assert report["num_bytes"] == os.path.getsize(report["path"]) > 700_000  # weights and all
    arguments = _arguments(random_queries(evaluator.domain, 64))
    ours, theirs = TFLiteEvaluator(tmp_path).evaluate(*arguments), evaluator.evaluate(*arguments)
    np.testing.assert_allclose(ours.metrics, theirs.metrics, rtol=1e-4)
    np.testing.assert_array_equal(ours.accelerator_index, theirs.accelerator_index)


def test_the_batch_axis_is_free_and_rows_equal_single_runs(exported, queries):
    """Four at once, then one by one, then four again."""
    evaluator = TFLiteEvaluator(exported[0])
    batch = evaluator.evaluate(*_arguments(queries, slice(4)))
    assert batch.metrics.shape == (4, 3) and batch.accelerator_index.shape == (4,)
    for i in range(4):
        single = evaluator.evaluate(*_arguments(queries, slice(i, i + 1)))
        np.testing.assert_allclose(single.metrics[0], batch.metrics[i], rtol=1e-6)
        assert single.accelerator_index[0] == batch.accelerator_index[i]
    again = evaluator.evaluate(*_arguments(queries, slice(4)))
    np.testing.assert_array_equal(again.metrics, batch.metrics)


def test_results_outlive_the_next_call(exported, queries):
    evaluator = TFLiteEvaluator(exported[0])
    first = evaluator.evaluate(*_arguments(queries, slice(1)))
    kept = np.copy(first.metrics), np.copy(first.accelerator_index)
    evaluator.evaluate(*_arguments(queries, slice(1, 2)))
    np.testing.assert_array_equal(first.metrics, kept[0])
    np.testing.assert_array_equal(first.accelerator_index, kept[1])


@pytest.mark.parametrize(
    ("what", "value", "says"),
    [
        (0, np.nan, "negative or not a number"),
        (0, -0.5, "negative"),
        (0, 1.5, "do not sum to one"),
        (0, np.inf, "do not sum to one"),
        (1, np.nan, "negative or not a number"),
        (1, -1.0, "negative"),
        (1, 0.5, "neither 0 nor 1"),
        (1, np.inf, "neither 0 nor 1"),
    ],
)
def test_bad_values_are_refused(exported, queries, what, value, says):
    arguments = _arguments(queries)
    arguments[what][(3,) + (0,) * (arguments[what].ndim - 1)] = value
    with pytest.raises(UserError, match=says):
        TFLiteEvaluator(exported[0]).evaluate(*arguments)


def test_bad_objectives_ops_and_shapes_are_refused(exported, queries, evaluator):
    loaded, (weights, vectors) = TFLiteEvaluator(exported[0]), _arguments(queries)
    for row in ([0, 0, 0, 0], [1, np.inf, 1, 1], [1, 3e38, 3e38, 0]):
        with pytest.raises(UserError, match="all weights are 0, or their sum is too large"):
            loaded.evaluate(weights[:1], [row])
    op_mask = evaluator.domain.space.op_mask
    block, op = np.argwhere(~op_mask)[0]
    forbidden = weights.copy()
    forbidden[0, block] = np.eye(op_mask.shape[1])[op]
    with pytest.raises(UserError, match="an op that its block does not have"):
        loaded.evaluate(forbidden, vectors)
    for bad in (weights[0], weights[:, :, 1:], weights[:0], weights[None]):
        with pytest.raises(UserError, match="mixture_weights have shape"):
            loaded.evaluate(bad, vectors)
    for bad in (vectors[0], vectors[:3], vectors[:, :3]):
        with pytest.raises(UserError, match="objective_vectors have shape"):
            loaded.evaluate(weights, bad)


class _Changed:
    """An evaluator that says something else when it is converted than when it is asked."""

    def __init__(self, evaluator, factor, shift):
        self.domain, self._evaluator = evaluator.domain, evaluator
        self._factor, self._shift = factor, shift

    def evaluate(self, *arguments):
        metrics, index = self._evaluator.evaluate(*arguments)
        if tf.inside_function():
            return Evaluation(self._factor * metrics, index + self._shift)
        return Evaluation(metrics, index)

    def estimate(self, *arguments):
        return self._evaluator.estimate(*arguments)


@pytest.mark.parametrize(
    ("factor", "shift", "says"),
    [(1.001, 0, "metrics differ from Keras"), (1.0, 1, "another accelerator for 1000")],
)
def test_a_conversion_that_differs_leaves_nothing(evaluator, tmp_path, factor, shift, says):
    """As where weights were dropped without a word."""
    with pytest.raises(RuntimeError, match=says):
        export_evaluator_tflite(_Changed(evaluator, factor, shift), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_files_that_do_not_belong_together_are_refused(exported, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        TFLiteEvaluator(tmp_path)
    for name in (module.MODEL_FILE, module.DESCRIPTION_FILE):
        (tmp_path / name).write_bytes((exported[0] / name).read_bytes())
    description = json.loads((tmp_path / "evaluator.json").read_text())
    (tmp_path / "evaluator.json").write_text(json.dumps({**description, "sha256": "0"}))
    with pytest.raises(UserError, match="is not the file that evaluator"):
        TFLiteEvaluator(tmp_path)
    (tmp_path / "evaluator.json").write_text("[]")
    with pytest.raises(UserError, match="does not describe a TFLite evaluator"):
        TFLiteEvaluator(tmp_path)
