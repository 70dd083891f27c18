"""Data sets of TFDS: those that it knows, and those of somebody's own builder.

The only user of tensorflow_datasets, beside the label data set. Prepared data is read from
its folder alone, without the data set's code, and nothing is ever downloaded but by `prepare`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import tensorflow as tf

from dance_tf.data import prepared
from dance_tf.data.prepared import Prepared, resolve_data_dir
from dance_tf.data.sources import Source
from dance_tf.errors import UserError
from dance_tf.run.folder_lock import owned
from dance_tf.run.installation import tool_command

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

__all__ = [
    "named_source",
    "open_prepared",
    "prepare",
    "prepare_with",
    "prepared_source",
    "source_of_builder",
]

# Data sets whose images may be mirrored; never digits or letters.
_MIRRORED = {
    *("caltech101", "cars196", "cats_vs_dogs", "cifar10", "cifar100", "food101"),
    *("imagenet2012", "imagenet_resized", "imagenette", "imagewang", "oxford_flowers102"),
    *("oxford_iiit_pet", "places365_small", "stanford_dogs", "stl10", "tf_flowers"),
}


def named_source(name: str, data_dir: str | None) -> Source:
    """Return the prepared data set of a name.

    Args:
        name: NAME, NAME/CONFIG or NAME:VERSION.
        data_dir: See `resolve_data_dir`.
    Raises:
        UserError: If it is unknown, missing, damaged or not of labelled images.
    """
    data_dir = resolve_data_dir(data_dir)
    folder = prepared.find_prepared(name, data_dir)
    if folder is None:
        _raise_missing(name, data_dir)
    return prepared_source(folder, name)


def source_of_builder(dotted_name: str, data_dir: str | None) -> Source:
    """Return the data set that a builder class of the user's own has prepared.

    Args:
        dotted_name: Module and class, such as `my_package.my_module.MyBuilder`.
        data_dir: See `resolve_data_dir`.
    Raises:
        UserError: If there is no such class, or it has prepared nothing there.
    """
    name, data_dir = _builder_class(dotted_name).name, resolve_data_dir(data_dir)
    folder = prepared.find_prepared(name, data_dir)
    if folder is None:
        raise UserError(
            f"{dotted_name} is not prepared in {data_dir}: run `{tool_command('prepare_data')}"
            f" --data={dotted_name} --data_dir={shlex.quote(data_dir)}`, or name the folder that it"
            " is prepared in as --data_dir"
        )
    return prepared_source(folder, name)


def prepared_source(folder: Path, name: str | None = None) -> Source:
    """Return the data set in a folder of prepared files.

    Args:
        folder: Folder that holds dataset_info.json.
        name: Name of the data set; None: as its files name it.
    Raises:
        UserError: If it is damaged, not of labelled images, or lacks a split.
    """
    builder = open_prepared(folder)
    name = name or builder.name
    image_key, label_key = _feature_keys(name, builder)
    splits = {"train": "train", "test": _test_source(name, builder, label_key)}

    def read(split: str) -> tf.data.Dataset:
        examples = _examples(builder, splits[split], image_key, label_key)
        return examples.map(lambda example: (example[image_key], example[label_key]))

    return Source(
        name=name,
        class_names=tuple(builder.info.features[label_key].names),
        splits=splits,
        num_images={k: builder.info.splits[own].num_examples for k, own in splits.items()},
        source_shape=builder.info.features[image_key].shape,
        read=read,
        guard=lambda split: _naming_damage(builder, splits[split]),
        folder=str(folder),
        use_flip=builder.name in _MIRRORED,
    )


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
    return _checked(folder, name)


def prepare_with(dotted_name: str, data_dir: str | None = None) -> Prepared:
    """Prepare a data set by a builder class of the user's own, unless that is done already.

    Args:
        dotted_name: Module and class, such as `my_package.my_module.MyBuilder`.
        data_dir: See `resolve_data_dir`.
    Raises:
        UserError: If that fails, or the data set is not labelled images.
    """
    cls, data_dir = _builder_class(dotted_name), resolve_data_dir(data_dir)
    folder = prepared.find_prepared(cls.name, data_dir)
    if folder is None:
        # TFDS reports on stdout, which is the tool's for its result.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                builder = cls(data_dir=data_dir)
                with owned(Path(data_dir) / cls.name, is_waiting=True):
                    builder.download_and_prepare()
            except Exception as error:  # whatever the user's own code raises
                raise UserError(f"cannot prepare {dotted_name}: {_line(error)}") from error
        folder = Path(builder.data_dir)
    return _checked(folder, cls.name)


def _checked(folder: Path, name: str) -> Prepared:
    """Return what a prepared folder holds, once it is known to be whole and of images."""
    builder = open_prepared(folder)
    _feature_keys(name, builder)
    return Prepared(str(folder), {k: s.num_examples for k, s in builder.info.splits.items()})


def _builder_class(dotted_name: str) -> type[tfds.core.DatasetBuilder]:
    """Return a builder class by its module and name; the working directory is looked in too."""
    import tensorflow_datasets as tfds

    module, _, name = dotted_name.rpartition(".")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"--data={dotted_name}: no file or folder of that name, and no builder class:"
            f" {_line(error)}"
        ) from error
    except Exception as error:  # whatever the user's own code raises
        raise UserError(
            f"--data={dotted_name}: importing {module} fails: {type(error).__name__}:"
            f" {_line(error)}"
        ) from error
    finally:
        sys.path.remove(here)
    if not (isinstance(found, type) and issubclass(found, tfds.core.DatasetBuilder)):
        raise UserError(f"--data={dotted_name}: is no subclass of tfds.core.DatasetBuilder")
    return found


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
                " own is prepared by its builder, as in --data=my_module.MyBuilder"
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
            or "; one of your own is named by --data, or by its builder's name in the --data_dir"
            " that it was prepared in"
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
