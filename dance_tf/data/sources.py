"""Stored images with their labels, as every kind of data set gives them to be brought to a size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.data.images import hold_out
from dance_tf.errors import UserError

__all__ = ["TEST_SEED", "WHOLE", "Own", "Source", "divide"]

#: Name of the one part of data that come without splits.
WHOLE = "all"

#: Seed of the fixed hold-out of test images, the same in all experiments.
TEST_SEED = 1


class Source(NamedTuple):
    """Stored images of the splits "train" and "test"."""

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, str]  # the data set's own names of the two
    num_images: Mapping[str, int]
    source_shape: tuple[int | None, ...]  # (H, W, C), None where images differ
    read: Callable[[str], tf.data.Dataset]  # of a split: (image [H, W, C], label []), in order
    guard: Callable[[str], AbstractContextManager[None]] = lambda split: contextlib.nullcontext()
    labels: Mapping[str, np.ndarray] | None = None  # int [B] of each split, where known unread
    folder: str | None = None  # absolute path of the files
    content_sha256: str | None = None
    warnings: tuple[str, ...] = ()
    use_flip: bool = False


class Own(NamedTuple):
    """Data of the user's own in the splits "train" and "test"."""

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, str]  # the names that the two have in the data
    samples: Mapping[str, np.ndarray]  # by split: paths (objects) [B], or values [B, ...]
    labels: Mapping[str, np.ndarray]  # by split: int32 [B]
    path: str  # absolute, of the file or folder
    content_sha256: str
    warnings: tuple[str, ...] = ()


def divide(
    own: Own, test_fraction: float, *, noun: str = "image", named: Callable[[int], str] = str
) -> Own:
    """Return data in the splits "train" and "test", each with samples of all classes.

    A test split is taken as it is, a validation split in its place where there is none, and
    otherwise a fixed part of every class of the one part that there is.

    Args:
        own: Data in the parts that they come in: WHOLE, or "train" and perhaps "test" and
            "validation".
        test_fraction: Part of every class to test on, where it has to be chosen.
        noun: Name of a sample in messages.
        named: Function from the position in a part to a sample's name in messages.
    Raises:
        UserError: If there is one class only, or a class is too small or missing in a split.
    """
    if len(own.class_names) < 2:
        only = ", ".join(map(repr, own.class_names)) or "none"
        raise UserError(f"{own.path}: has one class ({only}): there is nothing to tell apart")
    for name in own.class_names:
        if not name or not name.isprintable():
            raise UserError(f"{own.path}: the class name {name!r} cannot be printed: change it")
    first = WHOLE if WHOLE in own.samples else "train"
    _check_classes(own, first, noun, named, at_least=2)
    test = next((part for part in ("test", "validation") if part in own.samples), first)
    if test != first:
        _check_classes(own, test, noun, named, at_least=1)
        unused = set(own.samples) - {first, test}
        warnings = list(own.warnings)
        warnings += [f"{own.path}: its split {part!r} is not used" for part in sorted(unused)]
        return own._replace(
            splits={"train": first, "test": test},
            samples={"train": own.samples[first], "test": own.samples[test]},
            labels={"train": own.labels[first], "test": own.labels[test]},
            warnings=tuple(warnings),
        )
    samples, labels = own.samples[first], own.labels[first]
    is_test = hold_out(labels, test_fraction, TEST_SEED, at_least=1)
    return own._replace(
        splits={"train": first, "test": first},
        samples={"train": samples[~is_test], "test": samples[is_test]},
        labels={"train": labels[~is_test], "test": labels[is_test]},
    )


def _check_classes(
    own: Own, part: str, noun: str, named: Callable[[int], str], *, at_least: int
) -> None:
    """Refuse a part of the data that lacks a class, or has too few samples of one."""
    labels = own.labels[part]
    counts = np.bincount(labels, minlength=len(own.class_names))
    where = own.path if part == WHOLE else f"{own.path}: its split {part!r}"
    for label, count in enumerate(counts):
        if count == 0:
            raise UserError(
                f"{where} has no {noun} of class {own.class_names[label]!r}: each split needs all"
                " classes"
            )
        if count < at_least:
            sample = named(int(np.flatnonzero(labels == label)[0]))
            raise UserError(
                f"{where} has one {noun} of class {own.class_names[label]!r}, {sample}: it cannot"
                " be split; each class needs two"
            )
