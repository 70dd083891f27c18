"""Spaces as data: sizes, round trips, published networks, refusals."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from dance_tf.config import SpaceConfig
from dance_tf.errors import UserError
from dance_tf.structs import Architecture
from dance_tf.supernet.op_names import op_kernel_expansion
from dance_tf.supernet.space_files import SPACES, make_space

TINY = make_space(SpaceConfig(name="tiny_mbconv"))


def test_cifar_mbconv_has_the_size_of_the_published_space():
    space = make_space(SpaceConfig(name="cifar_mbconv"))
    assert space.num_blocks == 9
    assert space.num_architectures == 6**3 * 7**6
    assert [b.out_channels for b in space.blocks] == [32] * 3 + [64] * 3 + [128] * 3
    assert [b.output_size for b in space.blocks] == [32] * 3 + [16] * 3 + [8] * 3
    assert [d for d, b in enumerate(space.blocks) if not b.is_skippable] == [0, 3, 6]


# The smallest network of the space and its largest; weights of kernels.
@pytest.mark.parametrize(
    ("ops", "mega_macs", "mega_weights"),
    [
        (("mbconv3_e3", "zero", "zero") * 3, 24.8, 0.23),
        (("mbconv7_e6",) * 9, 153.4, 0.96),
    ],
)
def test_corner_networks_have_their_known_sizes(ops, mega_macs, mega_weights):
    space = make_space(SpaceConfig(name="cifar_mbconv"))
    layers = space.layers(Architecture(space.name, ops))
    assert sum(layer.macs for layer in layers) / 1e6 == pytest.approx(mega_macs, abs=0.05)
    weights = sum(layer.K * layer.C * layer.R * layer.S for layer in layers)
    assert weights / 1e6 == pytest.approx(mega_weights, abs=0.005)


def test_small_space_halves_every_channel_and_the_input():
    large, small = (make_space(SpaceConfig(name=f"cifar_mbconv{s}")) for s in ("", "_small"))
    assert small.input_size * 2 == large.input_size == 32
    for name in ("stem_channels", "first_channels", "head_channels"):
        assert getattr(small, name) * 2 == getattr(large, name)
    for a, b in zip(small.blocks, large.blocks, strict=True):
        assert (a.in_channels * 2, a.out_channels * 2) == (b.in_channels, b.out_channels)
        assert (a.output_size * 2, a.stride) == (b.output_size, b.stride)


def test_indices_round_trip_over_a_whole_space():
    space = make_space(SpaceConfig(name="tiny_mbconv"))
    allowed = [np.flatnonzero(row) for row in space.op_mask]
    networks = {space.from_indices(indices) for indices in itertools.product(*allowed)}
    assert len(networks) == space.num_architectures == 42
    for network in networks:
        assert space.from_indices(space.to_indices(network)) == network


@pytest.mark.parametrize(
    "op", ["conv4", "mbconv3_e3_relu_se", "mbconv4_e3", "mbconv3_e0", "Zero", "conv3_w0.5", 3]
)
def test_an_unknown_op_is_refused_when_the_space_is_made(op):
    with pytest.raises(UserError) as error:
        dataclasses.replace(TINY, op_names=("mbconv3_e3", op, "zero"))
    assert f"space 'tiny_mbconv', all of its blocks: unknown op {op!r}" in str(error.value)
    assert "there are zero, identity, mbconvK_eE" in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"op_names": ()}, "has no ops"),
        ({"blocks": ()}, "has no blocks"),
        ({"op_names": ("zero", "zero")}, "op 'zero' is there twice"),
        ({"op_names": ("zero",)}, "block 0 has no op: zero needs an identity"),
        ({"head_channels": 0}, "head_channels is 0, not a positive integer"),
        ({"first_channels": 9}, "block 0 takes 8 channels, what is before it gives 9"),
        ({"input_size": 9}, "block 0 with stride 2 gives an output of 4, what is before it"),
        ({"blocks": (TINY.blocks[0],) * 2}, "block 1 takes 8 channels, what is before it gives 16"),
        (
            {"blocks": (TINY.blocks[0], dataclasses.replace(TINY.blocks[1], stride=2))},
            "block 1 with stride 2",
        ),
    ],
)
def test_a_space_that_is_no_chain_is_refused(change, says):
    with pytest.raises(UserError, match=says):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize("field", ["in_channels", "out_channels", "output_size", "stride"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_a_block_of_no_size_is_refused(field, value):
    with pytest.raises(UserError, match=f"block: {field} is {value}, not a positive integer"):
        dataclasses.replace(TINY.blocks[1], **{field: value})


@pytest.mark.parametrize("name", sorted(SPACES))
def test_samples_are_networks_of_the_space(name):
    space = make_space(SpaceConfig(name=name))
    drawn = space.sample(300, seed=1)
    assert drawn.shape == (300, space.num_blocks) and drawn.dtype == np.int32
    for d, mask in enumerate(space.op_mask):
        assert set(drawn[:, d]) == set(np.flatnonzero(mask))
    assert np.array_equal(drawn, space.sample(300, seed=1))
    assert not np.array_equal(drawn, space.sample(300, seed=2))


def test_layers_chain():
    space = make_space(SpaceConfig())
    for indices in space.sample(20, seed=0):
        layers = space.layers(space.from_indices(indices))
        for before, after in itertools.pairwise(layers):
            channels = after.K if after.kind == "depthwise" else after.C
            assert channels == before.K, after.name
        assert len({layer.name for layer in layers}) == len(layers)


def test_op_names_say_kernel_and_expansion():
    assert op_kernel_expansion("mbconv5_e6") == (5, 6)
    assert op_kernel_expansion("zero") is None


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (("mbconv3_e3",), "has 1 ops; tiny_mbconv has 2"),
        (("mbconv3_e3", "mbconv3_e9"), "unknown op 'mbconv3_e9' at block 1; did you mean"),
        (("zero", "mbconv3_e3"), "'zero' is not allowed at block 0: it is not among"),
    ],
)
def test_a_bad_architecture_is_refused(ops, message):
    space = make_space(SpaceConfig(name="tiny_mbconv"))
    with pytest.raises(UserError, match=message):
        space.validate(Architecture("tiny_mbconv", ops))
    with pytest.raises(UserError, match="not 'tiny_mbconv'"):
        space.validate(Architecture("cifar_mbconv", ops))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "cifar_mbconv_smal"}, "did you mean 'cifar_mbconv_small'"),
        ({"width_multiplier": 0.0}, "space.width_multiplier is 0.0"),
        ({"num_classes": 1}, "space.num_classes is 1"),
        ({"input_size": 18}, "space.input_size is 18, not a positive multiple of 4"),
    ],
)
def test_a_bad_space_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        make_space(SpaceConfig(**fields))


def test_the_config_overrides_the_space():
    space = make_space(SpaceConfig(width_multiplier=0.25, input_size=8, num_classes=3), 10)
    assert (space.input_size, space.num_classes, space.blocks[-1].out_channels) == (8, 3, 32)
    assert make_space(SpaceConfig(), 7).num_classes == 7
