"""Arrays of the user's own: images or series in a .npz file, or in a folder of .npy files.

Axes: B samples; H, W, C height, width and channels; T, C steps and channels of a series.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from dance_tf.data.sources import WHOLE, Own, Source, divide
from dance_tf.errors import UserError, first_few

__all__ = ["array_source", "holds_arrays", "series"]

#: Part of the data to the names that its samples and labels may have.
_NAMES = {
    WHOLE: (("x", "y"), ("X", "y"), ("images", "labels")),
    **{
        part: tuple(
            names
            for word in words
            for names in (
                (f"x_{word}", f"y_{word}"),
                (f"X_{word}", f"y_{word}"),
                (f"{word}_images", f"{word}_labels"),
            )
        )
        for part, words in (
            ("train", ("train",)),
            ("test", ("test",)),
            ("validation", ("validation", "val", "valid")),
        )
    },
}

#: Name of the array that names the classes.
_CLASS_NAMES = "class_names"


def holds_arrays(path: str) -> bool:
    """Return whether a path is that of a .npz file or of a folder of .npy files."""
    if os.path.isdir(path):
        return any(name.endswith(".npy") for name in os.listdir(path))
    return path.endswith(".npz")


def array_source(path: str, test_fraction: float) -> Source:
    """Return the images in arrays, [B, H, W] or [B, H, W, C].

    Args:
        path: Absolute path; see `holds_arrays`.
        test_fraction: Part of every class to test on, where there is no such split.
    Raises:
        UserError: If an array is missing, of another kind, or does not fit the others.
    """
    own = _read(path)
    samples = {part: _images(f"{path}: {part}", values) for part, values in own.samples.items()}
    own = own._replace(samples=_of_one_type(path, samples))
    own = divide(own, test_fraction, named=lambda position: f"number {position}")

    def read(split: str) -> tf.data.Dataset:
        with tf.device("CPU:0"):
            return tf.data.Dataset.from_tensor_slices((own.samples[split], own.labels[split]))

    return Source(
        name=own.name,
        class_names=own.class_names,
        splits=own.splits,
        num_images={split: len(labels) for split, labels in own.labels.items()},
        source_shape=own.samples["train"].shape[1:],
        read=read,
        labels=own.labels,
        folder=own.path,
        content_sha256=own.content_sha256,
        warnings=own.warnings,
    )


def series(path: str, test_fraction: float) -> Own:
    """Return the series in arrays, [B, T] or [B, T, C], as float32 [B, T, C].

    Args:
        path: Absolute path; see `holds_arrays`.
        test_fraction: Part of every class to test on, where there is no such split.
    Raises:
        UserError: If an array is missing, of another kind, or does not fit the others.
    """
    own = _read(path)
    samples = {}
    for part, values in own.samples.items():
        if values.ndim not in (2, 3) or values.dtype.kind not in "biuf":
            raise UserError(
                f"{path}: {part}: {values.dtype} {list(values.shape)} are no series of numbers,"
                " [B, T] or [B, T, C]"
            )
        samples[part] = np.asarray(values[..., None] if values.ndim == 2 else values, np.float32)
        if not np.isfinite(samples[part]).all():
            raise UserError(f"{path}: {part}: has values that are not finite")
    _check_shapes(path, samples)
    own = own._replace(samples=samples)
    return divide(own, test_fraction, noun="series", named=lambda position: f"number {position}")


def _images(what: str, values: np.ndarray) -> np.ndarray:
    values = values[..., None] if values.ndim == 3 else values
    if values.ndim != 4 or values.dtype.kind not in "biuf":
        raise UserError(
            f"{what}: {values.dtype} {list(values.shape)} are no images, [B, H, W] or [B, H, W, C]"
        )
    if values.shape[-1] not in (1, 3, 4):
        first = " (they seem to come first: transpose)" if values.shape[1] in (1, 3, 4) else ""
        raise UserError(
            f"{what}: images of shape {list(values.shape[1:])} have {values.shape[-1]}"
            f" channels{first}; 1, 3 or 4 are supported"
        )
    return values


def _of_one_type(path: str, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return images of all parts as uint8, uint16 or float32, whichever holds their values."""
    _check_shapes(path, samples)
    if any(values.dtype.kind == "f" for values in samples.values()):
        return {part: np.asarray(values, np.float32) for part, values in samples.items()}
    low = min(int(values.min()) for values in samples.values())
    high = max(int(values.max()) for values in samples.values())
    if low < 0 or high > 65535:
        raise UserError(f"{path}: its images hold whole numbers of {low} to {high}, not 0 to 65535")
    dtype = np.uint8 if high <= 255 else np.uint16
    return {part: np.asarray(values, dtype) for part, values in samples.items()}


def _check_shapes(path: str, samples: Mapping[str, np.ndarray]) -> None:
    shapes = {part: list(values.shape[1:]) for part, values in samples.items()}
    if any(shape != next(iter(shapes.values())) for shape in shapes.values()):
        found = first_few([f"{part} {shape}" for part, shape in shapes.items()])
        raise UserError(f"{path}: its parts are not of one shape: {found}")


def _read(path: str) -> Own:
    """Return samples as they are stored, labels counted from 0, by part of the data."""
    digest = hashlib.sha256()
    with _arrays(path) as arrays:
        found = {
            part: pair for part, pairs in _NAMES.items() for pair in pairs if pair[0] in arrays
        }
        if "train" not in found and WHOLE not in found:
            raise UserError(
                f"{path}: holds {first_few(sorted(arrays), 6) or 'nothing'}; wanted are x_train,"
                " y_train, x_test and y_test, or x and y to be split"
            )
        if WHOLE in found and len(found) > 1:
            names = ", ".join(pair[0] for pair in found.values())
            raise UserError(f"{path}: holds {names}: both the whole and parts of it")
        samples, labels = {}, {}
        for part, pair in found.items():
            for name in pair:
                if name not in arrays:
                    raise UserError(f"{path}: holds {pair[0]} and no {name}")
            samples[part], values = arrays[pair[0]], arrays[pair[1]]
            labels[part] = values.reshape(-1) if values.shape[1:] == (1,) else values
            size = samples[part].shape[:1]
            if not samples[part].size or labels[part].shape != size:
                raise UserError(
                    f"{path}: {pair[0]} is {list(samples[part].shape)} and {pair[1]}"
                    f" {list(values.shape)}: each sample needs one label"
                )
            for array in (samples[part], labels[part]):
                digest.update(f"{part} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        named = arrays.get(_CLASS_NAMES)
    class_names, positions = _class_names(path, labels, named)
    digest.update("\n".join(class_names).encode())
    return Own(
        name=os.path.basename(path).removesuffix(".npz"),
        class_names=class_names,
        splits={},
        samples=samples,
        labels=positions,
        path=path,
        content_sha256=digest.hexdigest(),
    )


def _class_names(
    path: str, labels: Mapping[str, np.ndarray], named: np.ndarray | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the names of the classes, and labels that count them from 0, int32 [B]."""
    values = np.concatenate(list(labels.values()))
    is_whole = values.dtype.kind in "biu" or (
        values.dtype.kind == "f" and bool((values == np.round(values)).all())
    )
    if not is_whole and values.dtype.kind not in "US":
        raise UserError(f"{path}: its labels are {values.dtype}, not whole numbers or texts")
    if named is not None:
        if not is_whole or named.ndim != 1 or values.min() < 0 or values.max() >= len(named):
            raise UserError(
                f"{path}: its labels do not count the {named.size} of {_CLASS_NAMES} from 0"
            )
        return tuple(map(str, named)), {k: v.astype(np.int32) for k, v in labels.items()}
    classes = np.unique(values)  # texts by code point
    if is_whole:
        names = tuple(str(int(value)) for value in classes)
    else:
        names = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in classes)
    return names, {k: np.searchsorted(classes, v).astype(np.int32) for k, v in labels.items()}


@contextlib.contextmanager
def _arrays(path: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Give arrays by name, read when they are asked for."""
    try:
        if os.path.isdir(path):
            names = [name for name in os.listdir(path) if name.endswith(".npy")]
            yield {
                name.removesuffix(".npy"): np.load(os.path.join(path, name), allow_pickle=False)
                for name in names
            }
        else:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise UserError(f"{path}: holds one array, not a .npz file's arrays by name")
            with loaded as arrays:
                yield arrays
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason})") from error
