"""Predictions of a trained network: its accuracy, which classes it confuses, its worst mistakes."""

from __future__ import annotations

import base64
import dataclasses
import heapq
import os
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.files import write_json
from dance_tf.protocols import ImageDataset
from dance_tf.search.result import Accuracy

__all__ = [
    "PREDICTIONS_NAME",
    "Mistake",
    "Predictions",
    "accuracy_of",
    "infer",
    "logits_of",
    "predict",
]

#: Name of the file in a run folder.
PREDICTIONS_NAME = "predictions.json"

_BATCH_SIZE = 250
_NUM_MISTAKES = 12
_MAX_SIDE = 96  # of the picture of a mistake, pixels
_GRAPH_HEIGHT = 48  # of the graph of a series, pixels


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class."""

    label: int
    predicted: int
    probability: float  # of the class predicted, as the network has it
    png: str  # the image in base64, shrunk to at most 96 pixels


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The answers of a network on one split.

    Attributes:
        accuracy: Share of right answers.
        num_classes: Number of classes that the network tells apart.
        class_names: Names in the order of the labels; None where the classes have none.
        confusion: Number of images for each pair (label, predicted class) that occurs, as
            (label, predicted class, number).
        mistakes: Wrong answers that the network is surest of, the surest first.
    """

    accuracy: Accuracy
    num_classes: int
    class_names: tuple[str, ...] | None
    confusion: tuple[tuple[int, int, int], ...]
    mistakes: tuple[Mistake, ...]

    def save(self, output_dir: str) -> str:
        """Write predictions.json into a run folder and return its path."""
        path = os.path.join(output_dir, PREDICTIONS_NAME)
        os.makedirs(output_dir, exist_ok=True)
        write_json(path, dataclasses.asdict(self))
        return path


def infer(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the network's logits as a function of images that is traced once."""
    return tf.function(
        lambda images: network(images, training=False), autograph=False, reduce_retracing=True
    )


def logits_of(
    function: Callable[[tf.Tensor], tf.Tensor | np.ndarray], dataset: ImageDataset, split: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield images, labels and logits of a split, batch by batch.

    Raises:
        UserError: If the split is empty.
    """
    num_images = dataset.num_images(split)
    if num_images == 0:
        raise UserError(f"{dataset.name}: its {split} split is empty")
    for images, labels in dataset.split(split, batch_size=min(_BATCH_SIZE, num_images)):
        yield np.asarray(images), np.asarray(labels), np.asarray(function(images))


def accuracy_of(
    function: Callable[[tf.Tensor], tf.Tensor | np.ndarray], dataset: ImageDataset, split: str
) -> Accuracy:
    """Return the share of a split's images whose largest logit is the label's.

    Args:
        function: Logits [B, classes] of images.
        dataset: Images.
        split: Name of a split of the data set.
    Raises:
        UserError: If the split is empty.
    """
    hits = [
        np.argmax(logits, axis=-1) == labels
        for _, labels, logits in logits_of(function, dataset, split)
    ]
    right = np.concatenate(hits)
    return Accuracy(split=split, value=int(right.sum()) / len(right), num_images=len(right))


def predict(network: keras.Model, dataset: ImageDataset, split: str = "test") -> Predictions:
    """Return the predictions of a network on a split.

    Args:
        network: Classifier from images [B, H, W, C] in 0..1 to logits [B, classes].
        dataset: Images; the names of the classes are those of its `input_description`.
        split: Name of a split of the data set.
    Raises:
        UserError: If the split is empty.
    """
    num_classes = int(network.output_shape[-1])
    counts = np.zeros((num_classes, num_classes), np.int64)
    surest: list[tuple[float, int, Mistake]] = []
    number = 0
    for images, labels, logits in logits_of(infer(network), dataset, split):
        predicted = logits.argmax(axis=-1)
        np.add.at(counts, (labels, predicted), 1)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        for row in np.flatnonzero(predicted != labels).tolist():
            number += 1
            probability = round(float(probabilities[row, predicted[row]]), 6)
            if len(surest) == _NUM_MISTAKES and probability <= surest[0][0]:
                continue
            mistake = Mistake(int(labels[row]), int(predicted[row]), probability, _png(images[row]))
            # The first of equally sure ones stays; the number also keeps mistakes uncompared.
            heapq.heappush(surest, (probability, -number, mistake))
            if len(surest) > _NUM_MISTAKES:
                heapq.heappop(surest)
    names = getattr(getattr(dataset, "input_description", None), "class_names", None)
    num_images = int(counts.sum())
    return Predictions(
        accuracy=Accuracy(
            split=split, value=int(np.trace(counts)) / num_images, num_images=num_images
        ),
        num_classes=num_classes,
        class_names=None if names is None else tuple(names),
        confusion=tuple(
            (label, answer, int(counts[label, answer]))
            for label, answer in np.argwhere(counts).tolist()
        ),
        mistakes=tuple(entry[2] for entry in sorted(surest, reverse=True)),
    )


def _png(image: np.ndarray) -> str:
    """Return an image or series of values in 0..1 as a small PNG in base64."""
    image = _drawn(image) if image.ndim == 2 else image
    height, width = image.shape[:2]
    share = _MAX_SIDE / max(height, width)
    if share < 1:
        size = [max(1, round(height * share)), max(1, round(width * share))]
        image = np.asarray(tf.image.resize(image, size, method="area"))
    pixels = np.rint(255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)
    return base64.b64encode(tf.io.encode_png(pixels).numpy()).decode("ascii")


def _drawn(series: np.ndarray) -> np.ndarray:
    """Return the graph of series [T, C] of values in 0..1: dark dots on white, [H, T, 1]."""
    rows = np.rint((_GRAPH_HEIGHT - 1) * (1 - np.clip(series, 0.0, 1.0))).astype(int)
    graph = np.ones((_GRAPH_HEIGHT, len(series), 1), np.float32)
    graph[rows, np.arange(len(series))[:, None]] = 0.0
    return graph
