"""Way of stored images to those of a network's size, done and described.

Axes: H, W, C height, width and channels of an image; T, C steps and channels of a series.
"""

from __future__ import annotations

import tensorflow as tf

from dance_tf.structs import InputDescription

__all__ = ["describe_images", "describe_series", "resize"]


def resize(
    images: tf.Tensor,
    size: int | tuple[int, int],
    channels: int,
    values: tuple[float, float] | None = None,
    *,
    method: str = "area",
    crop: str = "centre",
) -> tf.Tensor:
    """Bring images to a size, as bytes.

    The largest central part of the wanted aspect ratio is taken; its pixels are averaged by
    area when it shrinks and interpolated linearly when it grows. Grey is repeated over three
    channels, an alpha channel is dropped.

    Args:
        images: Numbers [..., H, W, C] with 1, 3 or 4 channels.
        size: Height and width of the result; a single number: of a square.
        channels: Channels of the result, 1 or 3.
        values: Values that become 0 and 255, as do those beyond them. None: the ends of an
            unsigned type.
        method: "area", or for both directions "bilinear" or "nearest".
        crop: "centre"; "stretch" takes the whole image and alters its aspect ratio; "pad"
            takes the whole image and fills up with black on two sides.
    Returns:
        uint8 [..., *size, channels].
    """
    images = tf.convert_to_tensor(images)
    low, high = values or (0.0, float(images.dtype.max))
    to_height, to_width = (size, size) if isinstance(size, int) else size
    images = images[..., :3]
    if crop == "centre":
        images = _largest_centre(images, to_height, to_width)
    images = (tf.cast(images, tf.float32) - low) / ((high - low) / 255)
    images = tf.clip_by_value(images, 0.0, 255.0)
    if crop == "pad":
        height, width = tf.shape(images)[-3], tf.shape(images)[-2]
        # The sides of the fitting image, in whole numbers and never none.
        inner = (
            tf.clip_by_value((2 * height * to_width + width) // (2 * width), 1, to_height),
            tf.clip_by_value((2 * width * to_height + height) // (2 * height), 1, to_width),
        )
        images = tf.image.resize_with_crop_or_pad(
            _scaled(images, inner, method), to_height, to_width
        )
    else:
        images = _scaled(images, (to_height, to_width), method)
    if images.shape[-1] == 1 and channels == 3:
        images = tf.image.grayscale_to_rgb(images)
    elif images.shape[-1] == 3 and channels == 1:
        images = tf.image.rgb_to_grayscale(images)
    return tf.cast(tf.round(images), tf.uint8)


def _largest_centre(images: tf.Tensor, to_height: int, to_width: int) -> tf.Tensor:
    """Return the largest central part, [..., h, w, C], of the aspect ratio to_height:to_width."""
    height, width = tf.shape(images)[-3], tf.shape(images)[-2]
    rows = tf.minimum(height, tf.maximum(1, width * to_height // to_width))
    columns = tf.minimum(width, tf.maximum(1, height * to_width // to_height))
    top, left = (height - rows) // 2, (width - columns) // 2
    return images[..., top : top + rows, left : left + columns, :]


def _scaled(
    images: tf.Tensor, size: tuple[int | tf.Tensor, int | tf.Tensor], method: str
) -> tf.Tensor:
    if method != "area":
        return tf.image.resize(images, size, method)
    is_larger = tf.logical_or(tf.shape(images)[-3] > size[0], tf.shape(images)[-2] > size[1])
    return tf.cond(
        is_larger,
        lambda: tf.image.resize(images, size, "area"),
        lambda: tf.image.resize(images, size, "bilinear"),
    )


_WAYS = {"bilinear": "bilinear", "nearest": "nearest pixel"}


def describe_images(
    image_shape: tuple[int, int, int],
    source_shape: tuple[int | None, ...],
    values: tuple[float, float],
    class_names: tuple[str, ...] | None = None,
    *,
    method: str = "area",
    crop: str = "centre",
) -> InputDescription:
    """Describe the way of stored images through `resize` to the values that a network is fed.

    Args:
        image_shape: (H, W, C) of the result.
        source_shape: (H, W, C) of stored images, None where they differ.
        values: Stored values that become 0 and 1.
        class_names: Names of the classes in the order of the labels.
        method: Argument of `resize`.
        crop: Argument of `resize`.
    """
    height, width, channels = image_shape
    source_height, source_width, source_channels = source_shape
    order = "RGB, all three the same grey" if source_channels == 1 else "RGB"
    return InputDescription(
        height=height,
        width=width,
        channels=channels,
        value_range=(0.0, 1.0),
        source_range=values,
        source_shape=tuple(source_shape),
        resize=_resizing((height, width), (source_height, source_width), method, crop),
        crop=_cropping((height, width), (source_height, source_width), crop),
        channel_order="grey" if channels == 1 else order,
        class_names=class_names,
    )


def _resizing(
    size: tuple[int, int], source: tuple[int | None, int | None], method: str, crop: str
) -> str | None:
    """Return the phrase of the change of size, None where there is none."""
    (height, width), (source_height, source_width) = size, source
    to = f"to {height}x{width}"
    if crop == "pad":
        to = f"to fit into {height}x{width}"
    elif crop == "stretch":
        to += " regardless of its aspect ratio"
    if source_height is None or source_width is None:
        if method != "area":
            return f"{_WAYS[method]} {to}"
        return f"{to}, averaged by area if larger, bilinear if smaller"
    if crop == "centre":
        source_height, source_width = (
            min(source_height, max(1, source_width * height // width)),
            min(source_width, max(1, source_height * width // height)),
        )
    if (source_height, source_width) == size:
        return None
    is_larger = source_height > height or source_width > width
    way = "averaged by area" if is_larger else "bilinear"
    return f"{_WAYS.get(method, way)} {to}"


def _cropping(
    size: tuple[int, int], source: tuple[int | None, int | None], crop: str
) -> str | None:
    """Return the phrase of the part that is taken, None where it is all of the image."""
    height, width = size
    source_height, source_width = source
    if crop == "stretch":
        return None
    is_known = source_height is not None and source_width is not None
    if is_known and (source_height or 0) * width == (source_width or 0) * height:
        return None
    if crop == "pad":
        return "all of the image, with black on two sides"
    return (
        "the largest central square"
        if height == width
        else f"the largest central part of {height}:{width}"
    )


def describe_series(
    series_shape: tuple[int, int],
    values: tuple[float, float],
    class_names: tuple[str, ...] | None = None,
) -> InputDescription:
    """Describe series [T, C], whose steps are the rows of an image one pixel wide.

    Args:
        series_shape: (T, C), of the stored ones as well.
        values: Stored values that become 0 and 1.
        class_names: Names of the classes in the order of the labels.
    """
    steps, channels = series_shape
    return InputDescription(
        height=steps,
        width=1,
        channels=channels,
        value_range=(0.0, 1.0),
        source_range=values,
        source_shape=(steps, channels),
        resize=None,
        crop=None,
        channel_order="as stored",
        class_names=class_names,
    )
