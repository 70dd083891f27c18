"""Data sets of somebody's own: named classes, odd sizes, sensors of 12 bits, floats."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dance_tf.config import DataConfig
from dance_tf.data import datasets, tfds_sets
from dance_tf.errors import UserError
from dance_tf.structs import InputDescription
from tests.data import toy_datasets


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("own")
    tfds.disable_progress_bar()
    for name in ("ToyOwn", "ToySensor", "ToyOneClass", "ToyFloats"):
        getattr(toy_datasets, name)(data_dir=folder).download_and_prepare()
    return folder


def _load(name: str, folder: pathlib.Path | None = None, size: int = 8, **arguments):
    config = DataConfig(name, None if folder is None else str(folder), 0.25)
    return datasets.load_images(config, input_size=size, **arguments)


def _load_path(path: object, folder: pathlib.Path | None = None):
    config = DataConfig(path=str(path), data_dir=None if folder is None else str(folder))
    return datasets.load_data(config, (8, 12, 3))


def _all(dataset) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_a_data_set_of_ones_own_is_described(data_dir):
    toy = _load("toy_own", data_dir, size=16)
    grey = 0
    for image in _all(toy.split("test", batch_size=80))[0]:
        grey += bool((image[..., 0] == image[..., 1]).all())
    assert grey == 40
    assert toy.input_description == InputDescription(
        height=16,
        width=16,
        channels=3,
        value_range=(0.0, 1.0),
        source_range=(0.0, 255.0),
        source_shape=(48, 32, 3),
        resize="averaged by area to 16x16",
        crop="the largest central square",
        channel_order="RGB",
        class_names=("cat", "dog", "bird", "fish"),
    )
    assert toy.warnings == ()


def test_the_digits_are_described():
    about = _load("digits", size=16).input_description
    assert (about.source_shape, about.source_range) == ((8, 8, 1), (0, 16))
    assert (about.resize, about.crop) == ("bilinear to 16x16", None)
    assert about.channel_order.startswith("RGB, ") and about.class_names == tuple("0123456789")
    assert _load("digits", size=8).input_description.resize is None
    assert _load("digits", image_channels=1).input_description.channel_order == "grey"


@pytest.mark.parametrize("max_bytes_in_memory", [0, 2**30])
def test_a_range_narrower_than_the_type_is_that_of_the_data(data_dir, max_bytes_in_memory):
    toy = _load("toy_sensor", data_dir, size=16, max_bytes_in_memory=max_bytes_in_memory)
    images, _ = _all(toy.split("train", batch_size=60))
    assert len(np.unique(images)) > 100
    assert images.min() < 0.1 and images.max() > 0.9
    assert toy.input_description.source_range == (200, 2660)
    assert "200 to 2660" in toy.warnings[0]


def test_a_class_without_training_images_is_told(data_dir):
    (line,) = (w for w in _load("toy_sensor", data_dir).warnings if "class" in w)
    assert "'bird'" in line and "'train'" in line


def test_floats_are_images_too(data_dir):
    toy = _load("toy_floats", data_dir, image_channels=1)
    image = _all(toy.split("test", batch_size=20))[0][0].reshape(64)
    np.testing.assert_allclose(image, np.linspace(0, 1, 64), atol=0.5 / 255)
    assert toy.input_description.source_range == (-1, 1)
    assert toy.warnings == ()


def test_one_class_is_refused_by_the_data_sets_name(data_dir):
    with pytest.raises(UserError, match=r"'toy_one_class' has one class \('cat'\)"):
        _load("toy_one_class", data_dir)
    with pytest.raises(UserError, match="'toy_one_class' has one class"):
        tfds_sets.prepare("toy_one_class", str(data_dir))


def test_prepared_data_are_found_by_their_path(data_dir):
    by_name = _load("toy_own", data_dir)
    for path in ("toy_own", "toy_own/1.0.0"):
        own = _load_path(data_dir / path)
        assert (own.name, own.folder) == ("toy_own", by_name.folder)
        assert own.image_shape == (8, 12, 3) and own.num_images("test") == 80
    with pytest.raises(UserError, match="'toy_one_class' has one class"):
        _load_path(data_dir / "toy_one_class")


def test_a_builder_of_ones_own_is_named_by_its_module(data_dir, tmp_path):
    own = _load_path("tests.data.toy_datasets.ToyOwn", data_dir)
    assert (own.name, own.folder) == ("toy_own", str(data_dir / "toy_own/1.0.0"))
    with pytest.raises(UserError, match=r"not prepared.*prepare_data --data=tests\.data.*ToyOwn"):
        _load_path("tests.data.toy_datasets.ToyOwn", tmp_path)
    for name, part in (
        ("tests.data.toy_datasets.NotThere", "no builder class"),
        ("tests.data.no_module.ToyOwn", "no builder class"),
        ("tests.data.toy_datasets.colour", "no subclass"),
    ):
        with pytest.raises(UserError, match=part):
            _load_path(name, tmp_path)


def test_a_builder_of_ones_own_is_prepared_once(tmp_path, monkeypatch):
    name = "tests.data.toy_datasets.ToyColours"
    first = tfds_sets.prepare_with(name, str(tmp_path))
    assert first.num_images == {"train": 60, "test": 20}
    monkeypatch.setattr(toy_datasets.ToyColours, "download_and_prepare", None)
    assert tfds_sets.prepare_with(name, str(tmp_path)) == first
    monkeypatch.undo()
    monkeypatch.setattr(toy_datasets.ToyHidden, "_split_generators", None)
    with pytest.raises(UserError, match="cannot prepare tests"):
        tfds_sets.prepare_with("tests.data.toy_datasets.ToyHidden", str(tmp_path / "other"))
