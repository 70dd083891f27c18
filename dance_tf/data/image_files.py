"""Image files of the user's own: a folder of class folders, or a CSV file that lists them.

PNG, JPEG, GIF (its first frame) and BMP are read, turned as their EXIF notes say. Anything
that cannot become an image of a class is told of by its path.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from dance_tf.data.sources import WHOLE, Own, Source, divide
from dance_tf.errors import UserError, did_you_mean, first_few

__all__ = ["csv_source", "folder_source"]

_FORMATS = ("PNG", "JPEG", "GIF", "BMP")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")

#: Names of split folders, and of splits in a CSV file, to the split that they are.
_SPLITS = {
    "train": "train",
    "test": "test",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
}

#: Names that computers leave behind, beside those that begin with a dot.
_LEFTOVERS = {"__MACOSX", "Thumbs.db", "desktop.ini"}

#: EXIF tag of the orientation, and its values that turn an image on its side.
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)

_LAYOUT = "it needs a folder of images for each class, in train/ and test/ or without them"

#: Path and class of each image, by part of the data.
_Listed = dict[str, list[tuple[str, str]]]


def folder_source(folder: str, test_fraction: float) -> Source:
    """Return the images in a folder of class folders.

    Args:
        folder: Absolute path; below it are class folders, or `train` and perhaps `test` or
            `validation` (also `val`, `valid`) with class folders.
        test_fraction: Part of every class to test on, where there is no such split.
    Raises:
        UserError: If it is laid out otherwise, or an image cannot be read.
    """
    skipped: Counter[str] = Counter()
    folders, images = _entries(folder, skipped)
    splits = {name: _SPLITS[name.lower()] for name in folders if name.lower() in _SPLITS}
    if images:
        beside = f" beside the folder {folders[0]}" if folders else ""
        raise UserError(f"{folder}: holds the image {images[0]}{beside}: {_LAYOUT}")
    if not folders:
        found = f", only {_counted(skipped)}" if skipped else ""
        raise UserError(f"{folder}: holds no images{found}: {_LAYOUT}")
    if not splits:
        return _source(folder, {WHOLE: _classes(folder, folders, skipped)}, skipped, test_fraction)
    others = [name for name in folders if name not in splits]
    if others or "train" not in splits.values():
        what = f"the folder {others[0]}" if others else "no train"
        raise UserError(f"{folder}: has {what} beside {next(iter(splits))}: {_LAYOUT}")
    if len(set(splits.values())) < len(splits):
        raise UserError(f"{folder}: {', '.join(splits)}: two of them are one split")
    listed = {}
    for name, split in splits.items():
        inner = os.path.join(folder, name)
        names, images = _entries(inner, skipped)
        if images:
            raise UserError(f"{os.path.join(inner, images[0])}: is in no class folder: {_LAYOUT}")
        listed[split] = _classes(inner, names, skipped)
    return _source(folder, listed, skipped, test_fraction)


def _classes(folder: str, names: list[str], skipped: Counter[str]) -> list[tuple[str, str]]:
    """Return path and class of each image in class folders, in the order of their names."""
    listed = []
    for name in names:
        inner, others = os.path.join(folder, name), Counter[str]()
        folders, images = _entries(inner, others)
        skipped += others
        for further in folders:
            path = os.path.join(inner, further)
            if any(_entries(path, Counter())):
                raise UserError(
                    f"{path}: is a folder inside a class folder; classes lie side by side: name"
                    f" {inner} if its folders are the classes"
                )
            skipped["an empty folder"] += 1
        if not images:
            found = f", only {_counted(others)}" if others else ""
            raise UserError(f"{inner}: no image of the class {name!r} is in its folder{found}")
        listed += [(os.path.join(inner, image), name) for image in images]
    return listed


def _entries(folder: str, skipped: Counter[str]) -> tuple[list[str], list[str]]:
    """Return the names of folders and of image files in a folder, sorted by code point.

    Args:
        folder: Path of the folder.
        skipped: Number of other entries by kind, which is added to.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    folders, images = [], []
    for name, is_folder in found:
        if name.startswith(".") or name in _LEFTOVERS:
            skipped[name if name in _LEFTOVERS else "hidden"] += 1
        elif is_folder:
            folders.append(name)
        elif name.lower().endswith(_SUFFIXES):
            images.append(name)
        else:
            skipped[os.path.splitext(name)[1].lower() or "without suffix"] += 1
    return folders, images


def _counted(skipped: Counter[str]) -> str:
    kinds = [f"{num} {kind}" for kind, num in sorted(skipped.items())]
    return f"{skipped.total()} that are no PNG, JPEG, GIF or BMP ({first_few(kinds, 5)})"


def csv_source(path: str, test_fraction: float) -> Source:
    """Return the images that a CSV file of the columns path, label and perhaps split lists.

    Args:
        path: Absolute path of the file; the paths in it are relative to its folder.
        test_fraction: Part of every class to test on, where no image has that split.
    Raises:
        UserError: If a column, a value or a file is missing, or an image cannot be read.
    """
    listed: _Listed = {}
    lines: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            for column in ("path", "label"):
                if column not in columns:
                    raise UserError(f"{path}: no column {column!r}{did_you_mean(column, columns)}")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                image = os.path.normpath(os.path.join(os.path.dirname(path), row["path"] or ""))
                label, split = (row["label"] or "").strip(), (row.get("split") or "").lower()
                if not row["path"] or not label:
                    raise UserError(f"{where}: path or label is empty")
                if "split" in columns and split not in _SPLITS:
                    raise UserError(f"{where}: split is {split!r}{did_you_mean(split, _SPLITS)}")
                if image in lines:
                    raise UserError(f"{where}: {image} is in line {lines[image]} already")
                if not os.path.isfile(image):
                    raise UserError(f"{where}: there is no file {image}")
                lines[image] = rows.line_num
                listed.setdefault(_SPLITS.get(split, WHOLE), []).append((image, label))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV file in UTF-8 ({error})") from error
    if not listed:
        raise UserError(f"{path}: lists no images")
    if WHOLE not in listed and "train" not in listed:
        raise UserError(f"{path}: no image has the split 'train'")
    return _source(path, listed, Counter(), test_fraction)


def _source(path: str, listed: _Listed, skipped: Counter[str], test_fraction: float) -> Source:
    class_names = tuple(sorted({name for images in listed.values() for _, name in images}))
    own = Own(
        name=os.path.basename(path).removesuffix(".csv"),
        class_names=class_names,
        splits={},
        samples={part: np.array([p for p, _ in im], object) for part, im in listed.items()},
        labels={
            part: np.array([class_names.index(name) for _, name in images], np.int32)
            for part, images in listed.items()
        },
        path=path,
        content_sha256=_sha256(path, listed),
        warnings=(f"{path}: skipped {_counted(skipped)}",) if skipped else (),
    )
    paths = own.samples[WHOLE if WHOLE in listed else "train"]
    own = divide(own, test_fraction, named=lambda position: str(paths[position]))
    return _Files(own).source()


def _sha256(path: str, listed: Mapping[str, list[tuple[str, str]]]) -> str:
    """Return the hash of splits, classes, names and sizes of all files."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    digest = hashlib.sha256()
    for part, images in sorted(listed.items()):
        for image, name in sorted(images):
            relative = os.fsencode(os.path.relpath(image, folder)).hex()
            record = [part, name, relative, os.path.getsize(image)]
            digest.update(json.dumps(record).encode())
    return digest.hexdigest()


class _Header(NamedTuple):
    """Facts of an image file that are known before its pixels are decoded."""

    height: int
    width: int
    channels: int  # 1 of grey, 3 of all others
    bits: int  # of a channel


class _Files:
    """Image files of two splits, their headers read and checked."""

    def __init__(self, own: Own) -> None:
        self._own = own
        paths = [path for split in ("train", "test") for path in own.samples[split]]
        headers, problems = [], []
        for path in paths:
            try:
                with _opened(path) as image:
                    headers.append(_header(image))
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError(first_few(problems))
        by_bits = {header.bits: path for path, header in zip(paths, headers, strict=True)}
        if len(by_bits) > 1:
            raise UserError(
                f"{by_bits[16]} has 16 bits, {by_bits[8]} has 8: bring the images to one depth"
            )
        self._dtype = np.uint16 if 16 in by_bits else np.uint8
        self._channels = max(header.channels for header in headers)
        sides = [{header[axis] for header in headers} for axis in (0, 1)]
        height, width = (side.pop() if len(side) == 1 else None for side in sides)
        self._shape = (height, width, self._channels)
        self._problem: UserError | None = None

    def source(self) -> Source:
        own = self._own
        return Source(
            name=own.name,
            class_names=own.class_names,
            splits=own.splits,
            num_images={split: len(labels) for split, labels in own.labels.items()},
            source_shape=self._shape,
            read=self._read,
            guard=lambda split: self._naming_file(),
            labels=own.labels,
            folder=own.path,
            content_sha256=own.content_sha256,
            warnings=own.warnings,
        )

    def _read(self, split: str) -> tf.data.Dataset:
        paths = self._own.samples[split]

        def pixels(position: np.ndarray) -> np.ndarray:
            try:
                with _opened(paths[position]) as image:
                    return _pixels(image, self._channels).astype(self._dtype)
            except UserError as error:
                self._problem = error
                raise

        def load(position: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image = tf.numpy_function(pixels, [position], tf.as_dtype(self._dtype), stateful=False)
            return tf.ensure_shape(image, self._shape), label

        numbered = tf.data.Dataset.from_tensor_slices(
            (np.arange(len(paths)), self._own.labels[split])
        )
        return numbered.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    @contextlib.contextmanager
    def _naming_file(self) -> Iterator[None]:
        """Turn TensorFlow's error about a file that cannot be decoded into the file's own."""
        try:
            yield
        except tf.errors.OpError:
            if self._problem is None:
                raise
            raise self._problem from None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Give an image file, and name it in errors of what is done with it."""
    try:
        if os.path.getsize(path) == 0:
            raise UserError(f"{path}: is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF notes and very many pixels
            with Image.open(path, formats=_FORMATS) as image:
                yield image
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{path}: is no PNG, JPEG, GIF or BMP image") from error
    except Exception as error:  # whatever a decoder raises for a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason})") from error


def _header(image: Image.Image) -> _Header:
    width, height = image.size
    if image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
        width, height = height, width
    is_deep = image.mode.startswith("I")  # a PNG of 16 bits and grey
    channels = 1 if is_deep or image.mode in ("1", "L", "LA") else 3
    return _Header(height, width, channels, 16 if is_deep else 8)


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Return the pixels of an image, [H, W, channels], transparent ones as white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return np.asarray(image)[..., None]
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    values = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return values[..., None] if channels == 1 else values
