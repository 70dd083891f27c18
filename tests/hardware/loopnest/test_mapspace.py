"""The mapspaces hold what plain enumeration of the rules finds, no more and no less."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dance_tf.hardware.loopnest.mapspace import (
    CHANNEL_LOOPS,
    PLANE_LOOPS,
    dram_orders,
    shortage,
    tile_words,
    tilings,
)
from dance_tf.hardware.loopnest.spreads import MAPSPACE_RULES, RULES, spreads
from dance_tf.structs import DATAFLOWS, DIMENSIONS, LOOPS
from tests import reference, reference_mappings
from tests.hardware import plain
from tests.strategies import FAMILIES, examples, small_layers

SIDES = ((1, 1), (2, 3), (4, 2), (5, 7), (9, 8))


@pytest.fixture(scope="module")
def layers():
    """Return plain layers of all kinds."""
    return [layer for family in FAMILIES for layer in examples(small_layers(family), 8)]


def _factors(layer: dict, factors: dict) -> tuple[int, ...]:
    """Return factors in the order of LOOPS; what a depthwise layer calls K is its G."""
    if layer["type"] == "depthwise":
        factors = factors | {"K": 1, "G": factors.get("K", 1)}
    return tuple(factors.get(d, 1) for d in LOOPS)


@pytest.mark.parametrize("rule", MAPSPACE_RULES)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_array_is_used_in_every_way_that_the_rule_allows(layers, dataflow, rule):
    for layer in layers:
        sides_x, sides_y = (sorted(set(sides)) for sides in zip(*SIDES, strict=True))
        together = spreads(plain.to_layer(layer), dataflow, sides_x, sides_y, rule)
        for pe_x, pe_y in SIDES:
            array = {"pe_x": pe_x, "pe_y": pe_y, "dataflow": dataflow}
            expected = [
                tuple(_factors(layer, factors) for factors in (x, y, padded))
                for padded, x, y in reference_mappings.spreads(layer, array, rule)
            ]
            alone = spreads(plain.to_layer(layer), dataflow, [pe_x], [pe_y], rule)
            for found in (
                [s for s in alone if s.pe_x and s.pe_y],
                [s for s in together if pe_x in s.pe_x and pe_y in s.pe_y],
            ):
                ways = [(s.x, s.y, s.padded_bounds) for s in found]
                assert len(ways) == len(set(ways)), (layer, array)  # none twice
                assert set(ways) == set(expected), (layer, array)


@pytest.mark.parametrize("rf_mode", ["shared", "split"])
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_every_tiling_that_fits_is_there(layers, dataflow, rf_mode):
    for layer, (rf_words, buffer_words) in zip(
        layers, itertools.cycle([(32, 65536), (8, 200), (4, 40)]), strict=False
    ):
        array = {"pe_x": 4, "pe_y": 3, "dataflow": dataflow, "rf_mode": rf_mode}
        expected: dict = {}
        for padded, mapping in reference_mappings.mappings(layer, array | {"rf_words": rf_words}):
            if reference_mappings.buffer_words_of(padded, mapping) <= buffer_words:
                way = tuple(_product(layer, mapping, [1], k) for k in ("spatial_x", "spatial_y"))
                levels = ([*range(2, len(mapping))], [1], [0])
                tiling = tuple(_product(layer, mapping, at, "temporal") for at in levels)
                expected.setdefault(way, set()).add(tiling)
        record = plain.to_layer(layer)
        for spread in spreads(record, dataflow, [4], [3]):
            if spread.pe_x and spread.pe_y:
                found = tilings(
                    record,
                    dataflow,
                    spread.temporal_bounds,
                    "".join(LOOPS),
                    rf_words=rf_words,
                    global_buffer_words=buffer_words,
                    is_split=rf_mode == "split",
                )
                # The tilings are those that fit one PE; all PEs share the buffer.
                used = (np.asarray(spread.x) * spread.y)[:, None]
                in_buffer = sum(tile_words(record, found[0] * found[1] * used))
                found = found[:, :, in_buffer <= buffer_words]
                ways = [tuple(map(tuple, found[:, :, i].tolist())) for i in range(found.shape[2])]
                assert len(ways) == len(set(ways)), layer
                assert set(ways) == expected.pop((spread.x, spread.y), set()), layer
        assert not expected, layer


def _product(layer: dict, mapping: list, levels: list[int], kind: str) -> tuple[int, ...]:
    factors = dict.fromkeys(LOOPS, 1)
    for dim, bound in itertools.chain.from_iterable(mapping[at][kind] for at in levels):
        factors[dim] *= bound
    return _factors(layer, factors)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_no_order_at_dram_is_better_than_those_tried(layers, dataflow):
    """Whatever a component weighs: each order is as dear, in every total, as one of ours."""
    num_compared = 0
    for layer in layers[::3]:
        name_of = {"G": "K", "K": ""} if layer["type"] == "depthwise" else {}
        orders = {
            "".join(name_of.get(d, d) for d in order)
            for order in dram_orders(plain.to_layer(layer), dataflow)
        }
        array = {"pe_x": 2, "pe_y": 3, "dataflow": dataflow, "rf_words": 16}
        by_tiling: dict = {}
        for padded, mapping in reference_mappings.mappings(layer, array):
            outer = "".join(d for d, _ in mapping[0]["temporal"])
            if len(outer) > 1:
                key = str((sorted(mapping[0]["temporal"]), mapping[1:]))
                counts = reference.closed_counts(padded, mapping)
                found = reference.tally(padded, mapping, dataflow, counts)
                totals = [found[k] for k in ("rf_accesses", "buffer_reads", "buffer_writes")]
                totals += [found["dram"], round(sum(found["hops"].values()), 6)]
                by_tiling.setdefault(key, {})[outer] = np.asarray(totals)
        for by_order in by_tiling.values():
            outer = next(iter(by_order))
            tried = {"".join(d for d in order if d in outer) for order in orders}
            for totals in by_order.values():
                num_compared += 1
                assert any((by_order[order] <= totals).all() for order in tried), layer
    assert num_compared > 50


def test_each_rule_names_every_loop_once():
    for dataflow, rule in RULES.items():
        assert sorted(rule.global_buffer_order) == sorted(LOOPS), dataflow
        assert set(rule.dram) <= set(LOOPS) and set(rule.register_file) <= set(LOOPS)


def test_strips_over_ragged_edges():
    """The fewest strips, all of one width; the layer is padded to whole strips."""
    layer = plain.to_layer(
        dict.fromkeys(DIMENSIONS, 1) | {"K": 10, "C": 5, "type": "conv", "stride": 1, "dilation": 1}
    )
    for side, strip in ((4, 4), (5, 5), (3, 3), (10, 10), (12, 10)):
        (spread,) = spreads(layer, "weight_stationary", [1], [side])
        assert dict(zip(LOOPS, spread.y, strict=True))["K"] == strip
        assert dict(zip(LOOPS, spread.padded_bounds, strict=True))["K"] == strip * -(-10 // side)
        (perfect,) = spreads(layer, "weight_stationary", [1], [side], "timeloop")
        assert perfect.padded_bounds == layer.loop_bounds


def _is_there_a_mapping(layer, dataflow, side, rf_words, global_buffer_words, is_split):
    """Look at every pair of tilings of the channels and of the other loops."""
    capacities = {"rf_words": rf_words, "global_buffer_words": global_buffer_words}
    names = [LOOPS.index(name) for name in CHANNEL_LOOPS + PLANE_LOOPS]
    for spread in spreads(layer, dataflow, [side], [side]):
        parts = [
            tilings(layer, dataflow, spread.temporal_bounds, loops, **capacities, is_split=is_split)
            for loops in (CHANNEL_LOOPS, PLANE_LOOPS)
        ]
        num = [part.shape[2] for part in parts]
        factors = np.ones((3, 8, *num), np.int64)
        factors[:, names[:3]] = parts[0][..., None]
        factors[:, names[3:]] = parts[1][:, :, None]
        spatial = np.asarray(spread.x) * spread.y
        in_file = np.asarray(tile_words(layer, factors[0]))
        in_buffer = sum(tile_words(layer, factors[0] * factors[1] * spatial[:, None, None]))
        most = in_file.max(axis=0) if is_split else in_file.sum(axis=0)
        if ((most <= rf_words) & (in_buffer <= global_buffer_words)).any():
            return True
    return False


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_something_is_short_exactly_where_no_mapping_fits(layers, dataflow, is_split):
    seen = set()
    for layer in map(plain.to_layer, layers[::7]):
        for side, rf_words, buffer_words in itertools.product((1, 2, 4), (2, 3), (9, 40, 10_000)):
            found = shortage(
                layer,
                dataflow,
                [side],
                [side],
                rf_words=rf_words,
                global_buffer_words=buffer_words,
                is_split=is_split,
            )
            sizes = (rf_words, buffer_words, is_split)
            assert (found is None) == _is_there_a_mapping(layer, dataflow, side, *sizes)
            seen.add(found and found.partition(" holds")[0].partition(" = ")[0])
    assert {None, "the global buffer"} <= seen
    assert ("the register file" in seen) != is_split  # three files hold a word of each operand
    assert ("S" in seen) == (dataflow == "row_stationary")
