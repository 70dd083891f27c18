"""Series that the examples write: spoken vowels, and tokens by a rule."""

from __future__ import annotations

import numpy as np
import pytest

from dance_tf.config import DataConfig, SpaceConfig
from dance_tf.data.datasets import load_data
from dance_tf.supernet.space_files import make_space
from examples import tokens, vowels

VOWELS = """@problemName JapaneseVowels
@classLabel true 1 2
@data
1.5,-2:0,0.25:1
3:4:2
"""


def test_a_ts_file_becomes_padded_series():
    series, labels = vowels.read_ts(VOWELS)
    assert series.shape == (2, 32, 2) and labels.tolist() == ["1", "2"]
    assert series[0, :3].tolist() == [[1.5, 0], [-2, 0.25], [0, 0]]
    assert series[1, 0].tolist() == [3, 4] and not series[:, 3:].any()


def test_the_label_says_whether_the_first_token_comes_again():
    one_hot, labels = tokens.tokens(500, seed=3)
    found = one_hot.argmax(axis=-1)
    assert one_hot.sum() == found.size
    assert np.array_equal((found[:, 1:] == found[:, :1]).any(axis=1), labels == 1)
    assert 0.4 < labels.mean() < 0.6


@pytest.mark.parametrize("name", ["encoder_small"])
def test_the_space_takes_the_tokens(name, tmp_path):
    path = tmp_path / "tokens.npz"
    np.savez(path, **tokens.arrays())
    space = make_space(SpaceConfig(name), 2)
    dataset = load_data(DataConfig(path=str(path)), space.input_shape)
    assert dataset.num_classes == 2
    batch, _ = next(iter(dataset.split("train", batch_size=4, seed=0)))
    assert tuple(batch.shape) == (4, *space.input_shape)
