"""Accuracy of networks with the weights that they inherit from a trained supernet.

A network's own batch-norm statistics depend on all its ops, while the supernet's moving
ones are averages over the paths of its training. So each network first finds its own, on
training images, and is then judged on images that were held out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.protocols import ImageDataset
from dance_tf.supernet.ops import MOMENTUM
from dance_tf.supernet.supernet import Supernet

__all__ = ["NUM_CALIBRATION_IMAGES", "InheritedAccuracy", "recalibrated"]

#: Training images from which a network finds its batch-norm statistics.
NUM_CALIBRATION_IMAGES = 512
_CALIBRATION_BATCH_SIZE = 64
_BATCH_SIZE = 100  # whose activations stay in the caches of a core


@tf.function(autograph=False, reduce_retracing=True)
def _pass_on(supernet: Supernet, images: tf.Tensor, op_indices: tf.Tensor) -> None:
    """Move the statistics of one network by a batch."""
    supernet.call_path(images, op_indices, None, training=True)


@tf.function(autograph=False, reduce_retracing=True)
def _num_hits(
    supernet: Supernet, images: tf.Tensor, labels: tf.Tensor, op_indices: tf.Tensor
) -> tf.Tensor:
    logits = supernet.call_path(images, op_indices, None, training=False)
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
    return tf.reduce_sum(tf.cast(hits, tf.int32))


def _statistics(supernet: Supernet) -> list[keras.Variable]:
    names = ("moving_mean", "moving_variance", "statistics")
    return [v for v in supernet.non_trainable_variables if v.name in names]


@contextlib.contextmanager
def recalibrated(
    supernet: Supernet, op_indices: ArrayLike, batches: list[tf.Tensor]
) -> Iterator[Supernet]:
    """Give one network statistics of its own inside the context; those before come back.

    They are means over the batches, the later ones weighted more: the supernet's own
    moving averages, started from 0 and divided by the sum of their weights.

    Args:
        supernet: Trained supernet, whose weights stay as they are.
        op_indices: Ops of the network, int32 [D]. Inside the context, the statistics of
            other ops mean nothing.
        batches: Training images, float32 [B, H, W, C] each.
    """
    variables = _statistics(supernet)
    kept = [variable.numpy() for variable in variables]
    try:
        for variable in variables:
            variable.assign(tf.zeros_like(variable.value))
        for images in batches:
            _pass_on(supernet, images, tf.convert_to_tensor(op_indices, tf.int32))
        weight = 1.0 - MOMENTUM ** len(batches)
        for variable in variables:
            variable.assign(variable.value / weight)
        yield supernet
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)


class InheritedAccuracy:
    """Accuracy of networks on held-out images with a supernet's weights.

    The images are read once; one traced function serves all networks. A network of
    `cifar_mbconv_small` takes about 0.9 s of a core with 2,000 images.

    Args:
        supernet: Trained supernet; left as it is.
        dataset: Images; the statistics are those of `train`, without augmentation.
        num_images: Number of images to judge on, at most all.
        split: Split of these images. Searches choose by `architecture`; `test` is for
            judging their choice anew.
    """

    def __init__(
        self,
        supernet: Supernet,
        dataset: ImageDataset,
        num_images: int,
        split: str = "architecture",
    ) -> None:
        self._supernet = supernet
        calibration = _first(dataset, "train", _CALIBRATION_BATCH_SIZE, NUM_CALIBRATION_IMAGES)
        self._calibration = [images for images, _ in calibration]
        self._held_out = _first(dataset, split, _BATCH_SIZE, num_images)
        self.num_images = sum(len(labels) for _, labels in self._held_out)

    def __call__(self, op_indices: ArrayLike) -> np.ndarray:
        """Return the shares of images that are classified right, float64 [B].

        Args:
            op_indices: Ops of the networks, int32 [B, D].
        """
        accuracies = []
        for path in tf.unstack(tf.convert_to_tensor(op_indices, tf.int32)):
            with recalibrated(self._supernet, path, self._calibration):
                # The numbers are fetched at the end, so that no batch waits for another.
                hits = [_num_hits(self._supernet, *batch, path) for batch in self._held_out]
                accuracies.append(sum(map(int, hits)) / self.num_images)
        return np.asarray(accuracies, np.float64)

    def network(self, op_indices: ArrayLike) -> keras.Model:
        """Return a network of stock layers with these weights and its own statistics.

        Args:
            op_indices: Ops of the network, int32 [D].
        """
        architecture = self._supernet.space.from_indices(np.asarray(op_indices).tolist())
        with recalibrated(self._supernet, op_indices, self._calibration) as supernet:
            return supernet.inherited_network(architecture)


def _first(
    dataset: ImageDataset, split: str, batch_size: int, num_images: int
) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Return the first images of a split with their labels, in batches."""
    images = dataset.split(split, batch_size=batch_size).unbatch().take(num_images)
    return list(images.batch(batch_size))
