"""Labelled images or series in three splits, shuffled and augmented by a seed alone.

Axes: B images; H, W, C height, width and channels; T, C steps and channels of a series.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import tensorflow as tf

from dance_tf.data.resizing import describe_images, describe_series
from dance_tf.errors import UserError
from dance_tf.structs import InputDescription, Preprocessing

if TYPE_CHECKING:
    from typing import Unpack  # Python 3.11

__all__ = [
    "BYTE_RANGE",
    "SPLITS",
    "ArrayImages",
    "Augmentation",
    "ImageAttributes",
    "StreamedImages",
    "hold_out",
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


class ImageAttributes(_Identity, total=False):
    """Attributes that in-memory and streamed images have in common; see `_Images`."""

    augmentation: Augmentation | None
    split_sources: Mapping[str, str]
    folder: str | None
    content_sha256: str | None
    input_description: InputDescription | None
    preprocessing: Preprocessing | None
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
        image_shape: (H, W, C), or (T, C) of series.
        augmentation: Random changes of training images; None where there are none.
        split_sources: Name of the data set's own split behind each split.
        folder: Absolute path of the files that were read, or None.
        content_sha256: Hash that other files or labels would change, or None.
        input_description: Way from stored images to the images that a network is fed.
        preprocessing: The same way as a function of TensorFlow, or None.
        warnings: Lines about the data for its users.
    """

    #: Images shuffled among each other; None: all of a split.
    block_size: int | None = None

    def __init__(
        self,
        *,
        name: str,
        num_classes: int,
        image_shape: tuple[int, ...],
        augmentation: Augmentation | None = None,
        split_sources: Mapping[str, str] | None = None,
        folder: str | None = None,
        content_sha256: str | None = None,
        input_description: InputDescription | None = None,
        preprocessing: Preprocessing | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.augmentation = augmentation
        self.split_sources = dict(split_sources or {split: split for split in SPLITS})
        self.folder = folder
        self.content_sha256 = content_sha256
        self.input_description = input_description or self._own_description()
        self.preprocessing = preprocessing
        self.warnings = warnings

    def _own_description(self) -> InputDescription:
        """Describe images that are stored as they are kept, as bytes."""
        height, width, channels = self.image_shape
        return describe_images((height, width, channels), self.image_shape, BYTE_RANGE)

    def num_images(self, split: str) -> int:
        """Return the size of "train", "architecture" or "test"."""
        raise NotImplementedError

    def _batches(self, split: str, batch_size: int, order: np.ndarray | None) -> tf.data.Dataset:
        """Return batches (uint8 or float32 [B, ...], int32 [B]): full ones in `order`, or all."""
        raise NotImplementedError

    def split(self, name: str, *, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
        """Return a dataset of (float32 [B, H, W, C] or [B, T, C] in 0..1, int32 [B]).

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
            if self.augmentation is not None:
                images = _augment(images, offset_y, offset_x, is_mirrored, self.augmentation)
            images = tf.ensure_shape(_to_float(images), (batch_size, *self.image_shape))
            return images, tf.ensure_shape(labels, (batch_size,))

        return self._batches(name, batch_size, epoch.order).enumerate().map(augment).prefetch(2)

    def _draw(self, split: str, seed: int) -> _Epoch:
        # RandomState's streams, unlike Generator's, are promised never to change.
        words = np.random.SeedSequence([seed % 2**64, SPLITS.index(split)]).generate_state(8)
        random = np.random.RandomState(words)
        num_images = self.num_images(split)
        augmentation = self.augmentation or Augmentation(0, False)
        order = self._order(split, random)
        high = 2 * augmentation.pad + 1
        offset_y, offset_x = random.randint(0, high, size=(2, num_images), dtype=np.int32)
        is_mirrored = random.randint(0, 2, size=num_images, dtype=np.int32) == 1
        if not augmentation.use_flip:
            is_mirrored[:] = False
        return _Epoch(order.astype(np.int32), offset_y, offset_x, is_mirrored)

    def _order(self, split: str, random: np.random.RandomState) -> np.ndarray:
        """Draw the positions in a split that an epoch takes, as many as it has."""
        num_images = self.num_images(split)
        block = self.block_size or num_images
        return np.concatenate(
            [
                start + random.permutation(min(block, num_images - start))
                for start in range(0, num_images, block)
            ]
        )

    def _check(self, split: str) -> str:
        if split not in SPLITS:
            raise UserError(f"no split {split!r} of {self.name}; there are {', '.join(SPLITS)}")
        return split


class ArrayImages(_Images):
    """Images or series in memory.

    >>> import numpy as np
    >>> from dance_tf import ArrayImages
    >>> random = np.random.default_rng(0)
    >>> arrays = {
    ...     split: (random.random((num, 64, 3), np.float32), np.arange(num) % 4)
    ...     for split, num in (("train", 120), ("architecture", 40), ("test", 40))
    ... }
    >>> signals = ArrayImages(arrays, name="signals", num_classes=4)
    >>> signals.image_shape, signals.num_images("train")
    ((64, 3), 120)
    >>> batch, labels = next(iter(signals.split("train", batch_size=32, seed=0)))
    >>> batch.shape
    TensorShape([32, 64, 3])
    """

    def __init__(
        self,
        splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
        *,
        is_balanced: bool = False,
        **attributes: Unpack[ImageAttributes],
    ) -> None:
        """Keep images in memory.

        Args:
            splits: Images, uint8 or float32 in 0..1, [B, H, W, C] or series [B, T, C], and
                labels, int [B], of each split: "train", "architecture" and "test".
            is_balanced: True: an epoch draws all classes equally often, those with few images
                several times, and is as long as without.
            **attributes: Attributes of all images; see `ImageAttributes`.
        Raises:
            UserError: If the arrays are of other types, sizes or values.
        """
        kept = {
            split: _checked(f"{attributes['name']}, split {split!r}", *arrays, attributes)
            for split, arrays in splits.items()
        }
        shapes = {split: images.shape[1:] for split, (images, _) in kept.items()}
        image_shape, name = shapes.get("train"), attributes["name"]
        if image_shape is None or set(shapes.values()) != {image_shape}:
            raise UserError(f"{name}: its splits are of {shapes}: not all of one shape")
        if len(image_shape) == 2 and attributes.get("augmentation") is not None:
            raise UserError(f"{name}: series are not augmented: leave it out")
        self._labels = {split: labels for split, (_, labels) in kept.items()}
        self._is_bytes = kept["train"][0].dtype == np.uint8
        super().__init__(image_shape=image_shape, **attributes)
        self._is_balanced = is_balanced
        with tf.device("CPU:0"):
            self._arrays = {
                split: (tf.constant(images), tf.constant(labels))
                for split, (images, labels) in kept.items()
            }

    def _own_description(self) -> InputDescription:
        values = BYTE_RANGE if self._is_bytes else (0.0, 1.0)
        if len(self.image_shape) == 2:
            steps, channels = self.image_shape
            return describe_series((steps, channels), values)
        height, width, channels = self.image_shape
        return describe_images((height, width, channels), self.image_shape, values)

    def num_images(self, split: str) -> int:
        """Return the size of "train", "architecture" or "test"."""
        return len(self._labels[self._check(split)])

    def _order(self, split: str, random: np.random.RandomState) -> np.ndarray:
        if not self._is_balanced:
            return super()._order(split, random)
        return _balanced_order(self._labels[self._check(split)], random)

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


def _checked(
    what: str, images: np.ndarray, labels: np.ndarray, attributes: ImageAttributes
) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays of a split as they are kept; `what` names them in a UserError."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype not in (np.uint8, np.float32) or images.ndim not in (3, 4):
        raise UserError(
            f"{what}: its images are {images.dtype} {list(images.shape)}, not uint8 or float32 of"
            " [B, H, W, C] or [B, T, C]"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(
            f"{what}: its labels are {labels.dtype} {list(labels.shape)}, not one whole number for"
            f" each of {len(images)} images"
        )
    num_classes = attributes["num_classes"]
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"{what}: its labels are {labels.min()} to {labels.max()}, not 0 to {num_classes - 1}"
        )
    # Written so that NaN is out of the range.
    if images.size and images.dtype == np.float32 and not 0 <= images.min() <= images.max() <= 1:
        raise UserError(
            f"{what}: its values are {images.min():g} to {images.max():g}; floats are to be in 0..1"
        )
    return images, labels.astype(np.int32)


def _balanced_order(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Draw positions, int [B], that take each class equally often.

    A class that is drawn more often than it has images is gone through again and again, so
    that its images are drawn equally often, but for one time.
    """
    classes = random.permutation(np.unique(labels))
    drawn = []
    for turn, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        num = len(labels) // len(classes) + (turn < len(labels) % len(classes))
        rounds = [random.permutation(members) for _ in range(-(-num // len(members)))]
        drawn.append(np.concatenate(rounds)[:num])
    return random.permutation(np.concatenate(drawn))


def hold_out(labels: np.ndarray, fraction: float, seed: int, *, at_least: int = 0) -> np.ndarray:
    """Choose a fixed part of every class.

    Of a class with n images, round(fraction * n) are chosen, but never all.

    Args:
        labels: Labels, int [B].
        fraction: Part of each class, between 0 and 1.
        seed: Seed of the choice; no experiment's seed, so that all experiments agree.
        at_least: Number to choose of a class of which that part is less.
    Returns:
        Mask of the chosen images, bool [B].
    """
    random = np.random.RandomState(seed)
    is_chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(fraction * len(members)), at_least), len(members) - 1)
        is_chosen[random.permutation(members)[:count]] = True
    return is_chosen


def _to_float(images: tf.Tensor) -> tf.Tensor:
    return images if images.dtype == tf.float32 else tf.cast(images, tf.float32) / 255.0


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
