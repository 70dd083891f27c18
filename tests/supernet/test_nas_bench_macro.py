"""The space whose every network has been trained: sizes, the identity op, fair paths."""

from __future__ import annotations

import csv
import hashlib
import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SpaceConfig
from dance_tf.search.steps import stateless_seed
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet, build_network

SPACE = make_space(SpaceConfig("nas_bench_macro"))
SMALL = make_space(SpaceConfig("nas_bench_macro", width_multiplier=0.0625, input_size=8))
PUBLISHED = pathlib.Path("../shared/nas_bench_macro/nas_bench_macro_cifar10.csv")


def _num_params(layers):
    """Return weights, and scale and shift of a normalisation or the biases of the last layer."""
    return sum(
        layer.K * layer.C * layer.R * layer.S + layer.K * (1 if layer.name == "classifier" else 2)
        for layer in layers
    )


def _sizes():
    """Return "architecture,parameters,MACs" of all networks, from sums over blocks."""
    fixed = SPACE.fixed_layers()
    cells = [
        [
            (_num_params(layers), sum(layer.macs for layer in layers))
            for layers in (SPACE.op_layers(block, op) for op in SPACE.op_names)
        ]
        for block in range(SPACE.num_blocks)
    ]
    always = np.array([_num_params(fixed), sum(layer.macs for layer in fixed)])
    lines = []
    for ops in itertools.product(range(3), repeat=8):
        params, macs = always + np.sum([cells[b][op] for b, op in enumerate(ops)], axis=0)
        lines.append(f"{''.join(map(str, ops))},{params},{macs}")
    return lines


def test_all_parameter_counts_and_macs_are_the_published_ones():
    lines = _sizes()
    assert len(lines) == SPACE.num_architectures == 6561
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "d3c2bd39dfbbff69f0069cc0e2dd5b2fc0f5d9373f3b9fe399329cb1031aebb1"
    if not PUBLISHED.exists():
        pytest.skip(f"{PUBLISHED} is not there: compared with its hash alone")
    with PUBLISHED.open() as file:
        rows = [
            f"{r['architecture']},{r['num_params']},{r['num_macs']}" for r in csv.DictReader(file)
        ]
    assert sorted(rows) == lines


def test_the_keras_model_has_the_published_number_of_parameters():
    network = build_network(SPACE, SPACE.from_indices([0, 2, 0, 1, 2, 1, 0, 0]))
    statistics = sum(
        int(np.prod(v.shape)) for v in network.non_trainable_variables if "moving" in v.name
    )
    assert network.count_params() - statistics == 890_666


@pytest.mark.parametrize("kind", ["proxyless", "superkernel"])
def test_paths_of_a_supernet_are_the_networks_of_inherited_weights(kind):
    supernet = Supernet(SMALL, 0, kind)
    images = tf.constant(np.random.RandomState(1).rand(16, 8, 8, 3).astype(np.float32))
    paths = [[0] * 8, [1, 0, 2, 1, 0, 0, 1, 2], [2] * 8]
    for path in paths:
        supernet.call_path(images, path, None, training=True)  # statistics of their own
    for path in paths:
        network = supernet.inherited_network(SMALL.from_indices(path))
        found = supernet.call_path(images, path)
        np.testing.assert_allclose(found, network(images), rtol=1e-4, atol=1e-5)
        gated = supernet.call_path(images, path, tf.one_hot(path, 3))
        np.testing.assert_allclose(gated, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["proxyless", "superkernel"])
def test_gates_of_the_identity_feel_a_gradient_where_it_has_weights(kind):
    supernet = Supernet(SMALL, 0, kind)
    images = tf.constant(np.random.RandomState(1).rand(16, 8, 8, 3).astype(np.float32))
    path = [0] * 8
    gates = tf.one_hot(path, 3)
    with tf.GradientTape() as tape:
        tape.watch(gates)
        logits = supernet.call_path(images, path, gates, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([1] * 16, logits))
    gradient = tf.convert_to_tensor(tape.gradient(loss, gates)).numpy()
    changes_shape = np.array([not block.is_skippable for block in SMALL.blocks])
    assert (gradient[changes_shape, 0] != 0).all()
    assert (gradient[~changes_shape, 0] == 0).all()  # an identity whose output is 0


def test_fair_paths_together_have_each_op_once():
    supernet = Supernet(SMALL)
    seed = stateless_seed(0, "weight_path", 5)
    paths = np.stack([supernet.sample_fair(seed, index) for index in range(3)])
    assert (np.sort(paths, axis=0) == np.arange(3)[:, None]).all()
    tiny = Supernet(make_space(SpaceConfig("tiny_mbconv")))
    paths = np.stack([tiny.sample_fair(seed, index) for index in range(42)])
    assert (np.bincount(paths[:, 0], minlength=7) == [7, 7, 7, 7, 7, 7, 0]).all()
    assert (np.bincount(paths[:, 1]) == 6).all()
