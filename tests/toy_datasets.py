"""Tiny TFDS data sets, made in seconds without a network.

The images are of one colour that tells their class and their number.
"""

# ruff: noqa: RUF012 - class attributes that hold lists and dicts are how TFDS is told.

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

NUM_CLASSES = 4


def colour(split: str, index: int) -> tuple[int, int, int]:
    """Red tells the class, green the number, blue the split."""
    return 60 * (index % NUM_CLASSES), index, 100 if split == "train" else 200


class _Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    SIZES: dict[str, int] = {"train": 60, "test": 20}
    SHAPE: tuple[int, int, int] = (12, 20, 3)
    DTYPE = np.uint8

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=self.SHAPE, dtype=self.DTYPE),
            "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate(split, size) for split, size in self.SIZES.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(size):
            pixel = np.array(colour(split, index))[: self.SHAPE[-1]]
            image = np.broadcast_to(pixel, self.SHAPE).astype(self.DTYPE)
            yield index, {"id": str(index), "image": image, "label": index % NUM_CLASSES}


class ToyColours(_Toy):
    """The well-behaved one."""


class ToyTrainOnly(_Toy):
    """No split to test on."""

    SIZES = {"train": 8}


class ToyTestOnly(_Toy):
    """No split to train on."""

    SIZES = {"test": 8}


class ToyHidden(_Toy):
    """A test split without labels, as ImageNet's; 16-bit grey images."""

    SIZES = {"train": 40, "validation": 12, "test": 12}
    SHAPE = (10, 10, 1)
    DTYPE = np.uint16

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, example in super()._generate(split, size):
            example["image"] = np.full(self.SHAPE, 257 * index, np.uint16)
            if split == "test":
                example["label"] = -1
            yield index, example


class ToySentences(_Toy):
    """Not images."""

    SIZES = {"train": 8, "test": 8}

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "sentence": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("sentence", "label")
        )

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(size):
            yield index, {"sentence": "Words.", "label": index % NUM_CLASSES}


class ToyBoxes(_Toy):
    """Images with several labels each."""

    SIZES = {"train": 8, "test": 8}

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(num_classes=NUM_CLASSES)
        features = {"image": tfds.features.Image(), "labels": tfds.features.Sequence(label)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(size):
            yield index, {"image": np.zeros((4, 4, 3), np.uint8), "labels": [0, 1]}


class ToyConfigs(_Toy):
    """Two configurations."""

    SIZES = {"train": 16, "test": 8}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="plain", version="1.0.0"),
        tfds.core.BuilderConfig(name="other", version="1.0.0"),
    ]


class ToyKilled(_Toy):
    """Dies as by `kill -9` amid its work while TOY_KILL is set."""

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, example in super()._generate(split, size):
            if index == size // 2 and os.environ.get("TOY_KILL"):
                os.kill(os.getpid(), signal.SIGKILL)
            yield index, example


class ToyArchive(_Toy):
    """Made from a downloaded archive that holds the number of images; tests set both."""

    URL = ""
    url_infos: dict[str, Any] = {}

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        folder = dl_manager.download_and_extract(self.URL)
        size = int((folder / "size.txt").read_text().split()[0])
        return {"train": self._generate("train", size), "test": self._generate("test", 8)}
