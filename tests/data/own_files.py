"""Small data of somebody's own: folders of image files, CSV files, arrays."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

__all__ = ["numbered", "write_folder", "write_image"]


def numbered(shape: tuple[int, ...], level: int) -> np.ndarray:
    """Return an image whose left half is grey of a level and whose right half is black."""
    pixels = np.zeros(shape, np.uint8)
    pixels[:, : shape[1] // 2] = level
    return pixels


def write_image(path: pathlib.Path, pixels: np.ndarray) -> None:
    """Write pixels, [H, W] or [H, W, C], in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(root: pathlib.Path, counts: Mapping[str, int], suffix: str = ".png") -> None:
    """Write images of 12x12 pixels into class folders; each tells its class and number.

    Args:
        root: Folder above them.
        counts: Class folder, such as `cats` or `train/cats`, to its number of images.
        suffix: Format.
    """
    classes = sorted({path.rpartition("/")[2] for path in counts})
    for path, count in counts.items():
        level = 100 + 50 * (classes.index(path.rpartition("/")[2]) % 3)
        for index in range(count):
            write_image(root / path / f"{index}{suffix}", numbered((12, 12, 3), level + index % 40))
