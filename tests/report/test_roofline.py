"""Layers lie under their roofs, those that wait for a memory on its roof."""

from __future__ import annotations

import dataclasses
import re

import pytest

from dance_tf.config import MachineConfig
from dance_tf.hardware.layer_costs import break_down
from dance_tf.report.roofline import map_network, roofline_rows, rooflines
from dance_tf.structs import Accelerator, Layer

ACCELERATOR = Accelerator(8, 12, 32, "row_stationary")
MACHINE = MachineConfig(dram_words_per_cycle=1.5)
LAYERS = (
    Layer("dense", "conv", 1, 10, 64, 1, 1, 1, 1),
    Layer("wide", "conv", 1, 32, 16, 8, 8, 3, 3),
    Layer("same shape", "conv", 1, 32, 16, 8, 8, 3, 3),
    Layer("depthwise", "depthwise", 1, 24, 1, 8, 8, 3, 3),
)


@pytest.fixture(scope="module")
def network():
    return map_network(LAYERS, ACCELERATOR, MACHINE)


def test_no_layer_is_above_a_roof_and_the_slowest_resource_is_one(network):
    per_cycle = {"dram": 1.5, "global_buffer": MACHINE.global_buffer_words_per_cycle}
    for layer in network.layers:
        terms = {
            "compute": layer.layer.macs / (8 * 12),
            "dram": layer.dram_words / per_cycle["dram"],
            "global_buffer": layer.buffer_words / per_cycle["global_buffer"],
        }
        assert max(terms.values()) <= layer.cycles + 1e-9
        if layer.bound_by != "compute":
            bound = "dram" if layer.bound_by == "dram" else "global_buffer"
            assert layer.cycles == pytest.approx(terms[bound], abs=1)
    assert {layer.bound_by for layer in network.layers} >= {"dram"}


def test_cycles_and_bounds_are_those_of_the_cost_model(network):
    entries = break_down(LAYERS, ACCELERATOR, MACHINE)["layers"]
    assert [layer.cycles for layer in network.layers] == [e["latency_cycles"] for e in entries]
    assert [layer.bound_by for layer in network.layers] == [e["bound_by"] for e in entries]


def test_dots_and_roofs_are_where_the_numbers_are(network):
    dram, buffer = rooflines(network)
    slope, array = (mark for mark in dram.marks if "roof" in mark.style)
    # On logarithmic axes the slope ends at the ridge, where the other roof begins.
    ridge = (dram.x.at(96 / 1.5), 100 - dram.y.at(96))
    assert slope.path.endswith(f"L{ridge[0]:g} {ridge[1]:.5g}")
    assert array.path.startswith(f"M{ridge[0]:g} {ridge[1]:.5g}L")
    dots = {mark.title.partition(":")[0]: mark.path for mark in dram.marks if mark.title}
    assert set(dots) == {layer.name for layer in LAYERS}
    dense = network.layers[0]
    x, y = map(float, re.fullmatch(r"M(\S+) (\S+)h0", dots["dense"]).groups())
    assert x == pytest.approx(dram.x.at(dense.layer.macs / dense.dram_words), abs=0.01)
    assert y == pytest.approx(100 - dram.y.at(dense.macs_per_cycle), abs=0.01)
    assert len(buffer.marks) == len(dram.marks)
    rows = roofline_rows(network)
    assert [row["name"] for row in rows] == [layer.name for layer in LAYERS]


def test_without_a_limit_of_dram_its_roof_is_flat(network):
    machine = dataclasses.replace(MACHINE, dram_words_per_cycle=None)
    dram, _ = rooflines(map_network(LAYERS, ACCELERATOR, machine))
    assert not any("slope" in mark.style for mark in dram.marks)


def test_layers_of_one_shape_share_a_drawing(network):
    assert ("wide", "same shape") in [drawing.names for drawing in network.drawings]
