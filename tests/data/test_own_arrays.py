"""Arrays of somebody's own, images and series; balanced epochs; ways to a size."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from dance_tf.config import DataConfig
from dance_tf.data.datasets import load_data
from dance_tf.data.images import ArrayImages, Augmentation
from dance_tf.data.resizing import resize
from dance_tf.errors import UserError
from dance_tf.protocols import ImageDataset

_Y = np.arange(40) % 4


def _grey(num: int, shape: tuple[int, ...] = (6, 6), dtype: str = "uint8") -> np.ndarray:
    return np.random.RandomState(num).randint(0, 256, (num, *shape)).astype(dtype)


def _load(path: pathlib.Path, shape: tuple[int, ...] = (6, 6, 1), **fields) -> ImageDataset:
    return load_data(DataConfig(path=str(path), **fields), shape)


def _message(path: pathlib.Path, shape: tuple[int, ...] = (6, 6, 1), **fields) -> str:
    with pytest.raises(UserError) as caught:
        _load(path, shape, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _all(dataset: ImageDataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*dataset.split(split, batch_size=9).as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _npz(folder: pathlib.Path, **arrays: np.ndarray) -> pathlib.Path:
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels"),
    ],
)
def test_arrays_come_in_their_splits(tmp_path, names):
    x, x_test = _grey(40), _grey(8)
    arrays = dict(zip(names, (x, _Y[:, None], x_test, np.arange(8) % 4), strict=True))
    own = _load(_npz(tmp_path, **arrays))
    images, labels = _all(own, "test")
    np.testing.assert_allclose(images[..., 0] * 255, x_test, atol=0.01)
    np.testing.assert_array_equal(labels, np.arange(8) % 4)
    assert own.num_images("train") + own.num_images("architecture") == 40
    assert own.name == "own" and own.input_description.class_names == ("0", "1", "2", "3")


def test_a_folder_of_npy_files_is_the_same_as_a_npz(tmp_path):
    x = _grey(40, (6, 6, 3), "int64")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", x)
    np.save(tmp_path / "folder" / "y.npy", _Y)
    own = _load(tmp_path / "folder", (6, 6, 3))
    other = _load(_npz(tmp_path, images=x, labels=_Y), (6, 6, 3))
    assert own.content_sha256 == other.content_sha256
    np.testing.assert_array_equal(_all(own, "test")[0], _all(other, "test")[0])
    assert own.num_images("test") == 8


def test_labels_may_be_texts_or_numbers_or_named(tmp_path):
    x = _grey(40)
    names = np.array(["b", "a", "10", "9"])
    own = _load(_npz(tmp_path, x=x, y=names[_Y]))
    assert own.input_description.class_names == ("10", "9", "a", "b")
    own = _load(_npz(tmp_path, x=x, y=np.array([20.0, 3.0, 7.0, 11.0])[_Y]))
    assert own.input_description.class_names == ("3", "7", "11", "20")
    own = _load(_npz(tmp_path, x=x, y=_Y, class_names=names))
    assert own.input_description.class_names == ("b", "a", "10", "9")


def test_floats_are_images_too(tmp_path):
    x = (_grey(40) / 255.0) * 2 - 1
    own = _load(_npz(tmp_path, x=x, y=_Y))
    assert own.input_description.source_range == (-1, 1)


_X = _grey(40)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"features": _X, "y": _Y}, "holds features; y; wanted are x_train"),
        ({"x": _X}, "holds x and no y"),
        ({"x": _X, "y": _Y[:9]}, "y [9]: each sample needs one label"),
        ({"x": _X, "y": np.eye(4)[_Y]}, "each sample needs one label"),
        ({"x": _X, "y": _Y / 3}, "labels are float64"),
        ({"x": _X, "y": _Y * 0}, "one class ('0')"),
        ({"x": _X, "y": np.where(np.arange(40) > 0, _Y % 2, 3)}, "one image of class '3'"),
        ({"x": _X, "y": _Y, "class_names": np.array(["a", "b"])}, "count the 2 of class_names"),
        ({"x": _X, "y": _Y, "x_test": _X, "y_test": _Y}, "both the whole and parts"),
        ({"x_train": _X, "y_train": _Y, "x_test": _X[:, :3], "y_test": _Y}, "not of one shape"),
        ({"x_train": _X, "y_train": _Y, "x_test": _X[:2], "y_test": _Y[:2]}, "no image of class"),
        ({"x": _grey(40, (3, 6, 6)), "y": _Y}, "transpose"),
        ({"x": _grey(40, (6,)), "y": _Y}, "are no images"),
        ({"x": _X.astype(int) - 9, "y": _Y}, "whole numbers of -"),
        ({"x": _X * np.nan, "y": _Y}, "not finite"),
        ({"x": _X * 0, "y": _Y}, "all pixels of its training images are 0"),
        ({"x": _X.astype(object), "y": _Y}, "cannot be read"),
        ({"x": _X.astype(str), "y": _Y}, "are no images"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(tmp_path, arrays, part):
    message = _message(_npz(tmp_path, **arrays))
    assert part in message and "own" in message


def test_damaged_files_of_arrays_are_refused(tmp_path):
    path = _npz(tmp_path, x=_X, y=_Y)
    path.write_bytes(path.read_bytes()[:300])
    assert f"{path}: cannot be read" in _message(path)
    np.save(tmp_path / "x.npy", _X)
    (tmp_path / "x.npy").rename(path)
    assert "holds one array" in _message(path)


def _series(num: int, shape: tuple[int, ...] = (20, 2)) -> np.ndarray:
    return np.random.RandomState(num).normal(3, 5, (num, *shape))


def test_series_are_scaled_by_the_range_of_the_train_split(tmp_path):
    x, x_test = _series(40), _series(8) * 2
    path = _npz(tmp_path, x_train=x, y_train=_Y, x_test=x_test, y_test=np.arange(8) % 4)
    own = _load(path, (20, 2))
    low, high = x.min(), x.max()
    images, _ = _all(own, "test")
    assert images.dtype == np.float32 and own.image_shape == (20, 2)
    np.testing.assert_allclose(images, np.clip((x_test - low) / (high - low), 0, 1), atol=1e-5)
    about = own.input_description
    np.testing.assert_allclose(about.source_range, (low, high), rtol=1e-6)
    assert (about.height, about.width, about.channels, about.source_shape) == (20, 1, 2, (20, 2))
    assert about.resize is None and about.crop is None and about.class_names == tuple("0123")
    assert "beyond" in own.warnings[0]
    batch, labels = next(iter(own.split("train", batch_size=8, seed=1)))
    assert batch.shape == (8, 20, 2) and labels.shape == (8,)
    seen = {row.tobytes() for row in _all(own, "train")[0]}
    assert all(row.tobytes() in seen for row in batch.numpy())


def test_series_of_one_channel_need_no_axis_for_it(tmp_path):
    assert _load(_npz(tmp_path, x=_series(40, (20,)), y=_Y), (20, 1)).image_shape == (20, 1)


@pytest.mark.parametrize(
    ("x", "part"),
    [
        (_series(40, (21, 2)), "21 steps and 2 channels, the space takes 20 and 2"),
        (_series(40, (4, 5, 2)), "are no series"),
        (_series(40) * np.inf, "not finite"),
        (np.ones((40, 20, 2)), "all values"),
    ],
)
def test_bad_series_are_refused(tmp_path, x, part):
    assert part in _message(_npz(tmp_path, x=x, y=_Y), (20, 2))


def test_data_of_another_kind_than_the_space_are_refused(tmp_path):
    with pytest.raises(UserError, match="digits: holds no series"):
        load_data(DataConfig(), (20, 2))
    assert "are no images" in _message(_npz(tmp_path, x=_series(40, (20,)), y=_Y))


# In memory.


def _unequal(**arguments) -> ArrayImages:
    labels = np.array([0] * 30 + [1] * 3 + [2] * 7)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None]
    splits = {"train": (images, labels), "architecture": (images, labels), "test": (images, labels)}
    return ArrayImages(splits, name="unequal", num_classes=3, **arguments)


def test_a_balanced_epoch_draws_all_classes_equally_often():
    balanced = _unequal(is_balanced=True)
    assert len(_all(balanced, "train")[1]) == 40  # without a seed as they are
    draws = []
    for seed in (4, 4, 5):
        batches = balanced.split("train", batch_size=40, seed=seed)
        ((images, labels),) = batches.as_numpy_iterator()
        numbers = np.round(images[:, 0, 0, 0] * 255).astype(int)
        assert sorted(np.bincount(labels)) == [13, 13, 14]
        times = np.bincount(numbers, minlength=40)
        for low, high in ((0, 30), (30, 33), (33, 40)):
            assert np.ptp(times[low:high]) <= 1
        draws.append(list(numbers))
    assert draws[0] == draws[1] != draws[2]


def test_an_epoch_of_equal_classes_is_balanced_anyway(tmp_path):
    path = _npz(tmp_path, x=_X, y=_Y)
    for way in ("none", "sampling"):
        batches = _load(path, class_balance=way).split("train", batch_size=24, seed=0)
        ((_, labels),) = batches.as_numpy_iterator()
        assert list(np.bincount(labels)) == [6, 6, 6, 6]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"train": (np.zeros((4, 5, 5, 1)), np.zeros(4, int))}, "float64"),
        ({"train": (np.zeros((4, 5), np.uint8), np.zeros(4, int))}, r"uint8 \[4, 5\]"),
        ({"train": (np.full((4, 5, 5, 1), 2, np.float32), np.zeros(4, int))}, "0..1"),
        ({"test": (np.zeros((4, 5, 5, 3), np.uint8), np.zeros(4, int))}, "not all of one shape"),
        ({"test": (np.zeros((4, 5, 5, 1), np.uint8), np.full(4, 3))}, "3 to 3, not 0 to 2"),
        ({"test": (np.zeros((4, 5, 5, 1), np.uint8), np.zeros(3, int))}, "one whole number for"),
        ({"test": (np.zeros((4, 5, 5, 1), np.uint8), np.zeros(4))}, "one whole number for"),
    ],
)
def test_arrays_that_cannot_be_kept_are_refused(change, part):
    pair = (np.zeros((4, 5, 5, 1), np.uint8), np.zeros(4, int))
    splits = {"train": pair, "architecture": pair, "test": pair, **change}
    with pytest.raises(UserError, match=part):
        ArrayImages(splits, name="bad", num_classes=3)


def test_series_are_not_augmented():
    pair = (np.zeros((4, 5, 1), np.float32), np.zeros(4, int))
    with pytest.raises(UserError, match="not augmented"):
        splits = {"train": pair, "architecture": pair, "test": pair}
        ArrayImages(splits, name="x", num_classes=3, augmentation=Augmentation(1, False))


# Ways to a size.


def test_the_largest_central_part_has_the_wanted_aspect_ratio():
    image = np.zeros((9, 8, 1), np.uint8)
    image[3:7] = 200
    image[3:5] = 100  # 4 rows of 8 columns, averaged in pairs
    expected = np.repeat([[100], [200]], 4, 1)
    np.testing.assert_array_equal(resize(image[1:], (2, 4), 1)[..., 0], expected)


def test_stretching_and_padding_keep_all_of_the_image():
    image = np.full((4, 8, 1), 200, np.uint8)
    image[:, :2] = 100
    stretched = resize(image, (4, 4), 1, crop="stretch").numpy()[..., 0]
    np.testing.assert_array_equal(stretched, [[100, 200, 200, 200]] * 4)
    padded = resize(image, (4, 4), 1, crop="pad").numpy()[..., 0]
    np.testing.assert_array_equal(padded[1:3], [[100, 200, 200, 200]] * 2)
    assert (padded[[0, 3]] == 0).all()
    thin = resize(np.full((1, 90, 3), 255, np.uint8), (6, 6), 3, crop="pad").numpy()
    assert (thin.reshape(6, -1).max(1) > 0).sum() == 1


def test_the_nearest_pixel_is_taken_as_it_is():
    image = np.random.RandomState(0).randint(0, 256, (9, 9, 3)).astype(np.uint8)
    small = resize(image, 3, 3, method="nearest").numpy().reshape(-1, 3)
    pixels = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert all(tuple(pixel) in pixels for pixel in small)
