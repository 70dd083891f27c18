"""Source of accuracy that trains each network that is asked for, from scratch.

A network is trained on the split `train` alone and judged on `architecture`, so that the test
images say nothing before the end.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from dance_tf.config import RetrainConfig
from dance_tf.protocols import ImageDataset
from dance_tf.run.folder_lock import owned
from dance_tf.run.surroundings import StopSignals
from dance_tf.search.retrain import retrain
from dance_tf.structs import InputDescription
from dance_tf.supernet.search_space import NetworkSpace

__all__ = ["TrainedAccuracy"]


class _HeldOut:
    """Images whose test split is the one that architectures are judged on."""

    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset = dataset
        self.name, self.num_classes = dataset.name, dataset.num_classes
        self.image_shape = dataset.image_shape

    @property
    def input_description(self) -> InputDescription:
        return self._dataset.input_description

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._dataset.warnings

    def num_images(self, split: str) -> int:
        if split == "architecture":
            return 0
        return self._dataset.num_images("architecture" if split == "test" else split)

    def split(self, name: str, *, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
        held_out = "architecture" if name == "test" else name
        return self._dataset.split(held_out, batch_size=batch_size, seed=seed)


class TrainedAccuracy:
    """Trains networks; an AccuracySource.

    Args:
        space: Network space.
        dataset: Images of the space's input size.
        config: Schedule of each training.
        seed: Seed of each training.
        folder: Folder of the trainings, each of which can be resumed; None writes nothing.
        stop: Signals to honour at the next step boundary.
    """

    kind = "training"

    def __init__(
        self,
        space: NetworkSpace,
        dataset: ImageDataset,
        config: RetrainConfig,
        seed: int,
        folder: str | None,
        stop: StopSignals | None = None,
    ) -> None:
        self._space, self._dataset, self._config = space, _HeldOut(dataset), config
        self._seed, self._folder, self._stop = seed, folder, stop

    def errors(self, op_indices: ArrayLike) -> np.ndarray:
        """Train networks int [B, D]; return the shares of held-out images classified wrong, [B].

        Raises:
            Interrupted: After a signal; a checkpoint of the training has been written.
        """
        return np.asarray([self._error(row) for row in np.asarray(op_indices)], np.float64)

    def _error(self, row: np.ndarray) -> float:
        folder = None
        if self._folder is not None:
            folder = os.path.join(self._folder, "_".join(map(str, row.tolist())))
        # Other searches of a sweep may be training it.
        with contextlib.nullcontext() if folder is None else owned(folder, is_waiting=True):
            trained = retrain(
                self._space,
                self._space.from_indices(row.tolist()),
                self._dataset,
                self._config,
                self._seed,
                folder,
                resume=True,
                stop=self._stop,
            )
        return 1.0 - trained.accuracy.value
