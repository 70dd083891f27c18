"""Small search problems: images, a table without a cost model, a supernet without a network."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dance_tf.data.images import ArrayImages, Augmentation
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.hardware.cost_table import CostTable
from dance_tf.search.problem import SearchProblem
from dance_tf.supernet.supernet import Supernet
from tests.evaluator.fake_table import make_fake_table, with_arrays


def tinted_images(sizes=(96, 32, 40), size=8) -> ArrayImages:
    """Noisy images of ten classes that differ in their colour."""
    random = np.random.RandomState(0)
    splits = {}
    for name, num in zip(("train", "architecture", "test"), sizes, strict=True):
        labels = random.randint(0, 10, num)
        tint = np.stack([labels % 3, labels // 3 % 3, labels // 9], axis=-1) * 60
        images = random.randint(0, 120, (num, size, size, 3)) + tint[:, None, None]
        splits[name] = (images.astype(np.uint8), labels.astype(np.int32))
    return ArrayImages(
        splits,
        name="tints",
        num_classes=10,
        augmentation=Augmentation(pad=1, use_flip=False),
        split_sources={},
    )


def shuffled_table(seed: int) -> CostTable:
    """A table whose cells are scaled at random, so that no op is cheapest by its size."""
    table, random, arrays = make_fake_table(), np.random.RandomState(seed), {}
    for name in ("latency_ms", "energy_mj"):
        cells = getattr(table, name).copy()
        cells[1, -1] = cells[1, 0]  # Zero is free in earnest; here it has to compete.
        arrays[name] = cells * random.uniform(0.2, 5.0, (*cells.shape[:2], 1)).astype(np.float32)
    return with_arrays(table, **arrays)


def make_problem(table: CostTable | None = None, **changes) -> SearchProblem:
    """Tinted images, a made-up table of `tiny_mbconv` and its exact evaluator."""
    table = make_fake_table() if table is None else table
    problem = SearchProblem(table.space, table, ExactEvaluator(table), tinted_images())
    return problem._replace(**changes)


class ScoredSupernet(Supernet):
    """A supernet whose cross-entropy is known: log(1 + exp(-sum of the ops' scores)).

    Args:
        scores: float32 [D, O]; higher is more accurate.
    """

    def __init__(self, space, scores, seed=0):
        super().__init__(space, seed)
        self.scores = tf.constant(scores, tf.float32)

    @property
    def network_weights(self):
        return super().network_weights[:1]  # one suffices: there is nothing to learn

    def call_path(self, images, op_indices, gates=None, training=False, inactive=None):
        one_hot = tf.one_hot(op_indices, self.space.num_ops) if gates is None else gates
        score = tf.reduce_sum(one_hot * self.scores)
        nothing = 0.0 * tf.reduce_sum(self.network_weights[0].value)
        row = tf.stack([score + nothing, 0.0])
        return tf.tile(row[None], [tf.shape(images)[0], 1])

    def cross_entropy(self, op_indices):
        """Return the cross-entropy of networks, [B], where all labels are 0."""
        op_indices = np.asarray(op_indices)
        total = sum(self.scores.numpy()[d, op_indices[:, d]] for d in range(op_indices.shape[1]))
        return np.log1p(np.exp(-total))


class Unlabelled:
    """Images of one class, for a supernet that does not look at them."""

    name, num_classes, image_shape = "unlabelled", 2, (8, 8, 3)

    def __init__(self, size=64):
        self._size = size

    def num_images(self, split):
        return self._size

    def split(self, name, *, batch_size, seed=None):
        pair = (tf.zeros([self._size, 8, 8, 3]), tf.zeros([self._size], tf.int32))
        return tf.data.Dataset.from_tensor_slices(pair).batch(batch_size)
