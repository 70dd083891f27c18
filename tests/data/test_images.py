"""Splits, shuffling, augmentation and resizing of images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.data.images import ArrayImages, Augmentation, StreamedImages, hold_out
from dance_tf.data.resizing import resize
from dance_tf.errors import UserError

_AUGMENTATION = Augmentation(pad=2, use_flip=True)


def _numbered(num_images: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images of 6x5 pixels, all different, labelled with their number."""
    labels = np.arange(start, start + num_images, dtype=np.int32)
    noise = np.random.RandomState(start).randint(1, 256, (num_images, 6, 5, 3))
    return noise.astype(np.uint8), labels


@pytest.fixture(scope="module")
def in_memory() -> ArrayImages:
    splits = {"train": _numbered(50), "architecture": _numbered(20, 100), "test": _numbered(7, 200)}
    return ArrayImages(
        splits,
        name="numbered",
        num_classes=300,
        augmentation=_AUGMENTATION,
        split_sources={"test": "test"},
    )


@pytest.fixture(scope="module")
def streamed() -> StreamedImages:
    arrays = {"train": _numbered(50), "test": _numbered(7, 200)}
    is_held_out = hold_out(np.zeros(50), 0.3, seed=0)
    images = StreamedImages(
        lambda split: tf.data.Dataset.from_tensor_slices(arrays[split]),
        is_held_out=is_held_out,
        num_test=7,
        name="streamed",
        num_classes=300,
        image_shape=(6, 5, 3),
        augmentation=_AUGMENTATION,
        split_sources={"test": "test"},
    )
    images.block_size = 16
    return images


def _all(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture(params=["in_memory", "streamed"])
def dataset(request: pytest.FixtureRequest):
    return request.getfixturevalue(request.param)


def test_without_a_seed_a_split_is_in_order_untouched_and_complete(dataset):
    images, labels = _all(dataset.split("test", batch_size=3))
    expected_images, expected_labels = _numbered(7, 200)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(images, expected_images / 255.0, rtol=1e-6)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32


def test_with_a_seed_batches_are_full_and_hold_each_image_once(dataset):
    batches = dataset.split("train", batch_size=8, seed=3)
    images_spec, labels_spec = batches.element_spec
    assert images_spec.shape == (8, 6, 5, 3)
    assert labels_spec.shape == (8,)
    labels = _all(batches)[1]
    assert len(labels) == dataset.num_images("train") // 8 * 8
    assert len(set(labels)) == len(labels)
    assert list(labels) != sorted(labels)


def test_the_seed_alone_decides(dataset):
    tf.random.set_seed(1)
    first = _all(dataset.split("train", batch_size=8, seed=3))
    tf.random.set_seed(2)
    again = _all(dataset.split("train", batch_size=8, seed=3))
    other = _all(dataset.split("train", batch_size=8, seed=4))
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()
    assert first[1].tobytes() != other[1].tobytes()


def test_skip_leaves_the_batches_that_would_have_followed(dataset):
    batches = dataset.split("train", batch_size=4, seed=5)
    images, labels = _all(batches)
    late_images, late_labels = _all(batches.skip(3))
    np.testing.assert_array_equal(late_labels, labels[12:])
    np.testing.assert_array_equal(late_images, images[12:])


def test_streamed_splits_are_disjoint_and_complete(streamed):
    train = _all(streamed.split("train", batch_size=5))[1]
    architecture = _all(streamed.split("architecture", batch_size=5))[1]
    assert (len(train), len(architecture)) == (35, 15)
    assert set(train) | set(architecture) == set(range(50))
    assert streamed.num_images("train") == 35


def test_augmentation_is_a_shift_over_black_and_a_mirror(in_memory):
    images, labels = _all(in_memory.split("train", batch_size=10, seed=11))
    originals = _numbered(50)[0]
    seen = set()
    for image, label in zip(images, labels, strict=True):
        matches = []
        for is_mirrored in (False, True):
            # Cut out of the border, then mirrored: the plain way.
            padded = np.pad(originals[label], ((2, 2), (2, 2), (0, 0)))
            for y in range(5):
                for x in range(5):
                    crop = padded[y : y + 6, x : x + 5]
                    crop = crop[:, ::-1] if is_mirrored else crop
                    if np.allclose(image, crop / 255.0, atol=1e-6):
                        matches.append((y, x, is_mirrored))
        assert len(matches) == 1
        seen.add(matches[0])
    assert {m for _, _, m in seen} == {False, True}
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(5))


def test_no_flip_means_none():
    images, labels = _numbered(40)
    still = ArrayImages(
        {"train": (images, labels)},
        name="still",
        num_classes=40,
        augmentation=Augmentation(pad=0, use_flip=False),
        split_sources={},
    )
    shuffled, order = _all(still.split("train", batch_size=8, seed=0))
    np.testing.assert_allclose(shuffled, images[order] / 255.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "validation", "batch_size": 4}, "no split 'validation'.*train, architecture"),
        ({"name": "test", "batch_size": 8, "seed": 0}, "larger than the split 'test'.*7 images"),
        ({"name": "test", "batch_size": 0}, "batch size is 0"),
    ],
)
def test_impossible_splits_are_refused(dataset, arguments, message):
    with pytest.raises(UserError, match=message):
        dataset.split(**arguments)


def test_hold_out_takes_its_part_of_every_class_and_leaves_one():
    labels = np.array([0] * 10 + [1] * 20 + [2])
    is_chosen = hold_out(labels, 0.3, seed=7)
    assert [is_chosen[labels == c].sum() for c in range(3)] == [3, 6, 0]
    np.testing.assert_array_equal(is_chosen, hold_out(labels, 0.3, seed=7))
    assert (is_chosen != hold_out(labels, 0.3, seed=8)).any()
    assert not hold_out(np.array([0]), 0.9, seed=0).any()


def test_choices_and_orders_stay_what_they_are(in_memory):
    """Accuracies of different versions compare only on the same test images."""
    chosen = np.flatnonzero(hold_out(np.zeros(20), 0.3, seed=1))
    np.testing.assert_array_equal(chosen, [2, 3, 6, 10, 14, 16])
    labels = _all(in_memory.split("architecture", batch_size=20, seed=5))[1] - 100
    expected = [3, 8, 4, 11, 13, 7, 0, 14, 16, 6, 12, 2, 9, 17, 15, 19, 5, 10, 18, 1]
    np.testing.assert_array_equal(labels, expected)


def test_shrinking_averages_areas():
    image = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    expected = image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(resize(image, 4, 3).numpy() - expected).max() <= 0.5


def test_growing_interpolates_linearly():
    row = resize(np.array([[[0], [100]]] * 2, np.uint8), 4, 1).numpy()[0, :, 0]
    np.testing.assert_array_equal(row, [0, 25, 75, 100])


def test_the_central_square_is_kept():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 9
    np.testing.assert_array_equal(resize(image, 4, 3), np.full((4, 4, 3), 9))
    np.testing.assert_array_equal(resize(image.transpose(1, 0, 2), 2, 3), np.full((2, 2, 3), 9))


def test_channels_and_depth_are_brought_to_the_asked_for():
    grey16 = np.array([[[0], [65535]], [[257], [25700]]], np.uint16)
    np.testing.assert_array_equal(resize(grey16, 2, 1)[..., 0], [[0, 255], [1, 100]])
    np.testing.assert_array_equal(resize(grey16, 2, 3), np.repeat(resize(grey16, 2, 1), 3, -1))
    rgba = np.array([[[10, 20, 30, 0]]], np.uint8)
    np.testing.assert_array_equal(resize(rgba, 1, 3), [[[10, 20, 30]]])
    assert int(resize(rgba, 1, 1)[0, 0, 0]) == round(0.2989 * 10 + 0.587 * 20 + 0.114 * 30)
