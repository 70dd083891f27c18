"""The images of a data set in one NPZ file, for programs without TensorFlow."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np

from dance_tf.config import ExperimentConfig
from dance_tf.errors import UserError
from dance_tf.files import written_aside
from dance_tf.supernet.space_files import make_space
from tools import flags as common

__all__ = ["Images", "read_or_make"]


class Images(NamedTuple):
    """A data set in memory, with how its training images are augmented."""

    train: np.ndarray  # uint8 [B, H, W, C], of the splits train and architecture
    train_labels: np.ndarray  # int32 [B]
    test: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    pad: int  # pixels of black border, by which images are shifted at most
    use_flip: bool


def read_or_make(config: ExperimentConfig, path: str) -> Images:
    """Return the images in a file; where there is none, it is made, which takes TensorFlow.

    Raises:
        UserError: If the file is not one of images, or of others than the config's.
    """
    of_data = json.dumps(
        {"dataset": config.data.dataset, "input_size": make_space(config.space).input_size}
    )
    if not os.path.exists(path):
        _make(config, path, of_data)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*Images._fields, "data")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no file of images ({error}): delete it") from error
    found = str(arrays.pop("data"))
    if found != of_data:
        raise UserError(f"{path} is of {found}, not of {of_data}: delete it, or name another")
    scalars = {name: array.item() for name, array in arrays.items() if array.ndim == 0}
    return Images(**(arrays | scalars))


def _make(config: ExperimentConfig, path: str, of_data: str) -> None:
    common.load_tensorflow()
    from dance_tf.search.pipeline import load_space_and_images

    _, dataset = load_space_and_images(config)
    arrays: dict[str, Any] = {}
    for name, splits in (("train", ("train", "architecture")), ("test", ("test",))):
        batches = [batch for split in splits for batch in dataset.split(split, batch_size=1000)]
        images = np.concatenate([images.numpy() for images, _ in batches])
        arrays[name] = np.round(255.0 * images).astype(np.uint8)
        arrays[f"{name}_labels"] = np.concatenate([labels.numpy() for _, labels in batches])
    augmentation = dataset.augmentation._asdict()
    arrays |= {**augmentation, "num_classes": dataset.num_classes, "data": of_data}
    # NumPy gives a name of its own an ending, but not an open file.
    with written_aside(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
