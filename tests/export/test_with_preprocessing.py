"""The SavedModel that takes images as they are stored."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from dance_tf.config import DataConfig
from dance_tf.data.datasets import load_data
from dance_tf.data.images import ArrayImages
from dance_tf.errors import UserError
from dance_tf.export.networks import sample_images
from dance_tf.export.serving import ServedModel
from dance_tf.export.with_preprocessing import export_with_preprocessing
from dance_tf.files import read_json, write_json
from dance_tf.protocols import ImageDataset
from tests.data.own_files import numbered, write_folder, write_image
from tests.repo.manual import code_blocks


def _exports(folder: pathlib.Path, dataset: ImageDataset) -> pathlib.Path:
    """Write what of a folder of exports is needed: an untrained network and its report."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(dataset.image_shape)
    outputs = keras.layers.Dense(dataset.num_classes)(keras.layers.Flatten()(inputs))
    folder.mkdir()
    keras.Model(inputs, outputs).save(folder / "network.keras")
    write_json(folder / "export.json", {"schema_version": 1})
    return folder


def _digits(folder: pathlib.Path) -> ImageDataset:
    del folder
    return load_data(DataConfig(), (16, 12, 3))


def _files(folder: pathlib.Path, **fields: str) -> ImageDataset:
    write_folder(folder / "images", {"a": 8, "b": 8})
    write_image(folder / "images/a/wide.png", numbered((9, 40, 3), 90))
    return load_data(DataConfig(path=str(folder / "images"), **fields), (8, 6, 3))


def _series(folder: pathlib.Path) -> ImageDataset:
    values = np.random.RandomState(0).normal(2, 3, (40, 20, 2))
    np.savez(folder / "own.npz", x=values, y=np.arange(40) % 4)
    return load_data(DataConfig(path=str(folder / "own.npz")), (20, 2))


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (_digits, ([None, None, None, 1], "uint8")),
        (_files, ([None, None, None, 3], "uint8")),
        (lambda folder: _files(folder, crop="pad", resize="nearest"), None),
        (lambda folder: _files(folder, crop="stretch", resize="bilinear"), None),
        (_series, ([None, 20, 2], "float32")),
    ],
)
def test_stored_images_give_what_prepared_ones_give(tmp_path, make, spec):
    dataset = make(tmp_path)
    exports = _exports(tmp_path / "exports", dataset)
    path = export_with_preprocessing(dataset, str(exports))
    served = ServedModel(path)
    (found,) = served.inputs.values()
    if spec is not None:
        assert (found.shape.as_list(), found.dtype.name) == spec
    images, _ = sample_images(dataset, "test", 3)
    network = keras.saving.load_model(exports / "network.keras")
    stored = dataset.preprocessing.stored(3)
    given = np.concatenate([served(images=image[None])["logits"] for image in stored])
    np.testing.assert_allclose(given, network(images), atol=1e-5)
    entry = read_json(exports / "export.json")[os.path.basename(path)]
    assert entry["path"] == path and entry["max_difference"] < 1e-5
    described = served.description
    assert described["inputs"]["value_range"] == list(dataset.input_description.source_range)
    assert described["class_names"] == list(dataset.input_description.class_names)


def test_the_lines_of_the_manual_run(tmp_path, monkeypatch):
    (block,) = (b for b in code_blocks("docs/run_folder.md", "python") if "daisy" in b)
    dataset = _files(tmp_path)
    path = export_with_preprocessing(dataset, str(_exports(tmp_path / "exports", dataset)))
    write_image(tmp_path / "daisy.jpg", numbered((30, 20, 3), 90))
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {}
    exec(block.replace(f"runs/flowers/exports/{os.path.basename(path)}", path), values)
    assert values["logits"].shape == (1, 2) and np.isfinite(values["logits"]).all()


def test_nothing_is_kept_that_gives_something_else(tmp_path):
    dataset = _files(tmp_path)
    way = dataset.preprocessing
    dataset.preprocessing = way._replace(apply=lambda images: 0.9 * way.apply(images))
    exports = _exports(tmp_path / "exports", dataset)
    before = sorted(exports.iterdir())
    with pytest.raises(RuntimeError, match="differs from the network"):
        export_with_preprocessing(dataset, str(exports))
    assert sorted(exports.iterdir()) == before


def test_data_that_tell_no_way_are_refused(tmp_path):
    pair = (np.zeros((4, 5, 5, 1), np.uint8), np.zeros(4, int))
    splits = dict.fromkeys(("train", "architecture", "test"), pair)
    dataset = ArrayImages(splits, name="mine", num_classes=3)
    with pytest.raises(UserError, match="mine: tells no way"):
        export_with_preprocessing(dataset, str(_exports(tmp_path / "exports", dataset)))
