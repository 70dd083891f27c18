"""Cost of layers on accelerators, with its parts where the cost model has them.

By any cost model on many accelerators, and by the best mappings of the loop-nest model on
one: there all figures are float64, so that counts of large layers are exact. Leakage is in
no technology table and in no figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.files import Json
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.hardware.loopnest import cost_model
from dance_tf.hardware.loopnest.cost_model import BOUNDS, ENERGY_COMPONENTS
from dance_tf.hardware.loopnest.mapper import BestMapping, DetailedCost, best_mappings
from dance_tf.hardware.loopnest.mapping import format_loop_nest, mapping_to_json
from dance_tf.protocols import CostModel
from dance_tf.structs import DIMENSIONS, Accelerator, Accelerators, Layer

__all__ = [
    "LayerCosts",
    "area_by_component_um2",
    "break_down",
    "check_layers",
    "cost_layers",
    "describe_layer",
    "has_details",
    "layer_to_json",
]


class LayerCosts(NamedTuple):
    """Costs of L layers on A accelerators; infinite where a layer cannot run.

    The last three are None where the cost model tells no more than totals.
    """

    latency_cycles: np.ndarray  # [L, A]
    energy_pj: np.ndarray  # [L, A]
    compute_cycles: np.ndarray | None = None  # [L, A]; without waiting for buffer and DRAM
    energy_by_component_pj: np.ndarray | None = None  # [L, 5, A], by ENERGY_COMPONENTS
    bound_by: np.ndarray | None = None  # int8 [L, A], index into BOUNDS; -1: cannot run


@runtime_checkable
class _DetailedModel(Protocol):
    """A cost model that tells costs in parts, as the loop-nest model does."""

    def detailed(self, layers: Sequence[Layer], accelerators: Accelerators) -> DetailedCost: ...


@runtime_checkable
class _CheckingModel(Protocol):
    """A cost model that says all that it lacks, as a measured table does."""

    def check(self, layers: Sequence[Layer], accelerators: Accelerators) -> None: ...


def has_details(model: CostModel) -> bool:
    """Return whether a cost model has `detailed`, as the loop-nest model does."""
    return isinstance(model, _DetailedModel)


def check_layers(model: CostModel, layers: Sequence[Layer], accelerators: Accelerators) -> None:
    """Let a cost model that has `check` say all that it lacks, before any layer is costed.

    Raises:
        UserError: If it lacks something, as a measured table may.
    """
    if isinstance(model, _CheckingModel):
        model.check(layers, accelerators)


def cost_layers(
    model: CostModel, layers: Sequence[Layer], accelerators: Accelerators
) -> tuple[LayerCosts, np.ndarray]:
    """Ask a cost model for some layers, and check what it says.

    Args:
        model: The cost model.
        layers: L layers.
        accelerators: Fields [A].
    Returns:
        Costs in float64, and the area of the accelerators, um2, float64 [A].
    Raises:
        UserError: If the model's numbers are of another shape, negative or none at all, or
            if a layer runs nowhere.
    """
    shape = (len(layers), len(np.asarray(accelerators.pe_x)))

    def checked(what: str, values: np.ndarray) -> np.ndarray:
        return _checked(what, np.asarray(values, np.float64), layers, shape)

    if isinstance(model, _DetailedModel):
        detailed = model.detailed(layers, accelerators)
        latency = checked("latency_cycles", detailed.latency_cycles)
        can_run = np.isfinite(latency)
        parts = np.moveaxis(np.asarray(detailed.energy_by_component_pj, np.float64), 0, 1)
        parts = np.where(can_run[:, None], parts, np.inf)
        costs = LayerCosts(
            latency_cycles=latency,
            energy_pj=checked("energy_pj", parts.sum(axis=1)),
            compute_cycles=checked(
                "compute_cycles", np.where(can_run, detailed.compute_cycles, np.inf)
            ),
            energy_by_component_pj=parts,
            bound_by=np.where(can_run, detailed.bound_by, -1).astype(np.int8),
        )
        area_um2 = detailed.area_um2
    else:
        cost = model(layers, accelerators)
        costs = LayerCosts(
            latency_cycles=checked("latency_cycles", cost.latency_cycles),
            energy_pj=checked("energy_pj", cost.energy_pj),
        )
        area_um2 = cost.area_um2
    can_run = np.isfinite(costs.latency_cycles) & np.isfinite(costs.energy_pj)
    for layer, anywhere in zip(layers, can_run.any(axis=1), strict=True):
        if not anywhere:
            why = getattr(model, "why_infeasible", lambda *_: "")(layer, accelerators)
            raise UserError(
                f"layer {layer.name!r} {layer.dims} can run on no accelerator{why and ': '}{why}"
            )
    area = np.asarray(area_um2, np.float64)
    if area.shape != shape[1:]:
        raise UserError(f"the cost model gives area_um2 of shape {area.shape}, not {shape[1:]}")
    if not (np.isfinite(area).all() and (area > 0).all()):
        raise UserError(f"the cost model gives an accelerator an area of {area.min()} um2")
    return costs, area


def _checked(
    what: str, values: np.ndarray, layers: Sequence[Layer], shape: tuple[int, int]
) -> np.ndarray:
    """Return values [L, A] if they are costs: infinite is allowed, negative and NaN are not."""
    if values.shape != shape:
        raise UserError(f"the cost model gives {what} of shape {values.shape}, not {shape}")
    is_bad = ~(values >= 0)
    if is_bad.any():
        row, column = np.argwhere(is_bad)[0]
        raise UserError(
            f"layer {layers[row].name!r} {layers[row].dims}: the cost model gives"
            f" {what} = {values[row, column]} on accelerator {column}"
        )
    return values


def describe_layer(
    layer: Layer,
    costs: LayerCosts,
    position: tuple[int, int],
    accelerator: Accelerator,
    machine: MachineConfig,
) -> dict[str, Json]:
    """Return the cost of one layer on one accelerator as plain JSON data.

    `utilisation` is MACs / (PEs x cycles), waiting included; `array_utilisation` leaves
    the waiting out. Both count the MACs of the real layer, not those of its padding.

    Args:
        layer: The layer.
        costs: Costs that hold it.
        position: Its row and the accelerator's column in `costs`.
        accelerator: The accelerator.
        machine: For its clock.
    Raises:
        UserError: If the layer cannot run there.
    """
    cycles, energy_pj = (float(field[position]) for field in costs[:2])
    name = (
        f"{accelerator.pe_x}x{accelerator.pe_y} {accelerator.dataflow}"
        f" with {accelerator.rf_bytes} B"
    )
    if not np.isfinite([cycles, energy_pj]).all():
        raise UserError(f"layer {layer.name!r} cannot run on {name}")
    num_pes = accelerator.num_pes
    entry: dict[str, Json] = {
        "name": layer.name,
        "kind": layer.kind,
        "macs": layer.macs,
        "latency_cycles": cycles,
        "latency_ms": cycles / machine.cycles_per_ms,
        "energy_pj": energy_pj,
        "utilisation": _share(layer.macs, num_pes * cycles),
    }
    if (
        costs.compute_cycles is not None
        and costs.energy_by_component_pj is not None
        and costs.bound_by is not None
    ):
        row, column = position
        compute_cycles = float(costs.compute_cycles[position])
        parts = costs.energy_by_component_pj[row, :, column].tolist()
        entry |= {
            "compute_cycles": compute_cycles,
            "array_utilisation": _share(layer.macs, num_pes * compute_cycles),
            "energy_by_component_pj": dict(zip(ENERGY_COMPONENTS, parts, strict=True)),
            "bound_by": BOUNDS[int(costs.bound_by[position])],
        }
    return entry


def break_down(
    layers: Sequence[Layer], accelerator: Accelerator, machine: MachineConfig
) -> dict[str, Json]:
    """Return the cost of layers that run one after the other, in parts, as plain JSON data.

    `utilisation` is the share of the array's multiply-accumulates that is used, waiting
    for buffer and DRAM included: MACs / (PEs x cycles); `array_utilisation` leaves the
    waiting out. Both count the MACs of the real layer, not those of its padding.

    Args:
        layers: At least one layer.
        accelerator: Accelerator that runs them.
        machine: Memories, clock and technology.
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
    energy = {
        name: sum(entry["energy_by_component_pj"][name] for entry in entries)
        for name in entries[0]["energy_by_component_pj"]
    }
    # A network is bound by the resource that most of its cycles wait for.
    waits = {
        name: sum(e["latency_cycles"] for e in entries if e["bound_by"] == name) for name in BOUNDS
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
        "utilisation": _share(macs, accelerator.num_pes * cycles),
        "array_utilisation": _share(macs, accelerator.num_pes * compute_cycles),
        "bound_by": max(waits, key=waits.__getitem__),
        "cycles_bound_by": waits,
        "layers": entries,
    }


def area_by_component_um2(accelerator: Accelerator, machine: MachineConfig) -> dict[str, float]:
    """Return the area of the accelerator's parts, um2."""
    words = np.asarray(machine.rf_words(accelerator.rf_bytes))
    buffer_um2, files_um2, mac_um2 = cost_model.part_areas_um2(words, machine)
    return {
        "global_buffer": buffer_um2,
        "register_files": accelerator.num_pes * float(files_um2),
        "macs": accelerator.num_pes * mac_um2,
    }


def layer_to_json(layer: Layer) -> dict[str, Json]:
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
) -> list[dict[str, Json]]:
    """Return cost and mapping of every layer."""
    entries = []
    for layer, best in zip(layers, found, strict=True):
        cycles = int(best.cost.cycles)
        terms = [int(term) for term in best.cost.cycle_terms]
        compute_cycles = terms[BOUNDS.index("compute")]
        parts = [float(part) for part in best.cost.energy_parts_pj]
        energy = dict(zip(ENERGY_COMPONENTS, parts, strict=True))
        entries.append(
            {
                "layer": layer_to_json(layer),
                "padded_layer": layer_to_json(best.padded_layer),
                "macs": layer.macs,
                "latency_cycles": cycles,
                "compute_cycles": compute_cycles,
                "latency_ms": cycles / machine.cycles_per_ms,
                "energy_pj": sum(energy.values()),
                "energy_by_component_pj": energy,
                "utilisation": _share(layer.macs, accelerator.num_pes * cycles),
                "array_utilisation": _share(layer.macs, accelerator.num_pes * compute_cycles),
                "bound_by": BOUNDS[int(np.argmax(terms))],
                "cycles_by_resource": dict(zip(BOUNDS, terms, strict=True)),
                "mapping": mapping_to_json(best.mapping),
                "loop_nest": format_loop_nest(best.mapping),
            }
        )
    return entries


def _share(used: float, available: float) -> float | None:
    """Return used / available; None of what a measured table says takes no time."""
    return used / available if available else None
