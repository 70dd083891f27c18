"""The best mapping is the best of all that the rules allow, by plain enumeration."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.loopnest import cost_model, mapspace
from dance_tf.hardware.loopnest.mapper import LoopNestCostModel, best_mapping, count_mappings
from dance_tf.hardware.loopnest.mapping import mapping_to_json
from dance_tf.hardware.loopnest.mapspace import dram_orders
from dance_tf.hardware.technology import format_technology, technology
from dance_tf.structs import DATAFLOWS, DIMENSIONS, Accelerator, Accelerators
from tests import reference
from tests.hardware import plain
from tests.reference_mappings import Mapspace, mappings
from tests.strategies import examples, small_layers

MACHINE = MachineConfig()

#: Sides of arrays, and words of register files.
SIDES = ((2, 3), (9, 8))
RF_WORDS = (4, 16, 64)

#: Machines as the twin takes them: limits that bind and limits that do not.
MACHINES = (
    {},
    {"technology_name": "accelergy_2020_45nm", "dram_words_per_cycle": None},
    {"buffer_words": 64, "word_bits": 128, "dram_words_per_cycle": 3.0},
    {"buffer_words": 192, "word_bits": 128, "buffer_words_per_cycle": 0.7},
)
OBJECTIVES = ("edp", "latency", "energy")


@pytest.fixture(scope="module")
def small_buffer(tmp_path_factory) -> str:
    """Return the path of a technology with so wide words that a small buffer holds few."""
    tech = technology("cacti_45nm")
    sizes = tuple((kib, tech.global_buffer_read_pj.values[0][1]) for kib in (1, 2, 3))
    rows = {
        name: dataclasses.replace(getattr(tech, name), values=sizes)
        for name in ("global_buffer_read_pj", "global_buffer_write_pj", "global_buffer_um2")
    }
    path = tmp_path_factory.mktemp("technology") / "wide_words.json"
    wide = dataclasses.replace(tech, name="wide_words", word_bits=128, **rows)
    path.write_text(format_technology(wide), "utf-8")
    return str(path)


def _machine(plain_machine: dict, small_buffer: str, **changes) -> MachineConfig:
    """Return the product's record of one of MACHINES."""
    fields = {
        "technology": plain_machine.get("technology_name", "cacti_45nm"),
        "dram_words_per_cycle": plain_machine.get("dram_words_per_cycle", 6.4),
        "global_buffer_words_per_cycle": plain_machine.get("buffer_words_per_cycle", 16.0),
    }
    if "buffer_words" in plain_machine:
        fields |= {"technology": small_buffer, "word_bits": 128}
        fields["global_buffer_kib"] = plain_machine["buffer_words"] // 64
    return MachineConfig(**fields, **changes)


def _check_best(layers, rule, rf_mode, machines, objectives, small_buffer, accounting) -> int:
    """Compare the product's best of every layer and accelerator; return how many can run."""
    arrays = [
        {"pe_x": x, "pe_y": y, "dataflow": dataflow, "rf_mode": rf_mode, "rf_words": words}
        for (x, y), dataflow, words in itertools.product(SIDES, DATAFLOWS, RF_WORDS)
    ]
    # Smaller register files have a part of what the largest one has.
    spaces = [
        {
            (a["pe_x"], a["dataflow"]): Mapspace(layer, a, rule, accounting)
            for a in arrays
            if a["rf_words"] == max(RF_WORDS)
        }
        for layer in layers
    ]
    num_found = 0
    for plain_machine, objective in itertools.product(machines, objectives):
        machine = _machine(
            plain_machine,
            small_buffer,
            rf_mode=rf_mode,
            mapping_objective=objective,
            accounting=accounting,
        )
        rf_bytes = machine.word_bits // 8 * np.asarray([a["rf_words"] for a in arrays])
        found = LoopNestCostModel(machine, rule)(
            [plain.to_layer(layer) for layer in layers],
            Accelerators(
                *(np.asarray([a[k] for a in arrays]) for k in ("pe_x", "pe_y")),
                rf_bytes=rf_bytes,
                dataflow=np.asarray([DATAFLOWS.index(a["dataflow"]) for a in arrays]),
            ),
        )
        for row, (layer, space) in enumerate(zip(layers, spaces, strict=True)):
            for column, array in enumerate(arrays):
                where = (layer, array, rule, plain_machine, objective, accounting)
                cycles = found.latency_cycles[row, column]
                energy = found.energy_pj[row, column]
                twin = space[array["pe_x"], array["dataflow"]].best(
                    objective,
                    rf_words=array["rf_words"],
                    accounting=accounting,
                    **plain_machine,
                )
                if twin is None:
                    assert np.isinf(cycles) and np.isinf(energy), where
                    continue
                num_found += 1
                if objective == "latency":
                    assert cycles == twin["cycles"], where
                if objective != "edp":  # among equal latencies, the least energy
                    assert energy == pytest.approx(twin["energy_pj"], rel=1e-5), where
                edp = twin["cycles"] * twin["energy_pj"]
                assert objective != "edp" or cycles * energy == pytest.approx(edp, rel=1e-5), where
                assert found.area_um2[column] == pytest.approx(
                    cost_model.accelerator_area_um2(
                        array["pe_x"], array["pe_y"], array["rf_words"], machine
                    )
                )
    return num_found


@pytest.mark.parametrize(
    ("family", "rule", "rf_mode", "accounting"),
    [
        ("conv", "strip", "shared", "timeloop_2020"),
        ("conv", "timeloop", "shared", "timeloop_2025"),
        ("conv", "strip", "split", "timeloop_2025"),
        ("depthwise", "strip", "shared", "timeloop_2020"),
        ("depthwise", "timeloop", "shared", "timeloop_2020"),
        ("grouped", "strip", "shared", "timeloop_2020"),
        ("grouped", "timeloop", "shared", "timeloop_2020"),
    ],
)
def test_the_best_is_that_of_plain_enumeration(family, rule, rf_mode, accounting, small_buffer):
    layers = examples(small_layers(family, max_tilings=300), 3)[-2:]
    for index, machine in enumerate(MACHINES):
        objectives = OBJECTIVES[index % 3 : index % 3 + 1]
        assert _check_best(layers, rule, rf_mode, [machine], objectives, small_buffer, accounting)


@pytest.mark.slow
@pytest.mark.parametrize("rf_mode", ["shared", "split"])
@pytest.mark.parametrize("rule", ["strip", "timeloop"])
@pytest.mark.parametrize("family", ["any", "any grouped", "any depthwise", "conv", "grouped"])
def test_the_best_of_thousands_is_that_of_plain_enumeration(family, rule, rf_mode, small_buffer):
    layers = examples(small_layers(family), 20, is_steady=False)
    for accounting in ("timeloop_2020", "timeloop_2025"):
        options = (MACHINES, OBJECTIVES, small_buffer, accounting)
        assert _check_best(layers, rule, rf_mode, *options) > 1000


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("rf_mode", ["shared", "split"])
def test_the_best_mapping_is_allowed_and_costs_what_it_says(objective, rf_mode):
    machine = MachineConfig(mapping_objective=objective, rf_mode=rf_mode)
    families = ("conv", "depthwise", "grouped") if rf_mode == "shared" else ("conv",)
    for family in families:
        layer = examples(small_layers(family, max_tilings=300), 3)[-1]
        for dataflow, rule in itertools.product(DATAFLOWS, ("strip", "timeloop")):
            array = {"pe_x": 4, "pe_y": 5, "rf_words": 16, "dataflow": dataflow, "rf_mode": rf_mode}
            best = best_mapping(
                plain.to_layer(layer), Accelerator(4, 5, 32, dataflow), machine, rule
            )
            padded = plain.to_plain(best.padded_layer)
            levels = plain.with_keeps(mapping_to_json(best.mapping))
            cost = reference.cost(padded, levels, array, reference.walk_counts(padded, levels))
            assert best.cost.cycles == cost["cycles"]
            assert best.cost.energy_pj == pytest.approx(cost["energy_pj"], rel=1e-12)
            allowed = {_value(*pair) for pair in mappings(layer, array, rule)}
            assert _value(padded, levels) in allowed, (layer, array, rule, levels)


def _value(layer: dict, levels: list) -> tuple:
    """Return a mapping as a value; loops have an order where it matters."""
    dims = tuple(layer[d] for d in DIMENSIONS)
    loops = []
    for position, level in enumerate(levels):
        temporal = tuple(map(tuple, level["temporal"]))
        loops.append(frozenset(temporal) if position == len(levels) - 1 else temporal)
        loops += [frozenset(map(tuple, level[kind])) for kind in ("spatial_x", "spatial_y")]
    return (dims, layer.get("groups", 1), *loops)


@pytest.mark.parametrize("family", ["conv", "depthwise", "grouped"])
def test_as_many_mappings_are_compared_as_the_rules_allow(family):
    """Every tiling that fits, under the orders at DRAM that `dram_orders` says to try."""
    layer = examples(small_layers(family, max_tilings=300), 3)[-1]
    record = plain.to_layer(layer)
    names = {"G": "K", "K": ""} if family == "depthwise" else {}
    for accelerator in ACCELERATORS:
        array = dataclasses.asdict(accelerator) | {"rf_words": accelerator.rf_bytes // 2}
        orders = [
            [names.get(d, d) for d in order] for order in dram_orders(record, array["dataflow"])
        ]
        expected = 0
        for _, mapping in mappings(layer, array):
            outer = [d for d, _ in mapping[0]["temporal"]]
            expected += any([d for d in order if d in outer] == outer for order in orders)
        assert count_mappings(record, _together([accelerator]), MACHINE) == expected, array


def test_a_layer_that_cannot_run_is_said_so():
    layer = {"type": "conv", "stride": 1, "dilation": 1} | dict.fromkeys(DIMENSIONS, 4) | {"N": 1}
    tall = plain.to_layer(layer | {"S": 9})
    with pytest.raises(UserError, match="cannot run on 8x8 row_stationary") as error:
        best_mapping(tall, Accelerator(8, 8, 64, "row_stationary"), MACHINE)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="register file holds 2 words, the smallest tiles need 3"):
        best_mapping(plain.to_layer(layer), Accelerator(8, 8, 4, "weight_stationary"), MACHINE)
    # Three files of two words each are enough.
    split = MachineConfig(rf_mode="split")
    assert best_mapping(plain.to_layer(layer), Accelerator(8, 8, 4, "weight_stationary"), split)


def test_sizes_that_do_not_divide_the_array():
    """The padded layer is costed, the MACs stay the layer's."""
    layer = {"type": "conv", "stride": 1, "dilation": 1} | dict.fromkeys(DIMENSIONS, 1)
    layer = plain.to_layer(layer | {"K": 10, "C": 5})
    best = best_mapping(layer, Accelerator(1, 4, 64, "weight_stationary"), MACHINE)
    assert layer.macs == 50
    assert best.padded_layer.macs == 60
    pair = plain.to_plain(best.padded_layer), mapping_to_json(best.mapping)
    compute = np.asarray(plain.count([pair]).compute_cycles)
    assert compute[0] == 15
    assert layer.macs / (compute[0] * 4) == pytest.approx(50 / 60)


def test_depthwise_is_slow_on_weight_stationary():
    """It uses one column of the array: slower than its MAC count suggests."""
    sizes = {"N": 1, "K": 32, "P": 16, "Q": 16, "R": 3, "S": 3, "stride": 1, "dilation": 1}
    kinds = [sizes | {"type": "conv", "C": 32}, sizes | {"type": "depthwise", "C": 1}]
    layers = [plain.to_layer(layer) for layer in kinds]
    one = Accelerators(*(np.asarray([v]) for v in (16, 16, 64, 0)))
    cycles = LoopNestCostModel(MACHINE)(layers, one).latency_cycles[:, 0]
    per_mac = cycles / [layer.macs for layer in layers]
    assert per_mac[1] > 8 * per_mac[0]


def test_a_group_per_channel_is_a_depthwise_layer():
    sizes = {"N": 1, "K": 12, "C": 1, "P": 6, "Q": 5, "R": 3, "S": 2, "stride": 2, "dilation": 1}
    layers = [
        plain.to_layer(sizes | {"type": "depthwise"}),
        plain.to_layer(sizes | {"type": "conv", "groups": 12}),
    ]
    for dataflow in DATAFLOWS:
        array = Accelerator(8, 8, 64, dataflow)
        depthwise, grouped = (best_mapping(layer, array, MACHINE) for layer in layers)
        np.testing.assert_equal(depthwise.cost, grouped.cost)
        grouped.mapping.check(grouped.padded_layer)
        depthwise.mapping.check(depthwise.padded_layer)


ACCELERATORS = [
    Accelerator(x, y, rf_bytes, dataflow)
    for (x, y), rf_bytes, dataflow in itertools.product([(2, 3), (9, 8)], [8, 64], DATAFLOWS)
]


def _together(accelerators) -> Accelerators:
    rows = [(a.pe_x, a.pe_y, a.rf_bytes, DATAFLOWS.index(a.dataflow)) for a in accelerators]
    return Accelerators(*np.asarray(rows, np.int32).T)


@pytest.fixture(scope="module")
def pair_of_layers():
    return [plain.to_layer(examples(small_layers(f), 3)[-1]) for f in ("conv", "depthwise")]


def test_many_accelerators_at_once_equal_one_at_a_time(pair_of_layers):
    together = LoopNestCostModel(MACHINE)(pair_of_layers, _together(ACCELERATORS))
    for row, layer in enumerate(pair_of_layers):
        for column, accelerator in enumerate(ACCELERATORS):
            if np.isinf(together.latency_cycles[row, column]):
                with pytest.raises(UserError):
                    best_mapping(layer, accelerator, MACHINE)
            else:
                best = best_mapping(layer, accelerator, MACHINE)
                assert (best.cost.cycles, best.cost.energy_pj) == (
                    together.latency_cycles[row, column],
                    pytest.approx(together.energy_pj[row, column], rel=1e-12),
                )


def test_a_search_in_parts_finds_the_same(pair_of_layers, monkeypatch):
    model, accelerators = LoopNestCostModel(MACHINE), _together(ACCELERATORS)
    whole = model(pair_of_layers, accelerators)
    monkeypatch.setattr(mapspace, "MAX_TILINGS", 1)  # every spread by itself
    parts = model(pair_of_layers, accelerators)
    np.testing.assert_array_equal(parts.latency_cycles, whole.latency_cycles)
    np.testing.assert_array_equal(parts.energy_pj, whole.energy_pj)


def test_the_parts_add_up(pair_of_layers):
    model, accelerators = LoopNestCostModel(MACHINE), _together(ACCELERATORS)
    whole, parts = model(pair_of_layers, accelerators), model.detailed(pair_of_layers, accelerators)
    np.testing.assert_array_equal(parts.latency_cycles, whole.latency_cycles)
    np.testing.assert_array_equal(parts.area_um2, whole.area_um2)
    np.testing.assert_allclose(parts.energy_by_component_pj.sum(axis=0), whole.energy_pj)
    can_run = np.isfinite(whole.latency_cycles)
    assert (np.isfinite(parts.compute_cycles) == can_run).all()
    assert (parts.compute_cycles[can_run] <= parts.latency_cycles[can_run]).all()
    assert ((parts.bound_by >= 0) == can_run).all()
    is_compute = parts.bound_by == cost_model.BOUNDS.index("compute")
    same = parts.compute_cycles == parts.latency_cycles
    assert (same[can_run] == is_compute[can_run]).all()


def test_the_same_answer_every_time(pair_of_layers):
    """Ties are broken by the order of enumeration, so repeated runs agree to the byte."""
    for objective in OBJECTIVES:
        machine = MachineConfig(mapping_objective=objective)
        for layer, accelerator in zip(pair_of_layers, ACCELERATORS[-2:], strict=True):
            texts = {
                json.dumps(mapping_to_json(best_mapping(layer, accelerator, machine).mapping))
                for _ in range(3)
            }
            assert len(texts) == 1


def test_the_fingerprint_follows_what_the_numbers_depend_on():
    base = LoopNestCostModel(MACHINE).fingerprint
    assert LoopNestCostModel(MachineConfig()).fingerprint == base
    assert LoopNestCostModel(MACHINE, "timeloop").fingerprint != base
    for change in (
        {"clock_mhz": 100.0},
        {"dram_words_per_cycle": None},
        {"technology": "accelergy_2020_45nm"},
        {"mapping_objective": "energy"},
        {"accounting": "timeloop_2025"},
        {"rf_mode": "split"},
    ):
        assert LoopNestCostModel(MachineConfig(**change)).fingerprint != base, change
