"""Images for a search: the embedded digits, or any TFDS image-classification data set.

The only user of tensorflow_datasets, beside the label data set. Prepared data is read from
its folder alone, without the data set's code, and nothing is ever downloaded but by `prepare`.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import tensorflow as tf

from dance_tf.config import DataConfig
from dance_tf.data import prepared
from dance_tf.data.contents import absent_classes, beyond_range, lost_levels, value_range
from dance_tf.data.images import (
    ArrayImages,
    Augmentation,
    ImageAttributes,
    StreamedImages,
    describe_input,
    digits,
    hold_out,
    resize,
)
from dance_tf.data.prepared import Prepared, resolve_data_dir
from dance_tf.errors import UserError
from dance_tf.protocols import ImageDataset
from dance_tf.run.folder_lock import owned
from dance_tf.run.installation import tool_command

if TYPE_CHECKING:
    from typing import Unpack  # Python 3.11

    import tensorflow_datasets as tfds

__all__ = [
    "MAX_BYTES_IN_MEMORY",
    "Prepared",
    "load_images",
    "open_prepared",
    "prepare",
    "resolve_data_dir",
]

#: A larger data set is read from its files at every pass.
MAX_BYTES_IN_MEMORY = 2 * 2**30

# Data sets whose images may be mirrored; never digits or letters.
_MIRRORED = {
    *("caltech101", "cars196", "cats_vs_dogs", "cifar10", "cifar100", "food101"),
    *("imagenet2012", "imagenet_resized", "imagenette", "imagewang", "oxford_flowers102"),
    *("oxford_iiit_pet", "places365_small", "stanford_dogs", "stl10", "tf_flowers"),
}

# Seeds of the fixed hold-outs, the same in all experiments.
_TEST_SEED, _ARCHITECTURE_SEED = 1, 2


def load_images(
    config: DataConfig,
    *,
    input_size: int,
    image_channels: int = 3,
    max_bytes_in_memory: int = MAX_BYTES_IN_MEMORY,
) -> ImageDataset:
    """Return the images of a data set in the splits train, architecture and test.

    `architecture` is a fixed part of every class of the data set's train split, held
    out of `train`; `test` is its test split, or its validation split where there is no
    test split with labels; `split_sources` tells. Training images are shifted by up to
    an eighth of their size, and mirrored where that keeps their class. Of the digits, a
    fixed fifth of every class is `test`.

    >>> import dance_tf
    >>> images = dance_tf.load_images(dance_tf.preset("digits").data, input_size=16)
    >>> [images.num_images(split) for split in ("train", "architecture", "test")]
    [1151, 287, 359]
    >>> batch, labels = next(iter(images.split("train", batch_size=32, seed=0)))
    >>> batch.shape
    TensorShape([32, 16, 16, 3])

    Args:
        config: Name, folder and held-out part.
        input_size: Height and width of the images.
        image_channels: 3, or 1 for grey.
        max_bytes_in_memory: Bytes of decoded images beyond which they are read anew at every
            pass.
    Raises:
        UserError: If the data set is unknown, missing, damaged or of another kind.
    """
    if input_size < 1 or image_channels not in (1, 3):
        raise UserError(f"cannot make images of {input_size} pixels and {image_channels} channels")
    if config.dataset == "digits":
        return _load_digits(config, input_size, image_channels)
    return _load_tfds(config, input_size, image_channels, max_bytes_in_memory)


def prepare(name: str, data_dir: str | None = None) -> Prepared:
    """Download a TFDS data set and prepare it, unless that is done already.

    An interrupted run leaves nothing that a later one would take for complete, and an
    archive that is not the published one is reported and never used.

    Args:
        name: NAME, NAME/CONFIG or NAME:VERSION.
        data_dir: See `resolve_data_dir`.
    Raises:
        UserError: If that fails, or the data set is damaged or not labelled images.
    """
    data_dir = resolve_data_dir(data_dir)
    if name == "digits":
        raise UserError("the digits come with scikit-learn: there is nothing to prepare")
    folder = prepared.find_prepared(name, data_dir)
    if folder is None:
        folder = _download_and_prepare(name, data_dir)
    builder = open_prepared(folder)
    _feature_keys(name, builder)
    return Prepared(str(folder), {k: s.num_examples for k, s in builder.info.splits.items()})


def _load_digits(config: DataConfig, size: int, channels: int) -> ImageDataset:
    images, labels = digits(size, channels)
    is_test = hold_out(labels, 0.2, _TEST_SEED)
    return _in_memory(
        {"train": (images[~is_test], labels[~is_test]), "test": (images[is_test], labels[is_test])},
        config,
        name="digits",
        num_classes=10,
        augmentation=_augmentation("digits", size),
        split_sources={"train": "train", "architecture": "train", "test": "test"},
        input_description=describe_input(
            (size, size, channels), (8, 8, 1), (0.0, 16.0), tuple(map(str, range(10)))
        ),
    )


def _load_tfds(config: DataConfig, size: int, channels: int, max_bytes: int) -> ImageDataset:
    name, data_dir = config.dataset, resolve_data_dir(config.data_dir)
    folder = prepared.find_prepared(name, data_dir)
    if folder is None:
        _raise_missing(name, data_dir)
    builder = open_prepared(folder)
    image_key, label_key = _feature_keys(name, builder)
    class_names = tuple(builder.info.features[label_key].names)
    sources = {"train": "train", "test": _test_source(name, builder, label_key)}
    num_images = {split: builder.info.splits[own].num_examples for split, own in sources.items()}

    def stored(own: str) -> tf.data.Dataset:
        return _examples(builder, own, image_key).map(lambda example: example[image_key])

    with _naming_damage(builder, "train"):
        values, warnings = value_range(name, stored("train"))
    if warnings:
        with _naming_damage(builder, sources["test"]):
            warnings += beyond_range(name, sources["test"], stored(sources["test"]), values)
    image_shape = (size, size, channels)
    source_shape = builder.info.features[image_key].shape
    attributes: ImageAttributes = {
        "name": name,
        "num_classes": len(class_names),
        "augmentation": _augmentation(prepared.parse_name(name)[0], size),
        "split_sources": sources | {"architecture": "train"},
        "folder": str(folder),
        "input_description": describe_input(image_shape, source_shape, values, class_names),
    }

    def read(split: str) -> tf.data.Dataset:
        def bring(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = example[image_key], example[label_key]
            return resize(image, size, channels, values), tf.cast(label, tf.int32)

        examples = _examples(builder, sources[split], image_key, label_key)
        return examples.map(bring, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    if sum(num_images.values()) * size * size * channels > max_bytes:
        # Without a pass over the files there are no labels: held out regardless of class.
        classes = np.zeros(num_images["train"], np.int32)
        attributes["warnings"] = tuple(warnings)
        return StreamedImages(
            read,
            is_held_out=_held_out(classes, config),
            num_test=num_images["test"],
            image_shape=image_shape,
            **attributes,
        )
    splits = {}
    histogram = np.zeros(256, np.int64)
    for split, own in sources.items():
        images = np.empty((num_images[split], *image_shape), np.uint8)
        labels = np.empty(num_images[split], np.int32)
        start = 0
        with _naming_damage(builder, own):
            for image_batch, label_batch in read(split).batch(1024).as_numpy_iterator():
                end = start + len(label_batch)
                images[start:end], labels[start:end] = image_batch, label_batch
                histogram += np.bincount(image_batch.reshape(-1), minlength=256)
                start = end
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise UserError(f"data set {name!r}: its split {own!r} has images without a class")
        warnings += absent_classes(name, own, labels, class_names)
        splits[split] = (images, labels)
    attributes["warnings"] = (*warnings, *lost_levels(name, histogram, values))
    return _in_memory(splits, config, **attributes)


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


def _augmentation(dataset: str, size: int) -> Augmentation:
    return Augmentation(pad=size // 8, use_flip=dataset in _MIRRORED)


# TFDS.


def open_prepared(folder: Path) -> tfds.core.DatasetBuilder:
    """Return the TFDS builder of a prepared data set, once its files are all there.

    Raises:
        UserError: If a file is missing, damaged or cut short.
    """
    import tensorflow_datasets as tfds

    mend = f"remove {folder} and prepare it again"
    for file in ("dataset_info.json", "features.json"):
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}, so it is no complete data set: {mend}")
    try:
        # Unlike tfds.load and tfds.builder it runs no data set's code and asks no server.
        builder = tfds.builder_from_directory(str(folder))
        splits = dict(builder.info.splits)
    except Exception as error:  # Whatever the parsers of the two files raise.
        raise UserError(f"cannot read the data set in {folder} ({_line(error)}): {mend}") from error
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        return builder
    for split in splits.values():
        for path, num_expected in zip(split.filepaths, split.shard_lengths, strict=True):
            num_found, problem = prepared.count_records(path)
            if problem or num_found != num_expected:
                raise UserError(
                    f"{path} {problem or 'is incomplete'}: {num_found} of its {num_expected}"
                    f" examples are there; {mend}"
                )
    return builder


def _feature_keys(name: str, builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """Return the names of the image and of its class among the features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    features = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [
        k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel) and f.num_classes
    ]
    # Among several, those that TFDS itself calls input and target.
    keys = builder.info.supervised_keys or ()
    image = next((k for k in keys if k in images), images[0] if len(images) == 1 else None)
    label = next((k for k in keys if k in labels), labels[0] if len(labels) == 1 else None)
    if image is None or label is None:
        found = ", ".join(f"{k} ({type(f).__name__})" for k, f in sorted(features.items()))
        raise UserError(
            f"data set {name!r} is not for image classification: it needs one Image and one"
            f" ClassLabel, and has {found or 'neither'}"
        )
    channels, dtype = features[image].shape[-1], np.dtype(features[image].np_dtype)
    if channels not in (1, 3, 4):
        raise UserError(
            f"data set {name!r}: its images are {dtype.name} with {channels} channels; 1, 3 or 4"
            " are supported"
        )
    if features[label].num_classes < 2:
        only = ", ".join(map(repr, features[label].names))
        raise UserError(f"data set {name!r} has one class ({only}): there is nothing to tell apart")
    return image, label


def _test_source(name: str, builder: tfds.core.DatasetBuilder, label_key: str) -> str:
    """Return the data set's own split to test on; the test split may lack labels."""
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    for own in ("test", "validation") if sizes.get("train") else ():
        if sizes.get(own):
            with _naming_damage(builder, own):
                some = list(_examples(builder, own, label_key).take(16).as_numpy_iterator())
            if all(example[label_key] >= 0 for example in some):
                return own
    raise UserError(
        f"data set {name!r} lacks a split: it needs 'train' and a labelled 'test' or 'validation',"
        f" and has {', '.join(sorted(k for k, n in sizes.items() if n)) or 'none'}"
    )


def _examples(builder: tfds.core.DatasetBuilder, split: str, *keys: str) -> tf.data.Dataset:
    """Return the examples of a split in the order of its files, with these features only."""
    import tensorflow_datasets as tfds

    return builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys, True)),
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )


@contextlib.contextmanager
def _naming_damage(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[None]:
    """Turn TensorFlow's errors about a split's content into one that names the file."""
    try:
        yield
    except (
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,
        tf.errors.InvalidArgumentError,
        tf.errors.NotFoundError,
    ) as error:
        damaged = builder.data_dir
        for path in map(str, builder.info.splits[split].filepaths):
            try:
                for _ in tf.data.TFRecordDataset(path):
                    pass
            except tf.errors.OpError:
                damaged = path
                break
        raise UserError(
            f"{damaged} is damaged ({_line(error)}): remove {builder.data_dir} and prepare it again"
        ) from error


def _download_and_prepare(name: str, data_dir: str) -> Path:
    import tensorflow_datasets as tfds

    # TFDS reports on stdout, which is the tool's for its result.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError:
            raise UserError(
                f"TFDS has no data set {name!r} to download{_nearest(name, data_dir)}; one of your"
                " own is prepared by its builder, as in"
                f" `Builder(data_dir={data_dir!r}).download_and_prepare()`"
            ) from None
        except (ValueError, ImportError, AssertionError) as error:  # the last of a version
            raise UserError(f"data set {name!r}: {_line(error)}") from error
        _feature_keys(name, builder)
        dataset, downloads = prepared.parse_name(name)[0], Path(data_dir) / "downloads"
        prepared.check_downloads(dataset, downloads, builder.url_infos)
        try:
            # One that waits here finds the set of the first and uses it.
            with owned(Path(data_dir) / dataset, is_waiting=True):
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        except Exception as error:  # Anything between a network and a data set's own code.
            problem = _line(error)
            match = re.match(r"Artifact (\S+), downloaded to (.+), has wrong checksum", problem)
            if match:
                difference = prepared.describe_mismatch(Path(match[2]), builder.url_infos[match[1]])
                problem = f"{match[1]} gave a wrong file, left in {match[2]}: {difference}"
            raise UserError(f"cannot prepare {name} in {data_dir}: {problem}") from error
    return Path(builder.data_dir)


def _raise_missing(name: str, data_dir: str) -> NoReturn:
    import tensorflow_datasets as tfds

    dataset = prepared.parse_name(name)[0]
    if dataset in prepared.list_prepared(data_dir):
        raise UserError(
            f"data set {name!r} is not in {data_dir}, which has {dataset!r} of another version or"
            f" configuration: name one of those in {Path(data_dir) / dataset}, or prepare it there"
        )
    # Community data sets would be asked for over the network.
    if dataset in tfds.list_builders(with_community_datasets=False):
        raise UserError(
            f"data set {name!r} is not prepared in {data_dir}"
            f"{prepared.folder_hint(name, data_dir)}: either run `{tool_command('prepare_data')}"
            f" --dataset={name} --data_dir={shlex.quote(data_dir)}`, which downloads it, or point"
            " --data_dir or TFDS_DATA_DIR at a folder that holds a prepared copy"
        )
    raise UserError(
        f"unknown data set {dataset!r}: neither digits nor one of TFDS, and {data_dir}"
        f" {prepared.describe_folder(data_dir)}"
        f"{prepared.folder_hint(name, data_dir) or _nearest(name, data_dir)}"
        + (
            prepared.path_hint(name)
            or "; one of your own is found by its builder's name in the --data_dir that it was"
            " prepared in"
        )
    )


def _nearest(name: str, data_dir: str) -> str:
    """Return a hint at the data set that a name is nearly that of, or ""."""
    import tensorflow_datasets as tfds

    known = {"digits", *prepared.list_prepared(data_dir)}
    known.update(tfds.list_builders(with_community_datasets=False))
    dataset = prepared.parse_name(name)[0]
    nearest = difflib.get_close_matches(dataset.lower(), known - {dataset}, n=1, cutoff=0.85)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _line(error: BaseException) -> str:
    """Return an error's message as one line, without TensorFlow's node names."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]|name: *$", "", str(error) or type(error).__name__)
    return " ".join(text.split())[:500]
