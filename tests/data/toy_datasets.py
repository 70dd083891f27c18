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
import tensorflow as tf
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


class ToyOwn(_Toy):
    """Somebody's own: named classes, 48x32 pixels, half of the images grey.

    One data set of TFDS has one number of channels, so the grey ones are PNG files of one
    channel among files of three.
    """

    SIZES = {"train": 240, "test": 80}
    SHAPE = (48, 32, 3)
    CLASS_NAMES = ["cat", "dog", "bird", "fish"]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=self.SHAPE, dtype=self.DTYPE),
            "label": tfds.features.ClassLabel(names=self.CLASS_NAMES),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        random = np.random.RandomState(len(split))
        for index in range(size):
            label = index % len(self.CLASS_NAMES)
            pixels = random.randint(0, 60, self.SHAPE)
            row, column = 24 * (label // 2), 16 * (label % 2)
            pixels[row : row + 24, column : column + 16] += 150  # a bright quarter
            yield index, {"image": self._stored(pixels, index), "label": label}

    def _stored(self, pixels: np.ndarray, index: int) -> Any:
        if index % 2:
            return pixels.astype(np.uint8)
        return tf.io.encode_png(pixels[..., :1].astype(np.uint8)).numpy()


class ToySensor(ToyOwn):
    """Images of 16 bits that hold 200 to 2,660, and a class without training images."""

    SHAPE = (48, 32, 1)
    DTYPE = np.uint16

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, example in super()._generate(split, size):
            if split == "train" and example["label"] == 2:
                example["label"] = 0
            yield index, example

    def _stored(self, pixels: np.ndarray, index: int) -> Any:
        values = 200 + pixels / 209 * 2460
        values[0, 0], values[0, 1] = 200, 2660
        return values.astype(np.uint16)


class ToyOneClass(ToyOwn):
    """Nothing to tell apart."""

    SIZES = {"train": 8, "test": 8}
    CLASS_NAMES = ["cat"]


class ToyFloats(ToyOwn):
    """Images of floats in -1..1."""

    SIZES = {"train": 40, "test": 20}
    SHAPE = (8, 8, 1)
    DTYPE = np.float32

    def _generate(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(size):
            image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(self.SHAPE)
            yield index, {"image": image, "label": index % 4}


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
