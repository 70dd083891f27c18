"""Layers as records."""

from __future__ import annotations

import dataclasses

import pytest

from dance_tf.errors import UserError
from dance_tf.hardware.layers import conv, dense, depthwise, layer_key

LAYERS = [
    conv("a", in_channels=3, out_channels=8, output_size=5, kernel=3, stride=2),
    depthwise("b", channels=6, output_size=4, kernel=5),
    dense("c", in_features=12, out_features=7),
]


def test_multiply_accumulates():
    assert [layer.macs for layer in LAYERS] == [8 * 3 * 25 * 9, 6 * 16 * 25, 12 * 7]
    # A depthwise layer has one filter per channel: not channels squared.
    assert depthwise("d", channels=8, output_size=16, kernel=3).macs == 18432


def test_the_key_holds_all_but_the_name():
    first = LAYERS[0]
    assert layer_key(dataclasses.replace(first, name="other")) == layer_key(first)
    changes = [{"N": 2}, {"K": 9}, {"C": 2}, {"P": 4}, {"Q": 4}, {"R": 1}, {"S": 1}]
    changes += [{"stride": (1, 2)}, {"dilation": (2, 1)}]
    keys = {layer_key(dataclasses.replace(first, **change)) for change in changes}
    assert len(keys | {layer_key(first)}) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "grouped"}, "kind is 'grouped'"),
        ({"kind": "depthwise"}, "has C = 1, not 3"),
        ({"K": 0}, "K is 0"),
        ({"P": 2.5}, "P is 2.5"),
        ({"R": True}, "R is True"),
        ({"stride": (0, 1)}, "stride is"),
    ],
)
def test_a_bad_layer_is_refused(change, message):
    with pytest.raises(UserError, match="layer 'a'") as error:
        dataclasses.replace(LAYERS[0], **change)
    assert message in str(error.value)
