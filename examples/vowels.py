"""Spoken vowels as series in a .npz file: 640 recordings of nine speakers, of 12 coefficients.

    pip install sktime
    python -m examples.vowels vowels.npz
    dance-tf search --data=vowels.npz --space=series_mbconv --preset=quick --output_dir=runs/vowels

The data set is JapaneseVowels of the UEA archive (Kudo, Toyama and Shimbo, 1999), which comes
with sktime. Recordings of 7 to 29 steps are padded with zeros to 32; the class is the speaker.
"""

import sys

import numpy as np

#: Steps of each series after padding.
NUM_STEPS = 32


def vowels():
    """Return the arrays of the file: x float32 [N, 32, 12] and y, of train and test."""
    from sktime.datasets import load_japanese_vowels

    arrays = {}
    for split in ("train", "test"):
        frame, labels = load_japanese_vowels(split=split, return_X_y=True)
        series = np.zeros((len(frame), NUM_STEPS, frame.shape[1]), np.float32)
        for row, channels in enumerate(frame.to_numpy()):
            for channel, values in enumerate(channels):
                series[row, : len(values), channel] = values
        arrays |= {f"x_{split}": series, f"y_{split}": labels.astype(str)}
    return arrays


if __name__ == "__main__":
    np.savez(sys.argv[1], **vowels())
