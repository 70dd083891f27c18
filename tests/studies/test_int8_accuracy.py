"""The fragile network of the study is the same function with one large channel."""

from __future__ import annotations

import keras
import numpy as np

from dance_tf.config import SpaceConfig
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import build_network
from studies.int8_accuracy import with_large_channel


def test_a_large_channel_changes_no_output():
    space = make_space(SpaceConfig(name="cifar_mbconv_small"))
    zero = space.op_names.index("zero")
    architecture = space.from_indices([1, zero, 0, 2, zero, 0, 0, 1, zero])
    network = build_network(space, architecture, seed=1)
    large = with_large_channel(space, architecture, network, 48.0)
    images = np.random.default_rng(0).random((2, *space.input_shape)).astype(np.float32)
    np.testing.assert_allclose(large(images), network(images), rtol=1e-3, atol=1e-5)

    def widest(model):
        inner = model.get_layer("block2_add").output
        values = np.asarray(keras.Model(model.inputs, inner)(images))
        return np.abs(values).max(axis=(0, 1, 2))

    ratios = widest(large) / widest(network)
    np.testing.assert_allclose(ratios, [48.0, *[1.0] * (len(ratios) - 1)], rtol=1e-4)
