"""The mapspaces hold exactly the mappings that plain enumeration finds; the best is the best."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.mapper import LoopNestCostModel, best_mapping
from dance_tf.hardware.mapping import mapping_to_json
from dance_tf.hardware.mapspace import RULES, enumerate_mappings, spreads
from dance_tf.hardware.workload import to_workload
from dance_tf.structs import DATAFLOWS, DIMENSIONS, Accelerator, Accelerators
from tests import reference, reference_mappings
from tests.hardware import plain

MACHINE = MachineConfig()


def _layer(kind="conv", stride=1, dilation=1, **dims):
    return (
        dict.fromkeys(DIMENSIONS, 1)
        | dims
        | {"type": kind, "stride": stride, "dilation": dilation, "name": "tiny"}
    )


LAYERS = {
    "strided": _layer(K=4, C=3, P=3, Q=4, R=3, S=3, stride=2),
    "depthwise": _layer("depthwise", K=6, P=4, Q=3, R=3, S=2),
    "dense": _layer(K=7, C=10),
    "dilated": _layer(K=2, C=2, P=6, R=3, dilation=2),
    "batch": _layer(N=2, K=5, C=2, P=2, Q=2),
    "pointwise": _layer(K=9, C=8, P=4, Q=4),
    "rectangular": _layer(K=3, C=4, P=5, Q=2, R=2, S=3, stride=(1, 2), dilation=(2, 1)),
}
ARRAYS = [
    {"pe_x": x, "pe_y": y, "rf_words": words, "dataflow": dataflow}
    for (x, y), words, dataflow in itertools.product([(2, 3), (4, 2), (9, 8)], [8, 32], DATAFLOWS)
]


def _accelerator(array: dict) -> Accelerator:
    return Accelerator(array["pe_x"], array["pe_y"], 2 * array["rf_words"], array["dataflow"])


@pytest.fixture(scope="module")
def twins():
    """Return the best mapping by plain enumeration, of every layer on every array."""
    return {
        name: [reference_mappings.best_mapping(layer, array) for array in ARRAYS]
        for name, layer in LAYERS.items()
    }


def _key(levels) -> tuple:
    """Return a mapping as a value: order matters at DRAM and the buffer, not in the file."""
    loops = [
        [tuple(tuple(loop) for loop in level[k]) for k in ("temporal", "spatial_x", "spatial_y")]
        for level in levels
    ]
    return (
        loops[0][0],
        loops[1][0],
        frozenset(loops[1][1]),
        # K may stand twice on Y in neither form, so a set is enough.
        frozenset(loops[1][2]),
        frozenset(loops[2][0]),
    )


def _enumerated(layer: dict, array: dict) -> list[tuple]:
    """Return the product's mappings of a layer on one array as values."""
    found = []
    record = plain.to_layer(layer)
    order = RULES[array["dataflow"]].global_buffer_order
    for spread in spreads(record, array["dataflow"], [array["pe_x"]], [array["pe_y"]]):
        if not (spread.pe_x and spread.pe_y):
            continue
        table = enumerate_mappings(
            record,
            array["dataflow"],
            spread,
            max_rf_words=array["rf_words"],
            global_buffer_words=MACHINE.global_buffer_words,
        )
        for m in range(len(table)):
            dram = [DIMENSIONS[d] for d in table.dram_dim[:, m]]
            levels = [
                (dram, table.dram_bound[:, m], [1] * 7, [1] * 7),
                (order, table.global_buffer[:, m], spread.x, spread.y),
                (DIMENSIONS, table.register_file[:, m], [1] * 7, [1] * 7),
            ]
            found.append(
                _key(
                    {
                        "temporal": _live(names, bounds),
                        "spatial_x": _live(DIMENSIONS, x),
                        "spatial_y": _live(DIMENSIONS, y),
                    }
                    for names, bounds, x, y in levels
                )
            )
    return found


def _live(names, bounds):
    return [(n, int(b)) for n, b in zip(names, bounds, strict=True) if b > 1]


@pytest.mark.parametrize("name", LAYERS)
def test_the_mapspace_is_that_of_plain_enumeration(name):
    for array in ARRAYS:
        expected = [_key(m) for _, m in reference_mappings.strip_mappings(LAYERS[name], array)]
        found = _enumerated(LAYERS[name], array)
        assert len(found) == len(set(found)), array  # none twice
        assert set(found) == set(expected), array


def test_the_best_of_all_accelerators_is_that_of_plain_enumeration(twins):
    accelerators = Accelerators(
        *(np.asarray([a[k] for a in ARRAYS]) for k in ("pe_x", "pe_y")),
        rf_bytes=np.asarray([2 * a["rf_words"] for a in ARRAYS]),
        dataflow=np.asarray([DATAFLOWS.index(a["dataflow"]) for a in ARRAYS]),
    )
    workload = to_workload([plain.to_layer(layer) for layer in LAYERS.values()])
    found = LoopNestCostModel(MACHINE)(workload, accelerators)
    num_infeasible = 0
    for row, name in enumerate(LAYERS):
        for column, twin in enumerate(twins[name]):
            cycles = found.latency_cycles[row, column]
            energy = found.energy_pj[row, column]
            if twin is None:
                num_infeasible += 1
                assert np.isinf(cycles) and np.isinf(energy)
            else:
                edp = twin["cycles"] * twin["energy_pj"]
                assert cycles * energy == pytest.approx(edp, rel=1e-5), (name, ARRAYS[column])
    assert num_infeasible > 0


@pytest.mark.parametrize("objective", ["edp", "latency", "energy"])
def test_the_best_mapping_costs_what_it_says(objective):
    machine = MachineConfig(mapping_objective=objective)
    layer, metric = LAYERS["strided"], {"latency": "cycles", "energy": "energy_pj"}
    for array in ARRAYS[::5]:
        twin = reference_mappings.best_mapping(layer, array, objective)
        if twin is None:
            continue
        best = best_mapping(plain.to_layer(layer), _accelerator(array), machine)
        padded = plain.to_plain(best.padded_layer)
        levels = [level | {"keeps": reference.OPERANDS} for level in mapping_to_json(best.mapping)]
        again = reference.cost(padded, levels, array, reference.walk_counts(padded, levels))
        assert best.cycles == again["cycles"]
        assert best.energy_pj == pytest.approx(again["energy_pj"], rel=1e-5)
        if objective in metric:
            key = metric[objective]
            assert again[key] == pytest.approx(twin[key], rel=1e-6)


def test_a_layer_that_cannot_run_is_said_so():
    tall = plain.to_layer(_layer(K=4, C=4, P=4, Q=4, R=3, S=9))
    with pytest.raises(UserError, match="cannot run on 8x8 row_stationary") as error:
        best_mapping(tall, Accelerator(8, 8, 64, "row_stationary"), MACHINE)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no mapping fits"):  # three words need six bytes
        best_mapping(
            plain.to_layer(LAYERS["dense"]),
            Accelerator(8, 8, 4, "weight_stationary"),
            MachineConfig(),
        )


def test_sizes_that_do_not_divide_the_array():
    """Strips over ragged edges: the padded layer is costed, the MACs stay the layer's (A1)."""
    layer = plain.to_layer(_layer(K=10, C=5))
    for side, strip in ((4, 4), (5, 5), (3, 3)):
        (spread,) = spreads(layer, "weight_stationary", [1], [side])
        assert dict(zip(DIMENSIONS, spread.y, strict=True))["K"] == strip
        padded = dict(zip(DIMENSIONS, spread.padded_dims, strict=True))
        assert padded["K"] == strip * -(-10 // side)
    best = best_mapping(layer, Accelerator(1, 4, 64, "weight_stationary"), MACHINE)
    assert layer.macs == 50
    assert best.padded_layer.macs == 60
    compute = np.asarray(
        plain.count(
            [(plain.to_plain(best.padded_layer), mapping_to_json(best.mapping))]
        ).compute_cycles
    )
    assert compute[0] == 15
    assert layer.macs / (compute[0] * 4) == pytest.approx(50 / 60)


def test_depthwise_is_slow_on_weight_stationary():
    """It uses one column of the array: slower than its MAC count suggests."""
    kinds = [
        _layer(K=32, C=32, P=16, Q=16, R=3, S=3),
        _layer("depthwise", K=32, P=16, Q=16, R=3, S=3),
    ]
    layers = [plain.to_layer(layer) for layer in kinds]
    one = Accelerators(*(np.asarray([v]) for v in (16, 16, 64, 0)))
    cycles = LoopNestCostModel(MACHINE)(to_workload(layers), one).latency_cycles[:, 0]
    per_mac = cycles / [layer.macs for layer in layers]
    assert per_mac[1] > 8 * per_mac[0]


def test_padding_rows_cost_nothing_and_change_nothing():
    layers = [plain.to_layer(LAYERS[name]) for name in ("dense", "depthwise")]
    workload = to_workload(layers)
    padded = type(workload)(*(np.concatenate([f, np.zeros_like(f)]) for f in workload))
    accelerators = Accelerators(*(np.asarray(v) for v in ([4, 8], [8, 8], [64, 32], [1, 2])))
    model = LoopNestCostModel(MACHINE)
    short, long = model(workload, accelerators), model(padded, accelerators)
    np.testing.assert_array_equal(long.latency_cycles[:2], short.latency_cycles)
    np.testing.assert_array_equal(long.energy_pj[:2], short.energy_pj)
    assert not long.latency_cycles[2:].any() and not long.energy_pj[2:].any()


def test_many_accelerators_at_once_equal_one_at_a_time():
    layer = plain.to_layer(LAYERS["rectangular"])
    accelerators = [_accelerator(a) for a in ARRAYS[::2]]
    rows = [(a.pe_x, a.pe_y, a.rf_bytes, DATAFLOWS.index(a.dataflow)) for a in accelerators]
    together = LoopNestCostModel(MACHINE)(
        to_workload([layer]), Accelerators(*np.asarray(rows, np.int32).T)
    )
    for column, accelerator in enumerate(accelerators):
        if np.isinf(together.latency_cycles[0, column]):
            with pytest.raises(UserError):
                best_mapping(layer, accelerator, MACHINE)
        else:
            best = best_mapping(layer, accelerator, MACHINE)
            assert (best.cycles, best.energy_pj) == (
                together.latency_cycles[0, column],
                together.energy_pj[0, column],
            )


def test_a_split_file_has_no_mapspace():
    with pytest.raises(UserError, match="rf_mode"):
        LoopNestCostModel(MachineConfig(rf_mode="split"))


def test_the_fingerprint_follows_what_the_numbers_depend_on():
    base = LoopNestCostModel(MACHINE).fingerprint
    assert LoopNestCostModel(MachineConfig()).fingerprint == base
    for change in (
        {"clock_mhz": 100.0},
        {"dram_words_per_cycle": None},
        {"technology": "accelergy_2020_45nm"},
        {"mapping_objective": "energy"},
        {"accounting": "timeloop_2025"},
    ):
        assert LoopNestCostModel(MachineConfig(**change)).fingerprint != base, change
