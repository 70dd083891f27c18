"""Inherited weights: statistics of a network's own, accuracy on held-out images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SpaceConfig
from dance_tf.supernet.inherited import InheritedAccuracy, recalibrated
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet
from tests.search.problems import tinted_images

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
ZERO = SPACE.op_names.index("zero")


@pytest.fixture(scope="module", params=["proxyless", "superkernel"])
def supernet(request):
    return Supernet(SPACE, 0, request.param)


@pytest.fixture(scope="module")
def images():
    return tf.constant(np.random.RandomState(0).rand(64, 8, 8, 3), tf.float32)


@pytest.mark.parametrize("path", [(1, 4), (2, ZERO)])
def test_recalibrated_statistics_are_those_of_the_network(supernet, images, path):
    """With one batch, a network judges that batch as in training."""
    before = [v.numpy() for v in supernet.variables]
    expected = supernet.call_path(images, path, None, training=True)
    for variable, value in zip(supernet.variables, before, strict=True):
        variable.assign(value)
    with recalibrated(supernet, path, [images]):
        found = supernet.call_path(images, path)
        network = supernet.inherited_network(SPACE.from_indices(path))
    # A batch's own variance is the biased one, a moving one the unbiased.
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=2e-3 * np.ptp(expected))
    np.testing.assert_allclose(network(images), found, rtol=1e-3, atol=1e-4)
    stale = supernet.call_path(images, path)
    assert tf.norm(stale - expected) > 10 * tf.norm(found - expected)
    for variable, value in zip(supernet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_statistics_come_back_after_an_error(supernet, images):
    before = [v.numpy() for v in supernet.variables]
    with pytest.raises(ZeroDivisionError), recalibrated(supernet, (0, 0), [images]):
        raise ZeroDivisionError
    for variable, value in zip(supernet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_accuracy_is_that_of_the_held_out_images(supernet):
    """A classifier whose bias alone speaks is right as often as its class occurs."""
    dataset = tinted_images(sizes=(96, 40, 8))
    labels = np.concatenate([y for _, y in dataset.split("architecture", batch_size=8)])
    kernel, bias = [w for w in supernet.network_weights if w.shape[-1] == 10 and "class" in w.path]
    kept = kernel.numpy(), bias.numpy()
    most = np.bincount(labels[:30]).argmax()
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.eye(10)[most])
    found = InheritedAccuracy(supernet, dataset, 30)([[0, 0], [3, ZERO]])
    kernel.assign(kept[0])
    bias.assign(kept[1])
    assert found.tolist() == [np.mean(labels[:30] == most)] * 2
