"""Between the plain data of the twins and the product's records."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dance_tf.config import MachineConfig
from dance_tf.hardware.loopnest.access_counts import AccessCounts, count_accesses
from dance_tf.hardware.loopnest.cost_model import mapping_cost
from dance_tf.hardware.loopnest.fills import OPERANDS
from dance_tf.hardware.loopnest.mapping import mapping_from_json, to_batch
from dance_tf.structs import DIMENSIONS, Layer
from tests import reference

FILE_OF = {"weights": "weight_spad", "inputs": "input_spad", "outputs": "psum_spad"}


def to_layer(layer: dict) -> Layer:
    """Return a plain layer as the product's record."""
    return Layer(
        name=layer.get("name", "layer"),
        kind=layer["type"],
        stride=reference.pair(layer["stride"]),
        dilation=reference.pair(layer["dilation"]),
        groups=layer.get("groups", 1),
        **{d: layer[d] for d in DIMENSIONS},
    )


def to_plain(layer: Layer) -> dict:
    """Return a product's layer as plain data."""
    sizes = dict(zip(DIMENSIONS, layer.dims, strict=True))
    steps = {"stride": layer.stride, "dilation": layer.dilation}
    return {"type": layer.kind, "groups": layer.groups} | steps | sizes


def with_keeps(levels: list[dict]) -> list[dict]:
    """Return the levels of a mapping's JSON as the twins take them."""
    kept = {file: [operand] for operand, file in FILE_OF.items()}
    return [level | {"keeps": kept.get(level["level"], list(OPERANDS))} for level in levels]


def count(pairs, *, accounting="timeloop_2020", is_split=False, **options) -> AccessCounts:
    """Count the accesses of (layer, mapping) pairs of plain data in one call."""
    layers = [to_layer(layer) for layer, _ in pairs]
    batch, num_dram_slots = to_batch([mapping_from_json(m) for _, m in pairs], layers)
    return count_accesses(
        batch, num_dram_slots=num_dram_slots, is_split=is_split, accounting=accounting, **options
    )


def plain_counts(counts: AccessCounts, is_split: bool) -> list[dict]:
    """Return counts of M mappings as M dicts counts[level][operand], as the twins have them."""
    arrays = {name: np.asarray(value) for name, value in counts._asdict().items()}
    result = []
    for m in range(arrays["macs"].size):
        one: dict = {}
        for o, operand in enumerate(OPERANDS):
            file = FILE_OF[operand] if is_split else "register_file"
            for level, prefix in (("dram", "dram"), ("global_buffer",) * 2, (file, "rf")):
                one.setdefault(level, {})[operand] = {
                    kind: arrays[f"{prefix}_{kind}"][o, m] if f"{prefix}_{kind}" in arrays else 0
                    for kind in ("reads", "fills", "updates", "tile_words")
                }
        result.append(one)
    return result


def cost(counts: AccessCounts, arrays: list[dict], machine: MachineConfig):
    """Return the product's cost of mappings on the arrays of plain data, as numpy."""
    found = mapping_cost(
        counts,
        rf_words=np.asarray([a["rf_words"] for a in arrays]),
        is_row_stationary=np.asarray([a["dataflow"] == "row_stationary" for a in arrays]),
        machine=machine,
    )
    return tf.nest.map_structure(np.asarray, found)
