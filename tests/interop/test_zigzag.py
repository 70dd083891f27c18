"""The workload file says ZigZag's loop nests, with the layers' MACs and sizes."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import yaml

from dance_tf.interop.zigzag import write_zigzag
from dance_tf.structs import Layer
from tests.interop.exported_layers import DILATED, LAYERS

ALL = (*LAYERS, DILATED)

# What ZigZag's validator of a workload asks of equations and relations.
EQUATION = r"O(\[\w+\])+\+=W(\[\w+\])+\*I(\[\w+\])+"
RELATION = r"(\w+)=(\d+)\*(\w+)\+(\d+)\*(\w+)"


@pytest.mark.parametrize(("layer", "macs"), ALL)
def test_loops_hold_the_macs_and_the_relations_the_input(layer: Layer, macs: int):
    (entry,) = yaml.safe_load(write_zigzag([layer]))
    sizes = dict(zip(entry["loop_dims"], entry["loop_sizes"], strict=True))
    assert math.prod(sizes.values()) == macs
    assert all(type(size) is int for size in sizes.values())
    inputs = {}
    for relation in entry["dimension_relations"]:
        out, scale_a, a, scale_b, b = re.fullmatch(RELATION, relation).groups()
        inputs[out] = 1 + int(scale_a) * (sizes[a.upper()] - 1)
        inputs[out] += int(scale_b) * (sizes[b.upper()] - 1)
    sides = [
        (out - 1) * stride + (taps - 1) * dilation + 1
        for out, taps, stride, dilation in zip(
            (layer.P, layer.Q), (layer.R, layer.S), layer.stride, layer.dilation, strict=True
        )
    ]
    assert inputs == {"ix": sides[0], "iy": sides[1]}


def test_depthwise_has_its_channels_as_groups():
    """Eight channels of 16x16: 18,432 MACs, not 147,456."""
    layer = Layer("dw", "depthwise", 1, 8, 1, 16, 16, 3, 3)
    (entry,) = yaml.safe_load(write_zigzag([layer]))
    sizes = dict(zip(entry["loop_dims"], entry["loop_sizes"], strict=True))
    assert (sizes["G"], sizes["K"], sizes["C"], math.prod(sizes.values())) == (8, 1, 1, 18432)
    for operand in ("O", "W", "I"):
        (indices,) = re.findall(operand + r"((?:\[\w+\])+)", entry["equation"])
        assert "[g]" in indices


def test_entries_are_of_zigzag_s_form():
    text = write_zigzag([layer for layer, _ in ALL], word_bits=8)
    entries = yaml.safe_load(text)
    assert [entry["id"] for entry in entries] == list(range(len(ALL)))
    for entry in entries:
        assert re.fullmatch(EQUATION, entry["equation"])
        indexed = set(re.findall(r"\[(\w+)\]", entry["equation"].upper()))
        assert indexed == {*entry["loop_dims"], "IX", "IY"}
        assert entry["operator_type"] == "Conv"
        assert entry["operand_precision"] == {"W": 8, "I": 8, "O": 8, "O_final": 8}
        assert entry["operand_source"] == {"W": entry["id"], "I": entry["id"]}
        assert "\n" not in entry["name"]
    assert "!!" not in text


def test_dims_from_numpy_are_plain_numbers():
    dims = np.asarray([1, 4, 3, 8, 8, 3, 3]).tolist()
    (entry,) = yaml.safe_load(write_zigzag([Layer("a\nb", "conv", *dims)]))
    assert (entry["name"], math.prod(entry["loop_sizes"])) == ("a b", 4 * 3 * 64 * 9)
