"""The parts of a cost add up, and agree with the twin."""

from __future__ import annotations

import pytest

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.layer_costs import area_by_component_um2, break_down
from dance_tf.hardware.layers import conv, dense, depthwise
from dance_tf.hardware.loopnest.cost_model import BOUNDS, accelerator_area_um2
from dance_tf.structs import Accelerator
from tests import reference
from tests.hardware import plain

MACHINE = MachineConfig()
ACCELERATOR = Accelerator(8, 12, 64, "row_stationary")
LAYERS = [
    conv("first", in_channels=3, out_channels=8, output_size=6, kernel=3, stride=2),
    depthwise("second", channels=8, output_size=6, kernel=5),
    dense("third", in_features=40, out_features=10),
    depthwise("fourth", channels=8, output_size=6, kernel=5),
]


@pytest.fixture(scope="module")
def report():
    return break_down(LAYERS, ACCELERATOR, MACHINE)


def test_the_parts_add_up(report):
    entries = report["layers"]
    assert [entry["layer"]["name"] for entry in entries] == [layer.name for layer in LAYERS]
    assert report["macs"] == sum(layer.macs for layer in LAYERS)
    for part in [report, *entries]:
        energy = part["energy_by_component_pj"]
        assert set(energy) == {"mac", "register_file", "global_buffer", "dram", "wires"}
        assert part["energy_pj"] == pytest.approx(sum(energy.values()), rel=1e-12)
        assert part["latency_ms"] == pytest.approx(part["latency_cycles"] / 200e3, rel=1e-12)
        assert 0 < part["utilisation"] <= part["array_utilisation"] <= 1
    for key in ("latency_cycles", "compute_cycles", "energy_pj"):
        assert report[key] == pytest.approx(sum(entry[key] for entry in entries), rel=1e-12)
    assert report["area_um2"] == pytest.approx(sum(report["area_by_component_um2"].values()))
    assert sum(report["cycles_bound_by"].values()) == report["latency_cycles"]
    assert entries[1]["mapping"] == entries[3]["mapping"]


def test_every_layer_is_bound_by_its_longest_resource(report):
    for entry in report["layers"]:
        terms = entry["cycles_by_resource"]
        assert tuple(terms) == BOUNDS
        assert entry["latency_cycles"] == max(terms.values()) == terms[entry["bound_by"]]
        assert terms["compute"] == entry["compute_cycles"]


def test_layers_cost_what_the_twin_says(report):
    array = {"pe_x": 8, "pe_y": 12, "rf_words": 32, "dataflow": "row_stationary"}
    for layer, entry in zip(LAYERS[:3], report["layers"], strict=False):
        padded = {k: v for k, v in entry["padded_layer"].items() if k not in ("name", "kind")}
        padded["type"] = layer.kind
        mapping = [level | {"keeps": reference.OPERANDS} for level in entry["mapping"]]
        twin = reference.cost(padded, mapping, array, reference.walk_counts(padded, mapping))
        assert entry["latency_cycles"] == twin["cycles"]
        assert entry["energy_by_component_pj"] == pytest.approx(twin["energy"], rel=1e-12)
        assert report["area_um2"] == pytest.approx(twin["area_um2"], rel=1e-12)
        assert plain.to_plain(layer)["K"] == entry["layer"]["K"]


def test_area_of_parts():
    for machine in (MACHINE, MachineConfig(technology="accelergy_2020_45nm")):
        parts = area_by_component_um2(ACCELERATOR, machine)
        assert sum(parts.values()) == pytest.approx(
            float(accelerator_area_um2(8, 12, 32, machine)), rel=1e-12
        )


def test_a_network_with_a_layer_that_cannot_run():
    tall = conv("tall", in_channels=2, out_channels=2, output_size=4, kernel=13)
    with pytest.raises(UserError, match="'tall' cannot run on 8x12 row_stationary"):
        break_down([*LAYERS, tall], ACCELERATOR, MACHINE)
