"""Data for a search: the embedded digits, TFDS data sets, and the user's own images or series."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from dance_tf.config import DataConfig
from dance_tf.data import arrays, image_files, tfds_sets
from dance_tf.data.contents import absent_classes, beyond_range, lost_levels, value_range
from dance_tf.data.images import (
    BYTE_RANGE,
    ArrayImages,
    Augmentation,
    ImageAttributes,
    StreamedImages,
    hold_out,
)
from dance_tf.data.prepared import find_prepared, parse_name
from dance_tf.data.resizing import describe_images, describe_series, resize
from dance_tf.data.sources import TEST_SEED, Source
from dance_tf.errors import UserError
from dance_tf.files import local_path
from dance_tf.protocols import ImageDataset
from dance_tf.structs import Preprocessing

if TYPE_CHECKING:
    from typing import Unpack  # Python 3.11

__all__ = ["MAX_BYTES_IN_MEMORY", "load_data", "load_images"]

#: A larger data set is read from its files at every pass.
MAX_BYTES_IN_MEMORY = 2 * 2**30

# Seed of the fixed hold-out of the architecture split, the same in all experiments.
_ARCHITECTURE_SEED = 2


def load_data(config: DataConfig, input_shape: tuple[int, ...]) -> ImageDataset:
    """Return the data of a configuration in the shape that a network takes.

    >>> from dance_tf import load_data, preset
    >>> load_data(preset("digits").data, (16, 24, 1)).image_shape
    (16, 24, 1)

    Args:
        config: Which data, and what becomes of them.
        input_shape: (H, W, C) of images, or (T, C) of series of T steps and C channels.
    Raises:
        UserError: If the data are missing, damaged, or cannot be brought to that shape.
    """
    if len(input_shape) == 2:
        return _load_series(config, input_shape)
    height, width, channels = input_shape
    return load_images(config, input_size=(height, width), image_channels=channels)


def load_images(
    config: DataConfig,
    *,
    input_size: int | tuple[int, int],
    image_channels: int = 3,
    max_bytes_in_memory: int = MAX_BYTES_IN_MEMORY,
) -> ImageDataset:
    """Return the images of a data set in the splits train, architecture and test.

    `architecture` is a fixed part of every class of the data set's train split, held
    out of `train`; `test` is its test split, or its validation split where there is no
    test split with labels; `split_sources` tells. Training images are shifted by up to
    an eighth of their size, and mirrored where that keeps their class. Of the digits, and of
    images of the user's own without a split, a fixed part of every class is `test`.

    >>> import dance_tf
    >>> images = dance_tf.load_images(dance_tf.preset("digits").data, input_size=16)
    >>> [images.num_images(split) for split in ("train", "architecture", "test")]
    [1151, 287, 359]
    >>> batch, labels = next(iter(images.split("train", batch_size=32, seed=0)))
    >>> batch.shape
    TensorShape([32, 16, 16, 3])

    Args:
        config: Which data, their held-out parts, and what becomes of an image.
        input_size: Height and width of the images; a single number: of squares.
        image_channels: 3, or 1 for grey.
        max_bytes_in_memory: Bytes of decoded images beyond which they are read anew at every
            pass.
    Raises:
        UserError: If the data set is unknown, missing, damaged or of another kind.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if min(size) < 1 or image_channels not in (1, 3):
        raise UserError(f"cannot make images of {size} pixels and {image_channels} channels")
    if config.path is None and config.dataset == "digits":
        return _load_digits(config, size, image_channels)
    return _brought(_source(config), config, size, image_channels, max_bytes_in_memory)


def _source(config: DataConfig) -> Source:
    """Return the stored images that a configuration names."""
    if config.path is None:
        return tfds_sets.named_source(config.dataset, config.data_dir)
    if config.builder is not None:
        return tfds_sets.source_of_builder(config.builder, config.data_dir)
    path = _existing(config)
    if arrays.holds_arrays(path):
        return arrays.array_source(path, config.test_fraction)
    if path.endswith(".csv"):
        return image_files.csv_source(path, config.test_fraction)
    if not os.path.isdir(path):
        raise UserError(
            f"--data={path}: is none of a folder of images, a .csv file that lists them, a .npz"
            " file of arrays and a folder of .npy files; unpack an archive, and put a .npy file"
            " into a folder as x.npy beside y.npy"
        )
    prepared = _prepared_below(path)
    if prepared is not None:
        return tfds_sets.prepared_source(prepared)
    return image_files.folder_source(path, config.test_fraction)


def _existing(config: DataConfig) -> str:
    path = local_path(str(config.path), "data.path")
    if not os.path.exists(path):
        raise UserError(f"--data={path}: no such file or folder")
    return path


def _prepared_below(path: str) -> Path | None:
    """Return the folder of prepared TFDS data that a path is or, as NAME[/CONFIG], is above."""
    folder = Path(path)
    if (folder / "dataset_info.json").is_file():
        return folder
    try:
        parse_name(folder.name)
    except UserError:  # TFDS gives no such name.
        return None
    return find_prepared(folder.name, str(folder.parent))


def _load_digits(config: DataConfig, size: tuple[int, int], channels: int) -> ImageDataset:
    from sklearn import datasets  # Takes a second to import.

    bunch = datasets.load_digits()  # 1,797 images of 8x8
    # 17 grey levels become 0..255.
    grey = np.round(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    ways = {"method": config.resize, "crop": config.crop}
    images = resize(grey, size, channels, BYTE_RANGE, **ways).numpy()
    labels = bunch.target.astype(np.int32)
    is_test = hold_out(labels, 0.2, TEST_SEED)
    stored = bunch.images[..., None].astype(np.uint8)[is_test]

    def prepare(levels: tf.Tensor) -> tf.Tensor:
        grey = tf.round(tf.cast(levels, tf.float32) * (255 / 16))
        return _to_floats(resize(grey, size, channels, BYTE_RANGE, **ways))

    return _in_memory(
        {"train": (images[~is_test], labels[~is_test]), "test": (images[is_test], labels[is_test])},
        config,
        name="digits",
        num_classes=10,
        augmentation=_augmentation(size, use_flip=False),
        split_sources={"train": "train", "architecture": "train", "test": "test"},
        input_description=describe_images(
            (*size, channels), (8, 8, 1), (0.0, 16.0), tuple(map(str, range(10))), **ways
        ),
        preprocessing=Preprocessing(
            tf.TensorSpec([None, None, None, 1], tf.uint8), prepare, lambda num: list(stored[:num])
        ),
    )


def _brought(
    source: Source, config: DataConfig, size: tuple[int, int], channels: int, max_bytes: int
) -> ImageDataset:
    """Return stored images, brought to a size and to the range of their values."""

    def stored(split: str) -> tf.data.Dataset:
        return source.read(split).map(lambda image, label: image)

    name = source.name
    with source.guard("train"):
        values, warnings = value_range(name, stored("train"))
    if warnings:
        with source.guard("test"):
            warnings += beyond_range(name, source.splits["test"], stored("test"), values)
    warnings = [*source.warnings, *warnings]
    spec = stored("test").element_spec
    image_shape = (*size, channels)
    ways = {"method": config.resize, "crop": config.crop}
    attributes: ImageAttributes = {
        "name": name,
        "num_classes": len(source.class_names),
        "augmentation": _augmentation(size, use_flip=source.use_flip),
        "split_sources": {**source.splits, "architecture": source.splits["train"]},
        "folder": source.folder,
        "content_sha256": source.content_sha256,
        "input_description": describe_images(
            image_shape, source.source_shape, values, source.class_names, **ways
        ),
        "preprocessing": Preprocessing(
            tf.TensorSpec([None, None, None, spec.shape[-1]], spec.dtype),
            lambda images: _to_floats(resize(images, size, channels, values, **ways)),
            lambda num: list(stored("test").take(num).as_numpy_iterator()),
        ),
    }

    def read(split: str) -> tf.data.Dataset:
        def bring(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return resize(image, size, channels, values, **ways), tf.cast(label, tf.int32)

        return source.read(split).map(
            bring, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    num_images = source.num_images
    if sum(num_images.values()) * size[0] * size[1] * channels > max_bytes:
        if config.class_balance != "none":
            raise UserError(
                f"data.class_balance={config.class_balance} needs the images in memory: those of"
                f" {name} take more than {max_bytes / 2**30:g} GiB"
            )
        # Where there are no labels without a pass over the files: held out regardless of class.
        classes = np.zeros(num_images["train"], np.int32)
        attributes["warnings"] = tuple(warnings)
        return StreamedImages(
            read,
            is_held_out=_held_out(source.labels["train"] if source.labels else classes, config),
            num_test=num_images["test"],
            image_shape=image_shape,
            **attributes,
        )
    splits = {}
    histogram = np.zeros(256, np.int64)
    for split, own in source.splits.items():
        images = np.empty((num_images[split], *image_shape), np.uint8)
        labels = np.empty(num_images[split], np.int32)
        start = 0
        with source.guard(split):
            for image_batch, label_batch in read(split).batch(1024).as_numpy_iterator():
                end = start + len(label_batch)
                images[start:end], labels[start:end] = image_batch, label_batch
                histogram += np.bincount(image_batch.reshape(-1), minlength=256)
                start = end
        if labels.min() < 0 or labels.max() >= len(source.class_names):
            raise UserError(f"data set {name!r}: its split {own!r} has images without a class")
        warnings += absent_classes(name, own, labels, source.class_names)
        splits[split] = (images, labels)
    attributes["warnings"] = (*warnings, *lost_levels(name, histogram, values))
    return _in_memory(splits, config, **attributes)


def _load_series(config: DataConfig, input_shape: tuple[int, ...]) -> ImageDataset:
    """Return series [T, C] of the user's own, their values brought to 0..1."""
    steps, channels = input_shape
    path = None if config.path is None or config.builder is not None else _existing(config)
    if path is None or not arrays.holds_arrays(path):
        raise UserError(
            f"{config.title}: holds no series, which the space takes: name a .npz file, or a folder"
            " of .npy files, as --data"
        )
    own = arrays.series(path, config.test_fraction)
    found = own.samples["train"].shape[1:]
    if found != (steps, channels):
        raise UserError(
            f"{path}: its series are of {found[0]} steps and {found[1]} channels, the space takes"
            f" {steps} and {channels}: give the space that shape, or bring the series to its own"
        )
    low, high = (float(bound) for bound in (own.samples["train"].min(), own.samples["train"].max()))
    if low == high:
        raise UserError(f"{path}: all values of its training series are {low:g}")
    warnings = list(own.warnings)
    test = own.samples["test"]
    if test.min() < low or test.max() > high:
        warnings.append(
            f"the split {own.splits['test']!r} of {own.name!r} has values beyond {low:g} to"
            f" {high:g}, which are cut off"
        )

    def prepare(values: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value((values - low) / (high - low), 0.0, 1.0)

    splits = {k: (prepare(samples).numpy(), own.labels[k]) for k, samples in own.samples.items()}
    return _in_memory(
        splits,
        config,
        name=own.name,
        num_classes=len(own.class_names),
        split_sources={**own.splits, "architecture": own.splits["train"]},
        folder=own.path,
        content_sha256=own.content_sha256,
        input_description=describe_series((steps, channels), (low, high), own.class_names),
        preprocessing=Preprocessing(
            tf.TensorSpec([None, steps, channels], tf.float32),
            prepare,
            lambda num: list(own.samples["test"][:num]),
        ),
        warnings=tuple(warnings),
    )


def _in_memory(
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    config: DataConfig,
    **attributes: Unpack[ImageAttributes],
) -> ImageDataset:
    images, labels = splits["train"]
    is_held_out = _held_out(labels, config)
    return ArrayImages(
        {
            "train": (images[~is_held_out], labels[~is_held_out]),
            "architecture": (images[is_held_out], labels[is_held_out]),
            "test": splits["test"],
        },
        is_balanced=config.class_balance == "sampling",
        **attributes,
    )


def _held_out(labels: np.ndarray, config: DataConfig) -> np.ndarray:
    is_held_out = hold_out(labels, config.architecture_fraction, _ARCHITECTURE_SEED)
    if not is_held_out.any() or is_held_out.all():
        raise UserError(
            f"data.architecture_fraction={config.architecture_fraction} of {len(labels)} training"
            " images leaves the split 'architecture' or 'train' empty: change it"
        )
    return is_held_out


def _to_floats(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32) / 255.0


def _augmentation(size: tuple[int, int], *, use_flip: bool) -> Augmentation:
    return Augmentation(pad=min(size) // 8, use_flip=use_flip)
