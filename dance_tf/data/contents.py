"""Contents of a data set's images: their range of values, and classes without an image.

Oddities are returned as lines for the user of the data.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from dance_tf.data.images import BYTE_RANGE
from dance_tf.errors import UserError

__all__ = [
    "USUAL_RANGES",
    "absent_classes",
    "beyond_range",
    "lost_levels",
    "source_range",
    "value_range",
]

#: Ranges that images of a type usually have, narrowest first.
USUAL_RANGES = {
    "uint8": (BYTE_RANGE,),
    "uint16": ((0.0, 65535.0),),
    "float32": ((0.0, 1.0), (-1.0, 1.0), BYTE_RANGE),
}


def source_range(dtype: str, low: float, high: float) -> tuple[float, float]:
    """Return the stored values that are black and white, given the least and the largest.

    They are the ends of the usual range of the type, if the values take more than a half of
    it, and else of the values themselves: a camera of 12 bits leaves most of 16 empty, and a
    mask of zeros and ones nearly all of 8.

    Args:
        dtype: Key of USUAL_RANGES.
        low: Least value of the train split.
        high: Largest value of the train split.
    """
    for usual in USUAL_RANGES[dtype]:
        if usual[0] <= low and high <= usual[1] and 2 * (high - low) > usual[1] - usual[0]:
            return usual
    return low, high


def value_range(name: str, images: tf.data.Dataset) -> tuple[tuple[float, float], list[str]]:
    """Return the stored values that become 0 and 1, and a line where they are not usual ones.

    Args:
        name: Name of the data set.
        images: Images of its train split, [H, W, C] of a type in USUAL_RANGES.
    Raises:
        UserError: If all pixels are the same, or one is no finite number.
    """
    dtype = images.element_spec.dtype.name
    low, high = np.inf, -np.inf
    for least, largest in _extremes(images):
        low, high = float(np.minimum(low, least)), float(np.maximum(high, largest))
        if dtype != "float32" and source_range(dtype, low, high) in USUAL_RANGES[dtype]:
            break  # More images cannot change it: nearly all bytes end here at once.
    if not np.isfinite([low, high]).all():
        raise UserError(f"data set {name!r}: its images have values that are not finite")
    if low == high:
        raise UserError(f"data set {name!r}: all pixels of its training images are {low:g}")
    values = source_range(dtype, low, high)
    if values in USUAL_RANGES[dtype]:
        return values, []
    return values, [
        f"the training images of {name!r} ({dtype}) hold {low:g} to {high:g}: that range is"
        " brought to 0..1"
    ]


def beyond_range(
    name: str, split: str, images: tf.data.Dataset, values: tuple[float, float]
) -> list[str]:
    """Return a line where images of a split have values beyond those of the train split."""
    if all(values[0] <= low and high <= values[1] for low, high in _extremes(images)):
        return []
    return [
        f"the split {split!r} of {name!r} has values beyond {values[0]:g} to {values[1]:g}, which"
        " are cut off"
    ]


def _extremes(images: tf.data.Dataset) -> Iterator[tuple[float, float]]:
    """Yield least and largest value of every few images; NaN where one is."""

    def of_image(image: tf.Tensor) -> tf.Tensor:
        image = tf.cast(image, tf.float32)
        return tf.stack([tf.reduce_min(image), tf.reduce_max(image)])

    for extremes in images.map(of_image).batch(64).as_numpy_iterator():
        yield float(extremes[:, 0].min()), float(extremes[:, 1].max())


def absent_classes(
    name: str, split: str, labels: np.ndarray, class_names: tuple[str, ...]
) -> list[str]:
    """Return a line about classes without an image in a split.

    Raises:
        UserError: If it is the split to learn from and has one class only.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    absent = [repr(class_names[i]) for i in np.flatnonzero(counts == 0)]
    if split == "train" and len(class_names) - len(absent) < 2:
        there = class_names[int(counts.argmax())]
        raise UserError(
            f"data set {name!r}: all its training images are of class {there!r}, so there is"
            " nothing to learn"
        )
    if not absent:
        return []
    shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    what = "class" if len(absent) == 1 else "classes"
    effect = "cannot be learned" if split == "train" else "is left out of the accuracy"
    return [f"data set {name!r} has no image of {what} {shown} in its split {split!r}: {effect}"]


def lost_levels(name: str, histogram: np.ndarray, values: tuple[float, float]) -> list[str]:
    """Return a line where a few far-off values leave hardly any grey levels to the rest.

    Args:
        name: Name of the data set.
        histogram: Number of pixels at each level, int [256].
        values: Stored values that became the first and the last level.
    """
    share = histogram.cumsum() / histogram.sum()
    low, high = np.searchsorted(share, [0.0005, 0.9995])
    if high - low >= 16:
        return []
    return [
        f"99.9 % of the pixels of {name!r} lie within {high - low + 1} of 256 grey levels, which"
        f" stand for {values[0]:g} to {values[1]:g}: look for values that are far from the others"
    ]
