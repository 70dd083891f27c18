"""Labelled images in three splits, shuffled and augmented by a seed alone.

Axes: B images; H, W, C height, width and channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import tensorflow as tf

from dance_tf.errors import UserError
from dance_tf.structs import InputDescription

if TYPE_CHECKING:
    from typing import Unpack  # Python 3.11

__all__ = [
    "BYTE_RANGE",
    "SPLITS",
    "ArrayImages",
    "Augmentation",
    "ImageAttributes",
    "StreamedImages",
    "describe_input",
    "digits",
    "hold_out",
    "resize",
]

#: Range of the images that are kept: bytes.
BYTE_RANGE = (0.0, 255.0)

#: The splits of every data set; the position is part of the random stream.
SPLITS = ("train", "architecture", "test")


class Augmentation(NamedTuple):
    """Random crop out of the image with a black border, and random mirroring."""

    pad: int  # pixels of border on each side
    use_flip: bool


class _Identity(TypedDict):
    name: str
    num_classes: int
    augmentation: Augmentation
    split_sources: Mapping[str, str]


class ImageAttributes(_Identity, total=False):
    """Attributes that in-memory and streamed images have in common; see `_Images`."""

    folder: str | None
    input_description: InputDescription | None
    warnings: tuple[str, ...]


class _Epoch(NamedTuple):
    """Everything random about one pass over a split, drawn before it starts."""

    order: np.ndarray  # int32 [B], positions in the split
    offset_y: np.ndarray  # int32 [B], 0..2 pad
    offset_x: np.ndarray  # int32 [B]
    is_mirrored: np.ndarray  # bool [B]


class _Images:
    """Common part of in-memory and streamed images: the dance_tf.protocols.ImageDataset.

    Attributes:
        name: Name of the data set.
        num_classes: Number of classes; labels are below it.
        image_shape: (H, W, C).
        augmentation: Random changes of training images.
        split_sources: Name of the data set's own split behind each split.
        folder: Absolute path of the files that were read, or None.
        input_description: Way from stored images to the images that a network is fed.
        warnings: Lines about the data for its users.
    """

    #: Images shuffled among each other; None: all of a split.
    block_size: int | None = None

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        image_shape: tuple[int, int, int],
        augmentation: Augmentation,
        split_sources: Mapping[str, str],
        folder: str | None = None,
        input_description: InputDescription | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.augmentation = augmentation
        self.split_sources = dict(split_sources)
        self.folder = folder
        # Without one, images are stored as they are kept.
        self.input_description = input_description or describe_input(
            image_shape, image_shape, BYTE_RANGE
        )
        self.warnings = warnings

    def num_images(self, split: str) -> int:
        """Return the size of "train", "architecture" or "test"."""
        raise NotImplementedError

    def _batches(self, split: str, batch_size: int, order: np.ndarray | None) -> tf.data.Dataset:
        """Return batches (uint8 [B, H, W, C], int32 [B]): full ones in `order`, or all."""
        raise NotImplementedError

    def split(self, name: str, *, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
        """Return a dataset of (float32 [B, H, W, C] in 0..1, int32 [B]).

        All random numbers of the pass come from `seed`, before it starts: neither
        threads nor TensorFlow's global seed have a say, and `.skip(n)` leaves exactly
        the batches that would have followed.

        Args:
            name: "train", "architecture" or "test".
            batch_size: Number of images of a batch.
            seed: Seed of the order and of the augmentation, one for each epoch; the
                incomplete last batch is dropped. None: in order, untouched, complete.
        Raises:
            UserError: If there is no such split, or it does not fill one batch.
        """
        num_images = self.num_images(name)
        if batch_size < 1:
            raise UserError(f"batch size is {batch_size}, not positive")
        if seed is None:
            batches = self._batches(name, batch_size, None)
            return batches.map(lambda images, labels: (_to_float(images), labels)).prefetch(2)
        if batch_size > num_images:
            raise UserError(
                f"batch size {batch_size} is larger than the split {name!r} of {self.name},"
                f" which has {num_images} images"
            )
        epoch = self._draw(name, seed)
        with tf.device("CPU:0"):
            draws = [tf.constant(draw) for draw in epoch[1:]]

        def augment(index: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple:
            images, labels = batch
            rows = tf.range(index * batch_size, (index + 1) * batch_size)
            offset_y, offset_x, is_mirrored = (tf.gather(d, rows) for d in draws)
            images = _augment(images, offset_y, offset_x, is_mirrored, self.augmentation)
            images = tf.ensure_shape(_to_float(images), (batch_size, *self.image_shape))
            return images, tf.ensure_shape(labels, (batch_size,))

        return self._batches(name, batch_size, epoch.order).enumerate().map(augment).prefetch(2)

    def _draw(self, split: str, seed: int) -> _Epoch:
        # RandomState's streams, unlike Generator's, are promised never to change.
        words = np.random.SeedSequence([seed % 2**64, SPLITS.index(split)]).generate_state(8)
        random = np.random.RandomState(words)
        num_images = self.num_images(split)
        block = self.block_size or num_images
        order = [
            start + random.permutation(min(block, num_images - start))
            for start in range(0, num_images, block)
        ]
        high = 2 * self.augmentation.pad + 1
        offset_y, offset_x = random.randint(0, high, size=(2, num_images), dtype=np.int32)
        is_mirrored = random.randint(0, 2, size=num_images, dtype=np.int32) == 1
        if not self.augmentation.use_flip:
            is_mirrored[:] = False
        return _Epoch(np.concatenate(order).astype(np.int32), offset_y, offset_x, is_mirrored)

    def _check(self, split: str) -> str:
        if split not in SPLITS:
            raise UserError(f"no split {split!r} of {self.name}; there are {', '.join(SPLITS)}")
        return split


class ArrayImages(_Images):
    """Images in memory."""

    def __init__(
        self,
        splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
        **attributes: Unpack[ImageAttributes],
    ) -> None:
        """Keep images in memory.

        Args:
            splits: Images, uint8 [B, H, W, C], and labels, int32 [B], of each split.
            **attributes: Attributes of all images; see `ImageAttributes`.
        """
        super().__init__(image_shape=splits["train"][0].shape[1:], **attributes)
        with tf.device("CPU:0"):
            self._arrays = {
                name: (tf.constant(images, tf.uint8), tf.constant(labels, tf.int32))
                for name, (images, labels) in splits.items()
            }

    def num_images(self, split: str) -> int:
        """Return the size of "train", "architecture" or "test"."""
        return int(self._arrays[self._check(split)][1].shape[0])

    def _batches(self, split: str, batch_size: int, order: np.ndarray | None) -> tf.data.Dataset:
        images, labels = self._arrays[self._check(split)]
        num_images = self.num_images(split)
        if order is None:
            order = np.arange(num_images, dtype=np.int32)
            num_batches = -(-num_images // batch_size)
        else:
            num_batches = num_images // batch_size
        with tf.device("CPU:0"):
            order = tf.constant(order)

        def take(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = order[index * batch_size : (index + 1) * batch_size]
            return tf.gather(images, rows), tf.gather(labels, rows)

        return tf.data.Dataset.range(num_batches, output_type=tf.int32).map(take)


class StreamedImages(_Images):
    """Images read from their files at every pass, for data sets larger than memory.

    They are shuffled within consecutive blocks of `block_size` images.
    """

    block_size = 8192

    def __init__(
        self,
        read: Callable[[str], tf.data.Dataset],
        *,
        is_held_out: np.ndarray,
        num_test: int,
        image_shape: tuple[int, int, int],
        **attributes: Unpack[ImageAttributes],
    ) -> None:
        """Stream images from their files.

        Args:
            read: Function from "train" or "test" to a dataset of (uint8 [H, W, C],
                int32 []), always in the same order.
            is_held_out: Mask of the train images that are the architecture split, bool [B].
            num_test: Number of test images.
            image_shape: (H, W, C).
            **attributes: Attributes of all images; see `ImageAttributes`.
        """
        super().__init__(image_shape=image_shape, **attributes)
        self._read = read
        self._is_held_out = is_held_out
        self._sizes = {
            "train": int((~is_held_out).sum()),
            "architecture": int(is_held_out.sum()),
            "test": num_test,
        }

    def num_images(self, split: str) -> int:
        """Return the size of "train", "architecture" or "test"."""
        return self._sizes[self._check(split)]

    def _batches(self, split: str, batch_size: int, order: np.ndarray | None) -> tf.data.Dataset:
        dataset = self._read("test" if split == "test" else "train")
        if split != "test":
            is_wanted = self._is_held_out == (split == "architecture")
            marked = tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(is_wanted))
            dataset = marked.filter(lambda _, is_wanted: is_wanted).map(lambda example, _: example)
        if order is None:
            return dataset.batch(batch_size)
        with tf.device("CPU:0"):
            order = tf.constant(order)

        def permute(index: tf.Tensor, block: tuple[tf.Tensor, tf.Tensor]) -> tuple:
            start = tf.cast(index, tf.int32) * self.block_size
            rows = order[start : start + self.block_size] - start
            return tf.gather(block[0], rows), tf.gather(block[1], rows)

        blocks = dataset.batch(self.block_size).enumerate().map(permute)
        return blocks.rebatch(batch_size, drop_remainder=True)


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a fixed part of every class.

    Of a class with n images, round(fraction * n) are chosen, but never all.

    Args:
        labels: Labels, int [B].
        fraction: Part of each class, between 0 and 1.
        seed: Seed of the choice; no experiment's seed, so that all experiments agree.
    Returns:
        Mask of the chosen images, bool [B].
    """
    random = np.random.RandomState(seed)
    is_chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(round(fraction * len(members)), len(members) - 1)
        is_chosen[random.permutation(members)[:count]] = True
    return is_chosen


def digits(size: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 handwritten digits, which come with the package.

    Returns:
        Images uint8 [1797, size, size, channels], grown from 8x8, and labels int32 [1797].
    """
    from sklearn import datasets  # Takes a second to import.

    bunch = datasets.load_digits()
    # 17 grey levels become 0..255.
    grey = np.round(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    return resize(grey, size, channels).numpy(), bunch.target.astype(np.int32)


def describe_input(
    image_shape: tuple[int, int, int],
    source_shape: tuple[int | None, ...],
    values: tuple[float, float],
    class_names: tuple[str, ...] | None = None,
) -> InputDescription:
    """Describe the way of stored images through `resize` and `split`.

    Args:
        image_shape: (H, W, C) of the result.
        source_shape: (H, W, C) of stored images, None where they differ.
        values: Stored values that become 0 and 1.
        class_names: Names of the classes in the order of the labels.
    """
    height, width, channels = image_shape
    source_height, source_width, source_channels = source_shape
    is_known = source_height is not None and source_width is not None
    if is_known and (source_height, source_width) == (height, width):
        changes: tuple[str | None, str | None] = (None, None)
    elif source_height is None or source_width is None:
        size = f"to {height}x{width}, averaged by area if larger, bilinear if smaller"
        changes = size, "the largest central square"
    else:
        side = min(source_height, source_width)
        way = "averaged by area" if side > height else "bilinear"
        changes = (
            None if side == height else f"{way} to {height}x{width}",
            None if source_height == source_width else "the largest central square",
        )
    order = "RGB, all three the same grey" if source_channels == 1 else "RGB"
    return InputDescription(
        height=height,
        width=width,
        channels=channels,
        value_range=(0.0, 1.0),
        source_range=values,
        source_shape=tuple(source_shape),
        resize=changes[0],
        crop=changes[1],
        channel_order="grey" if channels == 1 else order,
        class_names=class_names,
    )


def resize(
    images: tf.Tensor, size: int, channels: int, values: tuple[float, float] | None = None
) -> tf.Tensor:
    """Bring images to size x size pixels of bytes.

    The largest central square is taken; its pixels are averaged by area when it
    shrinks and interpolated linearly when it grows. Grey is repeated over three
    channels, an alpha channel is dropped.

    Args:
        images: Numbers [..., H, W, C] with 1, 3 or 4 channels.
        size: Height and width of the result.
        channels: Channels of the result, 1 or 3.
        values: Values that become 0 and 255, as do those beyond them. None: the ends of an
            unsigned type.
    Returns:
        uint8 [..., size, size, channels].
    """
    images = tf.convert_to_tensor(images)
    low, high = values or (0.0, float(images.dtype.max))
    height, width = tf.shape(images)[-3], tf.shape(images)[-2]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side, :3]
    images = (tf.cast(images, tf.float32) - low) / ((high - low) / 255)
    images = tf.clip_by_value(images, 0.0, 255.0)
    images = tf.cond(
        side > size,
        lambda: tf.image.resize(images, (size, size), "area"),
        lambda: tf.image.resize(images, (size, size), "bilinear"),
    )
    if images.shape[-1] == 1 and channels == 3:
        images = tf.image.grayscale_to_rgb(images)
    elif images.shape[-1] == 3 and channels == 1:
        images = tf.image.rgb_to_grayscale(images)
    return tf.cast(tf.round(images), tf.uint8)


def _to_float(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32) / 255.0


def _augment(
    images: tf.Tensor,
    offset_y: tf.Tensor,
    offset_x: tf.Tensor,
    is_mirrored: tf.Tensor,
    augmentation: Augmentation,
) -> tf.Tensor:
    """Crop and mirror a batch with one gather, so that it costs next to nothing."""
    pad = augmentation.pad
    size, batch = tf.shape(images), tf.shape(images)[0]
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    height, width, channels = size[1], size[2], size[3]
    columns = tf.range(width)
    columns = tf.where(is_mirrored[:, None], columns[::-1], columns) + offset_x[:, None]
    rows = tf.range(height) + offset_y[:, None]
    first_row = tf.range(batch)[:, None] * (height + 2 * pad)
    pixels = (first_row + rows)[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    return tf.gather(tf.reshape(padded, [-1, channels]), pixels)
