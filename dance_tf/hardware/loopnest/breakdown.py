"""Where cycles, energy and area of layers on one accelerator go, under their best mappings.

All figures are computed anew in float64 from the best mapping, so that counts of large
layers are exact. Leakage is in no technology table and in no figure here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.hardware.loopnest import cost_model
from dance_tf.hardware.loopnest.mapper import BestMapping, best_mappings
from dance_tf.hardware.loopnest.mapping import format_loop_nest, mapping_to_json
from dance_tf.hardware.technology import technology_of
from dance_tf.structs import DIMENSIONS, Accelerator, Layer

__all__ = ["area_by_component_um2", "break_down", "layer_to_json"]


def break_down(
    layers: Sequence[Layer], accelerator: Accelerator, machine: MachineConfig
) -> dict[str, Any]:
    """Return the cost of layers that run one after the other, in parts, as plain JSON data.

    `utilisation` is the share of the array's multiply-accumulates that is used, waiting
    for buffer and DRAM included: MACs / (PEs x cycles); `array_utilisation` leaves the
    waiting out. Both count the MACs of the real layer, not those of its padding.

    Args:
        layers: At least one layer.
        accelerator: The accelerator.
        machine: What it shares with others.
    Returns:
        Totals, and under `layers` the same of every layer with its mapping.
    Raises:
        UserError: If a layer cannot run on the accelerator.
    """
    found = best_mappings(layers, accelerator, machine)
    entries = _entries(layers, found, accelerator, machine)
    area = area_by_component_um2(accelerator, machine)
    cycles = sum(entry["latency_cycles"] for entry in entries)
    compute_cycles = sum(entry["compute_cycles"] for entry in entries)
    macs = sum(layer.macs for layer in layers)
    num_pes = accelerator.pe_x * accelerator.pe_y
    energy = {
        name: sum(entry["energy_by_component_pj"][name] for entry in entries)
        for name in entries[0]["energy_by_component_pj"]
    }
    # What bounds a network is what its longest share of cycles waits for.
    waits = {
        name: sum(e["latency_cycles"] for e in entries if e["bound_by"] == name)
        for name in cost_model.BOUNDS
    }
    return {
        "accelerator": accelerator_to_json(accelerator),
        "technology": machine.technology,
        "macs": macs,
        "latency_cycles": cycles,
        "compute_cycles": compute_cycles,
        "latency_ms": cycles / machine.cycles_per_ms,
        "energy_pj": sum(energy.values()),
        "energy_by_component_pj": energy,
        "area_um2": sum(area.values()),
        "area_by_component_um2": area,
        "utilisation": macs / (num_pes * cycles),
        "array_utilisation": macs / (num_pes * compute_cycles),
        "bound_by": max(waits, key=waits.__getitem__),
        "cycles_bound_by": waits,
        "layers": entries,
    }


def area_by_component_um2(accelerator: Accelerator, machine: MachineConfig) -> dict[str, float]:
    """Return the area of the accelerator's parts, um2."""
    tech = technology_of(machine)
    num_pes = accelerator.pe_x * accelerator.pe_y
    files = 3 if machine.rf_mode == "split" else 1
    file_um2 = float(tech.register_file_um2(machine.rf_words(accelerator.rf_bytes)))
    return {
        "global_buffer": float(tech.global_buffer_area_um2(machine.global_buffer_kib)),
        "register_files": num_pes * files * file_um2,
        "macs": num_pes * tech.mac_um2.value,
    }


def layer_to_json(layer: Layer) -> dict[str, Any]:
    """Return a layer as plain JSON data."""
    return {
        "name": layer.name,
        "kind": layer.kind,
        **dict(zip(DIMENSIONS, layer.dims, strict=True)),
        "stride": list(layer.stride),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
    }


def _entries(
    layers: Sequence[Layer],
    found: Sequence[BestMapping],
    accelerator: Accelerator,
    machine: MachineConfig,
) -> list[dict[str, Any]]:
    """Return cost and mapping of every layer."""
    cost = cost_model.cost_of_mappings(
        [b.mapping for b in found],
        [b.padded_layer for b in found],
        rf_words=np.full(len(layers), machine.rf_words(accelerator.rf_bytes)),
        is_row_stationary=np.full(len(layers), accelerator.dataflow == "row_stationary"),
        machine=machine,
    )
    num_pes = accelerator.pe_x * accelerator.pe_y
    entries = []
    for m, (layer, best) in enumerate(zip(layers, found, strict=True)):
        cycles = int(cost.cycles[m])
        terms = [int(term) for term in cost.cycle_terms[:, m]]
        compute_cycles = terms[cost_model.BOUNDS.index("compute")]
        parts = [float(part[m]) for part in cost.energy_parts_pj]
        energy = dict(zip(cost_model.ENERGY_COMPONENTS, parts, strict=True))
        entries.append(
            {
                "layer": layer_to_json(layer),
                "padded_layer": layer_to_json(
                    dataclasses.replace(best.padded_layer, name=layer.name)
                ),
                "macs": layer.macs,
                "latency_cycles": cycles,
                "compute_cycles": compute_cycles,
                "latency_ms": cycles / machine.cycles_per_ms,
                "energy_pj": sum(energy.values()),
                "energy_by_component_pj": energy,
                "utilisation": layer.macs / (num_pes * cycles),
                "array_utilisation": layer.macs / (num_pes * compute_cycles),
                "bound_by": cost_model.BOUNDS[int(np.argmax(terms))],
                "cycles_by_resource": dict(zip(cost_model.BOUNDS, terms, strict=True)),
                "mapping": mapping_to_json(best.mapping),
                "loop_nest": format_loop_nest(best.mapping),
            }
        )
    return entries
