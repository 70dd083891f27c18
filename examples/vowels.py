"""Spoken vowels as series in a .npz file: 640 recordings of nine speakers, of 12 coefficients.

    pip install --no-deps sktime
    python -m examples.vowels vowels.npz
    dance-tf search --data=vowels.npz --space=series_mbconv --preset=quick --output_dir=runs/vowels

The data set is JapaneseVowels of the UEA archive (Kudo, Toyama and Shimbo, 1999), of which
sktime carries the files. Recordings of 7 to 29 steps are padded with zeros to 32; the class is
the speaker.
"""

import importlib.util
import pathlib
import sys

import numpy as np

#: Steps of each series after padding.
NUM_STEPS = 32


def read_ts(text):
    """Return the series, float32 [N, 32, C], and the labels [N] of a .ts file's text.

    Behind the header, each line is a series: its channels, then its label, between colons.
    """
    rows = [line.split(":") for line in text.partition("@data")[2].split()]
    series = np.zeros((len(rows), NUM_STEPS, len(rows[0]) - 1), np.float32)
    for row, channels in zip(series, rows, strict=True):
        for channel, values in enumerate(channels[:-1]):
            numbers = np.asarray(values.split(","), np.float32)
            row[: len(numbers), channel] = numbers
    return series, np.asarray([row[-1] for row in rows])


def vowels():
    """Return the arrays of the file, those of train and of test."""
    package = importlib.util.find_spec("sktime")
    if package is None:
        sys.exit("sktime is not installed: pip install --no-deps sktime")
    folder = pathlib.Path(package.submodule_search_locations[0], "datasets/data/JapaneseVowels")
    arrays = {}
    for split in ("train", "test"):
        text = (folder / f"JapaneseVowels_{split.upper()}.ts").read_text(encoding="utf-8")
        arrays[f"x_{split}"], arrays[f"y_{split}"] = read_ts(text)
    return arrays


if __name__ == "__main__":
    np.savez(sys.argv[1], **vowels())
