"""Exact costs of a run's network: by layer, on all accelerators, and beside its rivals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dance_tf.files import Json
from dance_tf.hardware.accelerator import AcceleratorSpace, accelerator_to_json
from dance_tf.hardware.cost_table import CostTable
from dance_tf.hardware.layer_costs import area_by_component_um2
from dance_tf.hardware.objective import Objective
from dance_tf.hardware.oracle import pareto_front, rank_accelerators
from dance_tf.report.run_folder import Run
from dance_tf.structs import METRICS, Layer

__all__ = ["ExactParts", "Pair", "cheapest_network", "exact_parts", "largest_network"]

# Accelerators that are listed as the best ones for the network.
_TOP = 5


@dataclasses.dataclass(frozen=True)
class Pair:
    """Network on an accelerator, and its cost."""

    ops: tuple[str, ...]
    accelerator: dict[str, Json]
    metrics: tuple[float, float, float]  # in the order of METRICS
    objective: float


@dataclasses.dataclass(frozen=True)
class ExactParts:
    """Exact costs of the network of a run.

    Attributes:
        layers: Layers of the network, in the order in which they run.
        entries: Cost of each layer; see layer_costs.describe_layer.
        area_um2: Area by component; None where areas are measured.
        metrics: Metrics of the network on every accelerator, float64 [A, 3] in the order of
            METRICS; infinite where it cannot run.
        accelerators: All A accelerators.
        row: Row of the run's accelerator.
        best: Best accelerators within the limits, best first: fields, METRICS and `objective`.
        num_accelerators: Number of accelerators that run the network.
        front: Rows of the accelerators that no other beats in all three metrics, by rising
            latency.
        median_objective, worst_objective: Over the accelerators that run the network.
        cheapest: Network and accelerator of the least objective in the whole space; None
            where it could not be proven.
        largest: Network of the most MACs on its best accelerator, whatever the limits; None
            where it runs on none.
        is_of_the_run: True if the costs are those that the run went by.
    """

    layers: tuple[Layer, ...]
    entries: list[dict[str, Json]]
    area_um2: dict[str, float] | None
    metrics: np.ndarray
    accelerators: AcceleratorSpace
    row: int
    best: list[dict[str, Json]]
    num_accelerators: int
    front: np.ndarray
    median_objective: float
    worst_objective: float
    cheapest: Pair | None
    largest: Pair | None
    is_of_the_run: bool


def exact_parts(run: Run, table: CostTable) -> ExactParts:
    """Look up a run's network in the table of its space.

    Raises:
        UserError: If the network cannot run on the accelerator.
    """
    layers = run.space.layers(run.architecture)
    row = table.accelerators.encode(run.accelerator)
    entries = table.layer_costs(layers, row)
    metrics = table.metrics_of(run.space.to_indices(run.architecture)[None]).numpy()[0]
    runs = metrics[np.isfinite(metrics).all(axis=1)]
    values = np.asarray(run.objective(runs, run.reference))
    rows = rank_accelerators(metrics, run.objective, run.reference, run.limits, _TOP).tolist()
    best = [
        {
            **accelerator_to_json(table.accelerators.decode(each)),
            **dict(zip(METRICS, metrics[each].tolist(), strict=True)),
            "objective": float(run.objective(metrics[each], run.reference)),
        }
        for each in rows
    ]
    is_measured = run.config.hardware.measured_csv is not None
    return ExactParts(
        layers=layers,
        entries=entries,
        area_um2=None if is_measured else area_by_component_um2(run.accelerator, table.machine),
        metrics=metrics.astype(np.float64),
        accelerators=table.accelerators,
        row=row,
        best=best,
        num_accelerators=len(runs),
        front=pareto_front(metrics),
        median_objective=float(np.median(values)),
        worst_objective=float(values.max()),
        cheapest=cheapest_network(table, run.objective, run.reference),
        largest=largest_network(table, run.objective, run.reference),
        is_of_the_run=run.info.get("cost_table_sha256", table.content_hash) == table.content_hash,
    )


def cheapest_network(
    table: CostTable, objective: Objective, reference: Sequence[float]
) -> Pair | None:
    """Return the cheapest network of a space and its accelerator, or None without a proof.

    On one accelerator, the sum of each block's least latency and the sum of its least
    energy bound what any network costs, as the objective falls in no metric. Where one op
    of each block has both, a network reaches the bound. If this holds on the accelerator
    of the lowest bound, that network is the cheapest of all; no enumeration is needed.
    """
    is_op = np.asarray(table.space.op_mask)[..., None]
    latency = np.where(is_op, np.asarray(table.latency_ms, np.float64), np.inf)
    energy = np.where(is_op, np.asarray(table.energy_mj, np.float64), np.inf)
    least = np.stack(
        [
            table.fixed_latency_ms + latency.min(axis=1).sum(axis=0),
            table.fixed_energy_mj + energy.min(axis=1).sum(axis=0),
            np.asarray(table.area_mm2, np.float64),
        ],
        axis=1,
    )  # [A, 3]
    rows = np.flatnonzero(np.isfinite(least).all(axis=1))
    if not len(rows):
        return None
    row = int(rows[rank_accelerators(least[rows], objective, reference)[0]])
    at = (latency[..., row], energy[..., row])  # [D, O] each
    has_both = (at[0] == at[0].min(axis=1)[:, None]) & (at[1] == at[1].min(axis=1)[:, None])
    if not has_both.any(axis=1).all():
        return None
    return Pair(
        ops=tuple(table.space.op_names[op] for op in has_both.argmax(axis=1)),
        accelerator=accelerator_to_json(table.accelerators.decode(row)),
        metrics=tuple(least[row].tolist()),
        objective=float(objective(least[row], reference)),
    )


def largest_network(
    table: CostTable, objective: Objective, reference: Sequence[float]
) -> Pair | None:
    """Return the network of the most MACs on its best accelerator, None where it runs on none."""
    space = table.space

    def largest(block: int) -> str:
        ops = [op for op, is_op in zip(space.op_names, space.op_mask[block], strict=True) if is_op]
        return max(ops, key=lambda op: sum(layer.macs for layer in space.op_layers(block, op)))

    ops = tuple(map(largest, range(space.num_blocks)))
    indices = np.asarray([[space.op_names.index(op) for op in ops]], np.int32)
    metrics = table.metrics_of(indices).numpy()[0]
    if not np.isfinite(metrics).all(axis=1).any():
        return None
    row = int(rank_accelerators(metrics, objective, reference)[0])
    return Pair(
        ops=ops,
        accelerator=accelerator_to_json(table.accelerators.decode(row)),
        metrics=tuple(metrics[row].tolist()),
        objective=float(objective(metrics[row], reference)),
    )
