"""The batched cost model against the walking twin, the reference runs and its own identities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.loopnest import cost_model
from dance_tf.hardware.loopnest.access_counts import count_accesses
from dance_tf.hardware.loopnest.mapping import MappingBatch, mapping_from_json, to_batch
from tests import reference, reference_mappings
from tests.conformance import cases as conformance
from tests.hardware import plain
from tests.strategies import examples, mapped_layers

MODES = ("shared", "split")
MACHINE = MachineConfig()
TIMELOOP = MachineConfig(technology="accelergy_2020_45nm", dram_words_per_cycle=None)


@pytest.fixture(scope="module")
def drawn():
    """Return some 300 (layer, mapping) pairs for either kind of register file."""
    return {mode: examples(mapped_layers(mode), 300) for mode in MODES}


@pytest.fixture(scope="module")
def counted(drawn):
    """Return the product's counts of `drawn`, in one call each."""
    return {mode: plain.count(drawn[mode], is_split=mode == "split") for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("accounting", ["timeloop_2020", "timeloop_2025"])
def test_counts_equal_walking_the_loops(drawn, counted, mode, accounting):
    is_split = mode == "split"
    counts = counted[mode]
    if accounting != "timeloop_2020":
        counts = plain.count(drawn[mode], is_split=is_split, accounting=accounting)
    for pair, found in zip(drawn[mode], plain.plain_counts(counts, is_split), strict=True):
        assert found == reference.walk_counts(*pair, accounting), pair


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_counts_equal_walking_the_loops_of_thousands(mode):
    pairs = examples(mapped_layers(mode), 6000, is_steady=False)
    found = plain.plain_counts(plain.count(pairs, is_split=mode == "split"), mode == "split")
    assert len(pairs) > 3000
    for pair, one in zip(pairs, found, strict=True):
        assert one == reference.walk_counts(*pair), pair


def test_every_way_to_slide():
    pairs = list(reference_mappings.sliding_mappings())
    found = plain.plain_counts(plain.count(pairs), False)
    for pair, one in zip(pairs, found, strict=True):
        assert one == reference.walk_counts(*pair), pair


@pytest.mark.parametrize("technology", ["cacti_45nm", "accelergy_2020_45nm"])
@pytest.mark.parametrize("dram_words_per_cycle", [6.4, 1.0, None])
def test_cost_equals_the_twin(drawn, counted, technology, dram_words_per_cycle):
    rng = np.random.default_rng(2)
    machine = MachineConfig(technology=technology, dram_words_per_cycle=dram_words_per_cycle)
    arrays = [
        {
            "pe_x": 64,
            "pe_y": 64,
            "rf_words": int(rng.choice(list(reference.RF_PJ))),
            "dataflow": str(rng.choice(["weight_stationary", "row_stationary"])),
        }
        for _ in drawn["shared"]
    ]
    found = plain.cost(counted["shared"], arrays, machine)
    for m, (pair, array) in enumerate(zip(drawn["shared"], arrays, strict=True)):
        expected = reference.cost(
            *pair,
            array,
            reference.closed_counts(*pair),
            technology_name=technology,
            dram_words_per_cycle=dram_words_per_cycle,
        )
        assert found.cycles[m] == expected["cycles"], pair
        terms = dict(zip(cost_model.BOUNDS, found.cycle_terms[:, m], strict=True))
        assert terms[expected["bound_by"]] == expected["cycles"]
        energy = {
            "mac": found.mac_pj[m],
            "register_file": found.register_file_pj[m],
            "global_buffer": found.global_buffer_pj[m],
            "dram": found.dram_pj[m],
            "wires": found.wire_pj[:, m].sum(),
        }
        assert energy == pytest.approx(expected["energy"], rel=1e-12), pair
        assert found.energy_pj[m] == pytest.approx(sum(energy.values()), rel=1e-12)


@pytest.mark.parametrize(
    ("mode", "accounting"),
    [("shared", "timeloop_2020"), ("shared", "timeloop_2025"), ("split", "timeloop_2020")],
)
def test_reference_runs(mode, accounting):
    cases = [
        c
        for c in conformance.shipped_cases()
        if (c.array["rf_mode"], c.accounting) == (mode, accounting)
    ]
    assert cases
    is_split = mode == "split"
    pairs = [(c.layer, c.mapping) for c in cases]
    counts = plain.count(pairs, is_split=is_split, accounting=accounting)
    machine = dataclasses.replace(TIMELOOP, accounting=accounting, rf_mode=mode)
    found = plain.cost(counts, [c.array for c in cases], machine)
    for m, (case, one) in enumerate(zip(cases, plain.plain_counts(counts, is_split), strict=True)):
        assert one == case.true_counts, case.name
        assert int(counts.compute_cycles[m]) == case.cost["compute_cycles"]
        area = cost_model.accelerator_area_um2(
            *(case.array[k] for k in ("pe_x", "pe_y", "rf_words")), machine
        )
        assert area == pytest.approx(case.cost["area_um2"], rel=1e-9)
        if not case.is_extrapolated:
            assert found.cycles[m] == pytest.approx(case.cost["cycles"], rel=1e-3)
            assert found.energy_pj[m] == pytest.approx(case.cost["energy_pj"], rel=1e-3)


def test_wires_of_the_reference_runs():
    cases = [
        c
        for c in conformance.shipped_cases()
        if "wire_energy_pj" in c.cost and not c.is_extrapolated and c.array["rf_mode"] == "shared"
    ]
    assert len({c.array["dataflow"] for c in cases}) >= 3
    counts = plain.count([(c.layer, c.mapping) for c in cases])
    found = plain.cost(counts, [c.array for c in cases], MACHINE).wire_pj.sum(axis=0)
    assert found == pytest.approx([c.cost["wire_energy_pj"] for c in cases], rel=1e-7)


def test_batch_equals_single_calls(drawn, counted):
    together = plain.plain_counts(counted["shared"], False)
    for pair, found in list(zip(drawn["shared"], together, strict=True))[::60]:
        assert plain.plain_counts(plain.count([pair]), False) == [found]


def _count_and_cost(batch, num_dram_slots):
    counts = count_accesses(batch, num_dram_slots=num_dram_slots)
    rows = tf.shape(batch.stride)[1]
    found = cost_model.mapping_cost(
        counts,
        rf_words=np.float64(16),
        is_row_stationary=tf.zeros([rows], tf.bool),
        machine=MACHINE,
    )
    return tuple(counts) + tuple(found)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_eager_equals_compiled(drawn, jit_compile):
    pairs = drawn["shared"][:40]
    batch, num_dram_slots = to_batch(
        [mapping_from_json(m) for _, m in pairs], [plain.to_layer(layer) for layer, _ in pairs]
    )
    batch = MappingBatch(*(tf.constant(field) for field in batch))
    compiled = tf.function(_count_and_cost, jit_compile=jit_compile)
    pairs = zip(
        _count_and_cost(batch, num_dram_slots), compiled(batch, num_dram_slots), strict=True
    )
    for eager, graph in pairs:
        np.testing.assert_allclose(np.asarray(eager), np.asarray(graph), rtol=1e-12)


def test_float32_is_exact_where_counts_are_small(drawn, counted):
    exact = counted["shared"]
    rounded = plain.count(drawn["shared"], dtype=tf.float32)
    for name, value in rounded._asdict().items():
        assert value.dtype == tf.float32
        np.testing.assert_allclose(value, getattr(exact, name), rtol=1e-6, err_msg=name)


def test_latency_is_at_least_the_work_over_the_array(counted):
    counts = counted["shared"]
    terms = np.asarray(cost_model.cycle_terms(counts, MACHINE))
    pes = np.asarray(counts.used_x * counts.used_y)
    assert (terms.max(axis=0) * pes >= np.asarray(counts.macs)).all()


def test_each_fact_is_fetched_at_least_once(counted):
    counts = counted["shared"]
    buffer = np.asarray(counts.global_buffer_tile_words)
    fetched = np.asarray(counts.dram_reads)[:2]
    assert (fetched >= buffer[:2]).all()
    results = np.asarray(counts.dram_tile_words)[2]
    written = np.asarray(counts.dram_updates)[2]
    assert (written >= results).all()
    # What is read back is what was written beyond the final results.
    np.testing.assert_array_equal(np.asarray(counts.dram_reads)[2], written - results)


def test_mac_energy_does_not_depend_on_the_array():
    """A table's MAC figure is what is charged, whatever the number of PEs."""
    layer = {"type": "conv", "stride": 1, "dilation": 1}
    layer |= {"N": 1, "K": 4, "C": 3, "P": 8, "Q": 8, "R": 3, "S": 3}
    empty = {"temporal": [], "spatial_x": [], "spatial_y": []}

    def mapping(on_x, on_y):
        used = dict(on_x + on_y)
        rest = [[d, layer[d] // used.get(d, 1)] for d in "KCPQRS"]
        return [
            {"level": "dram"} | empty,
            {"level": "global_buffer", "temporal": rest, "spatial_x": on_x, "spatial_y": on_y},
            {"level": "register_file"} | empty,
        ]

    pairs = [(layer, mapping([["P", 2]], [["S", 3]])), (layer, mapping([["P", 8]], [["S", 3]]))]
    arrays = [{"rf_words": 16, "dataflow": "row_stationary"}] * 2
    counts = plain.count(pairs)
    found = plain.cost(counts, arrays, TIMELOOP)
    assert list(found.mac_pj) == [6912 * 2.2] * 2
    assert list(np.asarray(counts.compute_cycles)) == [6912 / 6, 6912 / 24]
    areas = cost_model.accelerator_area_um2([6, 12], [7, 14], [16, 16], TIMELOOP)
    assert areas[1] - areas[0] == pytest.approx((168 - 42) * (414.68 + 1239.5))


def test_a_mapping_of_another_layer_is_refused(drawn):
    layer, mapping = drawn["shared"][0]
    record = plain.to_layer(layer | {"N": layer["N"] * 5})
    with pytest.raises(UserError, match="factors of N multiply to"):
        to_batch([mapping_from_json(mapping)], [record])


def test_shared_and_split_cannot_be_mixed(drawn):
    pairs = [drawn["shared"][0], drawn["split"][0]]
    with pytest.raises(UserError, match="cannot be mixed"):
        plain.count(pairs)
