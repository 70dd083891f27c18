"""Cost of single layers on many accelerators, with its parts where the cost model has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.layers import to_workload
from dance_tf.hardware.loopnest.cost_model import BOUNDS, ENERGY_COMPONENTS
from dance_tf.protocols import CostModel
from dance_tf.structs import Accelerator, Accelerators, Layer

__all__ = ["LayerCosts", "check_layers", "cost_layers", "describe_layer", "has_details"]


class LayerCosts(NamedTuple):
    """Costs of L layers on A accelerators; infinite where a layer cannot run.

    The last three are None where the cost model tells no more than totals.
    """

    latency_cycles: Any  # [L, A]
    energy_pj: Any  # [L, A]
    compute_cycles: Any = None  # [L, A]; without waiting for buffer and DRAM
    energy_by_component_pj: Any = None  # [L, 5, A], in the order of ENERGY_COMPONENTS
    bound_by: Any = None  # int8 [L, A], index into BOUNDS; -1 where a layer cannot run


def has_details(model: CostModel) -> bool:
    """Return whether a cost model has `detailed`, as the loop-nest model does."""
    return callable(getattr(model, "detailed", None))


def check_layers(model: CostModel, layers: Sequence[Layer], accelerators: Accelerators) -> None:
    """Let a cost model that has `check` say all that it lacks, before any layer is costed.

    Raises:
        UserError: If it lacks something, as a measured table may.
    """
    if callable(getattr(model, "check", None)):
        model.check(to_workload(layers), accelerators)  # type: ignore[attr-defined]


def cost_layers(
    model: CostModel, layers: Sequence[Layer], accelerators: Accelerators
) -> tuple[LayerCosts, np.ndarray]:
    """Ask a cost model for some layers, and check what it says.

    Args:
        model: Any protocols.CostModel.
        layers: L layers.
        accelerators: Fields [A].
    Returns:
        Costs in float64, and the area of the accelerators, um2, float64 [A].
    Raises:
        UserError: If the model's numbers are of another shape, negative or none at all, or
            if a layer runs nowhere.
    """
    workload = to_workload(layers)
    shape = (len(layers), len(np.asarray(accelerators.pe_x)))

    def checked(what: str, values: Any) -> np.ndarray:
        return _checked(what, np.asarray(values, np.float64), layers, shape)

    if has_details(model):
        detailed = model.detailed(workload, accelerators)  # type: ignore[attr-defined]
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
        cost = model(workload, accelerators)
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
) -> dict[str, Any]:
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
    num_pes = accelerator.pe_x * accelerator.pe_y
    entry: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "macs": layer.macs,
        "latency_cycles": cycles,
        "latency_ms": cycles / machine.cycles_per_ms,
        "energy_pj": energy_pj,
        "utilisation": _share(layer.macs, num_pes * cycles),
    }
    if costs.bound_by is not None:
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


def _share(used: float, available: float) -> float | None:
    """Return used / available; None of what a measured table says takes no time."""
    return used / available if available else None
