"""Predictions are counted, and the surest mistakes come first."""

from __future__ import annotations

import base64

import keras
import numpy as np
import pytest
import tensorflow as tf

from dance_tf.data.images import ArrayImages
from dance_tf.errors import UserError
from dance_tf.files import read_json
from dance_tf.search.predictions import predict


def _network(size):
    """Return a network whose logits are 10 times the first pixel's two first channels, and 0."""
    images = keras.Input((size, size, 3))
    logits = keras.layers.Lambda(lambda x: x[:, 0, 0, :] * [10.0, 10.0, 0.0])(images)
    return keras.Model(images, logits)


def _images(pixels, labels, size=4):
    images = np.zeros((len(labels), size, size, 3), np.uint8)
    images[:, 0, 0, :2] = pixels
    test = (images, np.asarray(labels, np.int32))
    nothing = (images[:0], np.zeros(0, np.int32))
    splits = {"train": test, "architecture": nothing, "test": test}
    return ArrayImages(splits, name="pixels", num_classes=3, augmentation=None, split_sources={})


def test_counts_are_by_label_and_answer(tmp_path):
    dataset = _images([(255, 0), (200, 255), (0, 255), (0, 51)], [0, 0, 0, 1])
    found = predict(_network(4), dataset)
    assert set(found.confusion) == {(0, 0, 1), (0, 1, 2), (1, 1, 1)}
    assert found.accuracy.value == 0.5 and found.accuracy.num_images == 4
    assert [(m.label, m.predicted) for m in found.mistakes] == [(0, 1), (0, 1)]
    sure, less = (mistake.probability for mistake in found.mistakes)
    assert sure == pytest.approx(1 / (1 + 2 * np.exp(-10)), abs=1e-5) and less < sure
    picture = tf.io.decode_png(base64.b64decode(found.mistakes[0].png)).numpy()
    assert picture.shape == (4, 4, 3) and picture[0, 0].tolist() == [0, 255, 0]
    assert read_json(found.save(str(tmp_path / "run")))["confusion"] == [
        list(each) for each in found.confusion
    ]


def test_mistakes_are_few_and_small():
    dataset = _images([(0, value) for value in range(100, 130)], [0] * 30, size=200)
    found = predict(_network(200), dataset)
    assert len(found.mistakes) == 12 and found.confusion == ((0, 1, 30),)
    sure = [mistake.probability for mistake in found.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert tf.io.decode_png(base64.b64decode(found.mistakes[0].png)).shape[:2] == (96, 96)


def test_a_series_that_is_mistaken_is_drawn():
    values = np.linspace(0, 1, 40, dtype=np.float32).reshape(1, 20, 2)
    splits = {"train": (values, np.array([0])), "test": (values, np.array([0]))}
    inputs = keras.Input((20, 2))
    logits = keras.layers.Lambda(lambda x: keras.ops.stack([x[:, 0, 0], x[:, 19, 1]], -1))(inputs)
    dataset = ArrayImages(splits, name="rising", num_classes=2)
    (mistake,) = predict(keras.Model(inputs, logits), dataset).mistakes
    graph = tf.io.decode_png(base64.b64decode(mistake.png)).numpy()[..., 0]
    assert graph.shape == (48, 20) and graph[-1, 0] == 0 and graph[0, 19] == 0
    assert ((graph == 0).sum(0) <= 2).all() and (graph == 0).any(0).all()


def test_no_mistake_and_no_image():
    assert predict(_network(4), _images([(255, 0)], [0])).mistakes == ()
    empty = _images([(255, 0)], [0])
    with pytest.raises(UserError, match="architecture split is empty"):
        predict(_network(4), empty, "architecture")
