"""What is in stored images: the range that becomes 0..1, and classes without images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.data.contents import (
    absent_classes,
    beyond_range,
    lost_levels,
    source_range,
    value_range,
)
from dance_tf.data.resizing import resize
from dance_tf.errors import UserError


def _images(*rows: list[float], dtype: str = "uint16") -> tf.data.Dataset:
    """Return an image of one row of pixels for each list."""
    return tf.data.Dataset.from_tensor_slices(np.array(rows, dtype)[:, None, :, None])


@pytest.mark.parametrize(
    ("dtype", "low", "high", "expected"),
    [
        ("uint8", 0, 255, (0, 255)),
        ("uint8", 20, 200, (0, 255)),  # photographs, as ever
        ("uint8", 0, 1, (0, 1)),  # a mask
        ("uint8", 0, 16, (0, 16)),
        ("uint16", 0, 65535, (0, 65535)),
        ("uint16", 200, 2660, (200, 2660)),  # a sensor of 12 bits
        ("float32", 0.0, 1.0, (0, 1)),
        ("float32", 0.1, 0.97, (0, 1)),
        ("float32", -1.0, 1.0, (-1, 1)),
        ("float32", 0.0, 254.0, (0, 255)),
        ("float32", -3.2, 2.9, (-3.2, 2.9)),  # standardised
        ("float32", 0.0, 1.0001, (0, 1.0001)),
    ],
)
def test_black_and_white_are_a_usual_range_or_what_is_there(dtype, low, high, expected):
    assert source_range(dtype, low, high) == expected


def test_the_range_of_the_data_is_used_and_told():
    values, lines = value_range("mine", _images([200, 900], [1000, 2660]))
    assert values == (200, 2660)
    assert len(lines) == 1
    assert all(part in lines[0] for part in ("'mine'", "uint16", "200 to 2660"))
    assert value_range("mine", _images([0, 65535])) == ((0, 65535), [])
    assert value_range("mine", _images([3, 250], dtype="uint8")) == ((0, 255), [])
    assert value_range("mine", _images([-0.9, 0.9], dtype="float32")) == ((-1, 1), [])


def test_all_images_count_not_the_first_ones():
    rows = [[500, 600]] * 100 + [[200, 2660]]
    assert value_range("mine", _images(*rows))[0] == (200, 2660)
    assert value_range("mine", _images(*rows, [0, 60000]))[0] == (0, 65535)


@pytest.mark.parametrize(
    ("dtype", "row", "part"),
    [
        ("uint8", [7, 7], "all pixels of its training images are 7"),
        ("float32", [0.0, np.nan], "not finite"),
        ("float32", [0.0, np.inf], "not finite"),
    ],
)
def test_what_has_no_range_is_refused(dtype, row, part):
    with pytest.raises(UserError, match=rf"'mine'.*{part}"):
        value_range("mine", _images(row, dtype=dtype))


def test_values_beyond_the_training_images_are_told():
    assert beyond_range("mine", "test", _images([200, 2660]), (200, 2660)) == []
    for row in ([199, 300], [300, 2661]):
        (line,) = beyond_range("mine", "test", _images(row), (200, 2660))
        assert "'test' of 'mine'" in line


def test_a_range_is_spread_over_all_bytes_and_what_lies_beyond_ends_with_it():
    image = np.array([[[200], [2660]], [[1430], [9999]]], np.uint16)
    np.testing.assert_array_equal(resize(image, 2, 1, (200, 2660))[..., 0], [[0, 255], [128, 255]])
    image = np.array([[[-1.0], [1.0]], [[0.5], [-2.0]]], np.float32)
    np.testing.assert_array_equal(resize(image, 2, 1, (-1, 1))[..., 0], [[0, 255], [191, 0]])


def test_a_class_without_images_is_named():
    names = ("cat", "dog", "bird")
    assert absent_classes("mine", "train", np.array([0, 1, 2]), names) == []
    (line,) = absent_classes("mine", "train", np.array([0, 2, 2]), names)
    assert "'dog'" in line and "'cat'" not in line and "cannot be learned" in line
    (line,) = absent_classes("mine", "test", np.array([0]), names)
    assert "'dog', 'bird'" in line and "cannot be learned" not in line
    (line,) = absent_classes("mine", "train", np.array([0, 1]), tuple(map(str, range(100))))
    assert "and 93 more" in line
    with pytest.raises(UserError, match=r"'mine'.*'bird'"):
        absent_classes("mine", "train", np.array([2, 2]), names)


def test_grey_levels_lost_to_a_far_off_value_are_told():
    histogram = np.zeros(256, np.int64)
    histogram[:10], histogram[255] = 10_000, 3
    (line,) = lost_levels("mine", histogram, (0, 65535))
    assert "10 of 256" in line and "65535" in line
    histogram[255] = 10_000  # a mask
    assert lost_levels("mine", histogram, (0, 1)) == []
