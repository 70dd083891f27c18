"""Spaces as files: what is shipped, what a user writes, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, SpaceConfig
from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.layers import conv
from dance_tf.supernet.space_files import SPACES, format_space, make_space, read_space, space_data
from dance_tf.supernet.space_record import space_from_json, space_sha256, space_to_json
from dance_tf.supernet.supernet import Supernet, build_network, derive

MINE = {
    "schema_version": 1,
    "name": "mine",
    "input_shape": [8, 12, 3],
    "activation": "relu",
    "stem": {"channels": 8, "stride": 2},
    "stages": [
        {"blocks": 2, "channels": 8},
        {"blocks": 2, "channels": 16, "stride": 2, "widths": [0.5, 1.0]},
        {"blocks": 1, "channels": 16, "ops": ["conv3", "zero"]},
    ],
    "ops": ["mbconv3_e2", "conv3", "residual3", "zero"],
}


def _written(tmp_path, data):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


def _changed(*keys_and_value):
    *keys, last, value = keys_and_value
    data = copy.deepcopy(MINE)
    node = data
    for key in keys:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return data


@pytest.mark.parametrize("name", SPACES)
def test_a_shipped_space_prints_as_its_own_file(name, tmp_path):
    text = format_space(space_data(name))
    path = tmp_path / f"{name}.json"
    path.write_text(text, encoding="utf-8")
    assert read_space(path) == make_space(SpaceConfig(name))


def test_a_file_says_what_is_there(tmp_path):
    space = read_space(_written(tmp_path, MINE), 5)
    assert (space.input_shape, space.stem_shape, space.num_classes) == ((8, 12, 3), (4, 6), 5)
    assert [b.output_shape for b in space.blocks] == [(4, 6)] * 2 + [(2, 3)] * 3
    assert space.head_channels is None and space.first_channels is None
    names = ("mbconv3_e2", "conv3", "residual3", "zero", "mbconv3_e2_w0.5", "residual3_w0.5")
    assert space.op_names == names
    offered = [{o for o, x in zip(names, row, strict=True) if x} for row in space.op_mask]
    plain = {"mbconv3_e2", "conv3", "residual3", "zero"}
    assert offered[0] == offered[1] == plain
    assert offered[2] == {*names} - {"zero"} and offered[3] == {*names}
    assert offered[4] == {"conv3", "zero"}


def test_the_config_scales_a_form_that_is_not_square(tmp_path):
    path = _written(tmp_path, MINE)
    half = make_space(SpaceConfig(path, input_size=24, width_multiplier=0.5))
    assert half.input_shape == (16, 24, 3) and half.blocks[-1].out_channels == 8
    with pytest.raises(UserError, match="does not keep the form"):
        make_space(SpaceConfig(path, input_size=16))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "schema_version is None"),
        (_changed("schema_version", 2), "schema_version is 2"),
        (_changed("opps", []), "unknown field 'opps'; did you mean 'ops'"),
        (_changed("name", None), "name is missing"),
        (_changed("name", "my space"), "not letters, digits"),
        (_changed("input_shape", [8]), "input_shape is [8], not [H, W, C]"),
        (_changed("input_shape", [8, 0, 3]), "input_shape is 0, not an integer"),
        (_changed("input_shape", [8, 10, 3]), "input_shape is 10, not a positive multiple of 4"),
        (_changed("activation", "gelu"), "unknown activation 'gelu'"),
        (_changed("width_multiplier", "1"), "width_multiplier is '1', not a number"),
        (_changed("stem", 8), "stem is not an object"),
        (_changed("stem", "kernel", 4), "stem: kernel is 4, which is not odd"),
        (_changed("stem", "channels", True), "stem: channels is True, not an integer"),
        (_changed("stem", "positions", 1), "stem: positions is not true or false"),
        (_changed("stages", []), "stages is not a list of stages"),
        (_changed("stages", 0, "blocks", 1.5), "stage 0: blocks is 1.5, not an integer"),
        (_changed("stages", 0, "channels", None), "stage 0: channels is missing"),
        (_changed("stages", 1, "widths", [0]), "stage 1: widths is 0, not a number"),
        (_changed("stages", 1, "kernel", 3), "stage 1: unknown field 'kernel'"),
        (_changed("stages", 2, "ops", ["zero"]), None),
        (_changed("stages", 2, "ops", ["mbconv4_e3"]), "unknown op 'mbconv4_e3'"),
        (_changed("ops", "zero"), "ops is 'zero', not a list of names"),
        (_changed("ops", ["zero"]), "block 2 has no op"),
        (_changed("head_channels", -1), "head_channels is -1, not an integer"),
    ],
)
def test_a_file_that_is_no_space_is_refused_in_one_line(tmp_path, data, says):
    path = _written(tmp_path, data)
    if says is None:
        assert read_space(path).op_mask[4].sum() == 1
        return
    with pytest.raises(UserError) as error:
        read_space(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_space_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_space(tmp_path / "none.json")
    with pytest.raises(UserError, match="the path of a file ends in"):
        make_space(SpaceConfig("mine"))


class _Own:
    name = "own"

    def fits(self, block):
        return block.is_skippable

    def layers(self, block, prefix):
        size = block.output_shape
        return (conv(f"{prefix}/a", in_channels=8, out_channels=8, output_size=size, kernel=3),)

    def build(self, inputs, block, prefix):
        raise NotImplementedError


def test_a_record_reads_back_without_the_code_of_an_op(tmp_path):
    path = _written(tmp_path, _changed("ops", ["conv3", "own"]))
    space = read_space(path, own_ops=[_Own()])
    recorded = space_from_json(json.loads(json.dumps(space_to_json(space))), "space.json")
    assert recorded.op_names == space.op_names
    assert np.array_equal(recorded.op_mask, space.op_mask)
    for d in range(space.num_blocks):
        assert recorded.op_layers(d, "own") == space.op_layers(d, "own")
    assert space_to_json(recorded) == space_to_json(space)
    plain = read_space(_written(tmp_path, MINE))
    assert space_from_json(space_to_json(plain), "space.json") == plain
    assert space_sha256(plain) != space_sha256(dataclasses.replace(plain, activation="relu6"))
    with pytest.raises(UserError, match=r"space\.json: is not a network space"):
        space_from_json({**space_to_json(plain), "blocks": [[1]]}, "space.json")


def test_the_imagenet_space_takes_a_step():
    """At a width and a size that a test can afford."""
    space = make_space(SpaceConfig("imagenet_mbconv", width_multiplier=0.125, input_size=32), 100)
    supernet = Supernet(space, 0, "superkernel")
    images = tf.constant(np.random.RandomState(0).rand(4, 32, 32, 3).astype(np.float32))
    path = space.sample(1, seed=0)[0]
    with tf.GradientTape() as tape:
        logits = supernet.call_path(images, path, None, True)
        loss = tf.reduce_mean(tf.nn.log_softmax(logits)[:, 0])
    assert logits.shape == (4, 100)
    kernel = next(w for w in supernet.network_weights if w.name == "kernel")
    assert np.any(tape.gradient(loss, kernel.value))
    network = build_network(space, derive(supernet))
    assert network.output_shape == (None, 100)


@pytest.mark.parametrize(
    ("config", "num_classes"),
    [
        (SpaceConfig("imagenet_mbconv", width_multiplier=0.125, input_size=32), 1000),
        (SpaceConfig("cifar_mbconv_small", width_multiplier=0.25, input_size=8), 100),
    ],
)
def test_more_classes_are_costed(config, num_classes, cache_dir):
    space = make_space(config, num_classes)
    hardware = HardwareConfig(accelerators=AcceleratorSpaceConfig((8,), (8, 12), (64,)))
    table = load_or_build_table(space, hardware, cache_dir=str(cache_dir))
    metrics = table.metrics_of(space.sample(3, seed=0)).numpy()
    assert metrics.shape == (3, len(table.accelerators), 3) and np.isfinite(metrics).all()
    assert num_classes == space.layers_after()[-1].K
