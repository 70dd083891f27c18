"""Candidate ops: names, counts, one-hot paths and gradients, in both supernets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import SpaceConfig
from dance_tf.errors import UserError
from dance_tf.interop.keras_model import layers_of_keras_model
from dance_tf.structs import Architecture
from dance_tf.supernet.op_names import op_words, parse_op
from dance_tf.supernet.space_files import make_space
from dance_tf.supernet.supernet import Supernet
from tests.own_spaces import IMAGE_OPS, IMAGES, SERIES, SERIES_OPS, SPACES

CASES = [(name, op) for name, space in SPACES.items() for op in space.op_names]


def _inputs(space, num=6, seed=0):
    random = np.random.RandomState(seed)
    return tf.constant(random.rand(num, *space.input_shape).astype(np.float32))


def _path(space, op):
    """Return the network that has an op wherever that is possible."""
    index, other = space.op_names.index(op), space.op_names.index("identity")
    return [index if row[index] else other for row in space.op_mask]


@pytest.fixture(scope="module")
def supernets():
    """Both kinds for both spaces, with statistics and scales that are not those of the start."""
    made = {}
    for name, space in SPACES.items():
        for kind in ("proxyless", "superkernel"):
            supernet = made[name, kind] = Supernet(space, 1, kind)
            random = np.random.RandomState(2)
            for variable in supernet.variables:
                if "logits" not in variable.path:
                    noise = random.uniform(0.8, 1.2, variable.shape)
                    variable.assign(variable.numpy() * noise)
    return made


@pytest.mark.parametrize("op", sorted({*IMAGE_OPS, *SERIES_OPS, "encoder_h8_k16_f4"}))
def test_a_name_is_that_of_its_op(op):
    assert parse_op(op).name == op
    assert op_words(op)[0].isupper()


@pytest.mark.parametrize(
    "name",
    [
        *("mbconv3", "mbconv2_e3", "mbconv3_e3_w0", "mbconv3_e3_w1", "mbconv3_e3_w.5"),
        *("conv3_g1", "conv3_se", "residual3_e2", "encoder_h2_k4", "separable", "", "mbconv03_e3"),
    ],
)
def test_a_name_that_is_not_spelt_as_an_op_is_refused(name):
    with pytest.raises(UserError, match="unknown op"):
        parse_op(name)


def test_ops_are_where_they_fit():
    groups = dataclasses.replace(IMAGES, op_names=("conv3_g4", "zero", "conv1"))
    assert groups.op_mask.tolist() == [[False, False, True], [False, True, True]]
    at_second = SERIES.op_mask[:, SERIES_OPS.index("encoder_h2_k4_f2")]
    assert at_second.tolist() == [False, True]
    with pytest.raises(UserError, match="unknown op"):
        dataclasses.replace(IMAGES, op_names=("conv2",))


@pytest.mark.parametrize(("name", "op"), CASES)
def test_a_path_is_the_network_of_inherited_weights_and_costs_its_layers(supernets, name, op):
    space = SPACES[name]
    path, inputs = _path(space, op), _inputs(space)
    architecture = space.from_indices(path)
    for kind in ("proxyless", "superkernel"):
        supernet = supernets[name, kind]
        network = supernet.inherited_network(architecture)
        expected = network(inputs)
        gates = tf.one_hot(path, space.num_ops)
        for outputs in (supernet.call_path(inputs, path), supernet.call_path(inputs, path, gates)):
            np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    imported, counted = layers_of_keras_model(network).layers, space.layers(architecture)
    assert sorted(map(_shape, imported)) == sorted(map(_shape, counted))


def _shape(layer):
    return layer.macs, layer.K, layer.num_groups, max(layer.R, layer.S), layer.P * layer.Q


@pytest.mark.parametrize("kind", ["proxyless", "superkernel"])
@pytest.mark.parametrize("name", SPACES)
def test_gates_feel_what_finite_differences_say(supernets, name, kind):
    space, supernet = SPACES[name], supernets[name, kind]
    inputs, labels = _inputs(space, 24, 3), tf.constant(np.arange(24) % 3)
    kept = [v.numpy() for v in supernet.variables]

    @tf.function
    def loss_and_gradient(path, gates):
        with tf.GradientTape() as tape:
            tape.watch(gates)
            logits = supernet.call_path(inputs, path, gates, True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        return loss, tape.gradient(loss, gates)

    step = 3e-3
    for op in range(space.num_ops):
        path = _path(space, space.op_names[op])
        path, gates = tf.constant(path), tf.one_hot(path, space.num_ops)
        gradient = loss_and_gradient(path, gates)[1].numpy()
        assert np.isfinite(gradient).all()
        for d, o in enumerate(path.numpy()):
            nudge = np.zeros(gates.shape, np.float32)
            nudge[d, o] = step
            high, low = (loss_and_gradient(path, gates + s * nudge)[0] for s in (1, -1))
            slope = float(high - low) / (2 * step)
            assert gradient[d, o] == pytest.approx(slope, rel=0.05, abs=3e-3), (op, d)
    for variable, value in zip(supernet.variables, kept, strict=True):
        variable.assign(value)


@pytest.mark.parametrize("kind", ["proxyless", "superkernel"])
@pytest.mark.parametrize("name", SPACES)
def test_a_training_step_moves_the_weights_and_statistics_of_its_path_alone(supernets, name, kind):
    space, supernet = SPACES[name], supernets[name, kind]
    inputs = _inputs(space, 16, 5)
    kept = [v.numpy() for v in supernet.variables]
    others = [v for v in supernet.variables if v.name == "statistics"]
    convolution = space.op_names.index("conv5" if space.is_series else "conv3")
    residual, identity = map(space.op_names.index, ("residual3", "identity"))
    for path in ((convolution, identity), (identity, residual)):
        before = [v.numpy() for v in others]
        packed = [w.value for w in supernet.network_weights if w.name == "packed"]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(supernet.call_path(inputs, path, None, True) ** 2)
        for b, gradient in enumerate(tape.gradient(loss, packed)):
            has_weights = bool(space.op_layers(b, space.op_names[path[b]]))
            assert (gradient is not None) == has_weights
            if has_weights:
                assert np.any(tf.convert_to_tensor(gradient))
        for b, (variable, old) in enumerate(zip(others, before, strict=True)):
            moved = np.flatnonzero((variable.numpy() != old).any(axis=1))
            has_layers = bool(space.op_layers(b, space.op_names[path[b]]))
            assert moved.tolist() == [path[b]] * has_layers
    for variable, value in zip(supernet.variables, kept, strict=True):
        variable.assign(value)


def test_a_superkernel_without_anything_to_share_is_refused():
    space = dataclasses.replace(IMAGES, op_names=("conv3", "mbconv3_e2_se", "zero"))
    with pytest.raises(UserError, match="needs an mbconv among the ops"):
        Supernet(space, 0, "superkernel")


def test_the_published_network_of_the_imagenet_space_has_its_published_size():
    """ProxylessNAS-Mobile: 4,080,512 parameters and 320 million MACs (Cai et al., 2019)."""
    space = make_space(SpaceConfig("imagenet_mbconv"), 1000)
    stages = [
        ("5_e3", "3_e3", None, None),
        ("7_e3", "3_e3", "5_e3", "5_e3"),
        ("7_e6", "5_e3", "5_e3", "5_e3"),
        ("5_e6", "5_e3", "5_e3", "5_e3"),
        ("7_e6", "7_e6", "7_e3", "7_e3"),
        ("7_e6",),
    ]
    ops = tuple(f"mbconv{op}" if op else "zero" for stage in stages for op in stage)
    layers = space.layers(space.validate(Architecture(space.name, ops)))
    normalised = [layer for layer in layers if layer.name != "classifier"]
    parameters = sum(layer.K * layer.C * layer.R * layer.S for layer in layers)
    parameters += sum(2 * layer.K for layer in normalised) + 1000
    assert parameters == 4_080_512
    assert sum(layer.macs for layer in layers) / 1e6 == pytest.approx(320.4, abs=0.05)
